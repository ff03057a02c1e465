/** Requests to the service: JSON, credentials, problem documents, and what OPTIONS and the OpenAPI document say. */

export interface Field {
  type: string;
  of?: string;
  required: boolean;
  read_only: boolean;
  write_only: boolean;
  null: boolean;
  label: string;
  help_text?: string;
  choices?: unknown[];
  default?: unknown;
  to?: string;
  min?: unknown;
  max?: unknown;
  min_length?: number;
  max_length?: number;
  pattern?: string;
  zone?: string;
}
export type Fields = Record<string, Field>;
export type Row = Record<string, unknown>;

export interface Filter {
  type: string;
  lookups: string[];
  choices?: unknown[];
}
export interface ListInfo {
  /** What addresses name a row by, and what events do. */
  key: string[];
  primary_key: string[];
  fields: Fields;
  filters: Record<string, Filter>;
  search: boolean;
  ordering: string[];
  default_ordering: string[];
  ordered_by_choices: string[];
  pagination: "page" | "offset" | "cursor" | "none" | "other";
  max_page_size: number;
}
export interface Description {
  name: string;
  description: string;
  methods: string[];
  renders: string[];
  list?: ListInfo;
  soft_delete?: unknown;
  actions: Record<string, Fields>;
}
export interface Problem {
  title: string;
  status: number;
  detail: string;
  code: string;
  type: string;
  request_id?: string;
  errors?: Record<string, unknown>;
}
export interface Action {
  id: string;
  resource: string;
  path: string;
  method: string;
  label: string;
  description: string;
  detail: boolean;
  body: boolean;
}

/** A response that is not a success. */
export class Failure extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

export interface Answer<T> {
  data: T;
  headers: Headers;
  status: number;
}

const TOKEN = "rowcast.token";
const listeners = new Set<() => void>();

/** The credentials that somebody has entered. They stay in this tab and are gone with it. */
export const session = {
  get token(): string | null {
    return sessionStorage.getItem(TOKEN);
  },
  set(token: string | null): void {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
    descriptions.clear();
    labels.clear();
    for (const each of listeners) each();
  },
  subscribe(listener: () => void): () => void {
    listeners.add(listener);
    return () => void listeners.delete(listener);
  },
};

export function authorization(): Record<string, string> {
  return session.token ? { Authorization: `Bearer ${session.token}` } : {};
}

type RawJSON = { rawJSON?: (text: string) => unknown };

/** JSON whose large integers keep their digits, as BigInt. */
export function parse(text: string): any {
  const revive = (_: string, value: unknown, context?: { source?: string }) =>
    typeof value === "number" && context?.source && /^-?\d{16,}$/.test(context.source) && !Number.isSafeInteger(value)
      ? BigInt(context.source)
      : value;
  return JSON.parse(text, revive as (key: string, value: unknown) => unknown);
}

export function stringify(value: unknown, indent?: number): string {
  const raw = (JSON as RawJSON).rawJSON;
  return JSON.stringify(value, (_, each) => (typeof each === "bigint" ? (raw ? raw(String(each)) : Number(each)) : each), indent);
}

/** Send a request. A response that is not a success is thrown as a Failure. */
export async function request<T = any>(
  method: string,
  path: string,
  options: { body?: unknown; headers?: Record<string, string>; raw?: BodyInit; signal?: AbortSignal } = {},
): Promise<Answer<T>> {
  const headers: Record<string, string> = { Accept: "application/json", ...authorization(), ...options.headers };
  let body: BodyInit | undefined = options.raw;
  if (options.body !== undefined) {
    body = stringify(options.body);
    headers["Content-Type"] = "application/json";
  }
  let response: Response;
  try {
    response = await fetch(path, { method, headers, body: body ?? null, signal: options.signal ?? null, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failure({ title: "No answer", status: 0, code: "unreachable", type: "", detail: "The service cannot be reached." });
  }
  const text = await response.text();
  let data: any = null;
  try {
    data = text ? parse(text) : null;
  } catch {
    data = text;
  }
  if (!response.ok) {
    const problem: Problem = data && typeof data === "object" && "detail" in data
      ? data
      : { title: response.statusText, status: response.status, code: "", type: "", detail: String(text).slice(0, 300) || response.statusText };
    throw new Failure(problem);
  }
  return { data, headers: response.headers, status: response.status };
}

const descriptions = new Map<string, Promise<Description>>();

/** What OPTIONS says of an address; asked for once. */
export function describe(path: string): Promise<Description> {
  let found = descriptions.get(path);
  if (!found) {
    found = request<Description>("OPTIONS", path).then(answer => answer.data);
    found.catch(() => descriptions.delete(path));
    descriptions.set(path, found);
  }
  return found;
}

/** The names of the resources: those addresses that have a list. */
export async function resources(): Promise<string[]> {
  return Object.keys((await request<Record<string, string>>("GET", "/")).data);
}

export interface Abilities {
  /** Such as "PATCH /tasks/{}/". */
  operations: Set<string>;
  actions: Action[];
  imports: Set<string>;
  streams: Set<string>;
}

/** What the caller may do beside the standard actions, by the OpenAPI document. */
export async function abilities(): Promise<Abilities> {
  const { data } = await request<any>("GET", "/openapi.json?as=me");
  const found: Abilities = { operations: new Set(), actions: [], imports: new Set(), streams: new Set() };
  for (const [path, item] of Object.entries<any>(data.paths)) {
    for (const method of Object.keys(item)) found.operations.add(`${method.toUpperCase()} ${path.replace(/\{\w+\}/, "{}")}`);
    const match = /^\/([^/{}]+)\/(\{\w+\}\/)?([^{}]+)\/$/.exec(path);
    if (!match) continue;
    const [, resource, detail, last] = match as unknown as [string, string, string | undefined, string];
    for (const [method, operation] of Object.entries<any>(item)) {
      if (method === "parameters" || method === "options" || resource === "health") continue;
      if (operation.responses?.["200"]?.content?.["text/event-stream"]) {
        if (last === "stream" && !detail) found.streams.add(resource);
      } else if (last === "import" && !detail && operation.requestBody?.content?.["text/csv"]) found.imports.add(resource);
      else if (last !== "aggregate") {
        const schema = operation.requestBody?.content?.["application/json"]?.schema;
        found.actions.push({
          id: operation.operationId,
          resource,
          path,
          method: method.toUpperCase(),
          label: operation.summary ?? last,
          description: operation.description ?? "",
          detail: Boolean(detail),
          body: Boolean(schema?.properties),
        });
      }
    }
  }
  return found;
}

/** The key of a row as addresses have it. */
export function keyOf(row: Row, key: string[]): string {
  return key.map(name => encodeURIComponent(String(row[name]))).join(",");
}

const labels = new Map<string, Promise<string>>();

/** A row in a few words: the first of its usual names, or its first short string. */
export function labelOf(row: Row, info: ListInfo | undefined): string {
  for (const name of ["title", "name", "label", "username", "email", "slug", "code"]) {
    if (typeof row[name] === "string" && row[name]) return row[name] as string;
  }
  const text = Object.entries(info?.fields ?? {}).find(
    ([name, field]) => ["string", "slug", "email", "citext", "text"].includes(field.type) && typeof row[name] === "string" && row[name],
  );
  if (text) return String(row[text[0]]).slice(0, 80);
  return info ? info.key.map(name => String(row[name])).join(", ") : String(row["id"] ?? "");
}

/** The label of the row with this key; the key itself if it cannot be read. */
export function labelByKey(resource: string, key: unknown): Promise<string> {
  const path = `/${resource}/${encodeURIComponent(String(key))}/`;
  let found = labels.get(path);
  if (!found) {
    found = Promise.all([describe(`/${resource}/`), request<Row>("GET", path)])
      .then(([about, answer]) => labelOf(answer.data, about.list))
      .catch(() => String(key));
    labels.set(path, found);
  }
  return found;
}

export function forgetLabel(resource: string, key: unknown): void {
  labels.delete(`/${resource}/${encodeURIComponent(String(key))}/`);
}
