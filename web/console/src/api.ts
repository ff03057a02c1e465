/** What the console asks the service: its rows, by the client, and what OPTIONS and the OpenAPI document say. */

import { type Client, Refused, parse, rowcast } from "@rowcast/client";
import { bodyFields } from "./schema";

export { Refused, parse, stringify } from "@rowcast/client";

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
  /** The resource of which the values are keys. */
  to?: string;
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
export interface Action {
  id: string;
  resource: string;
  path: string;
  method: string;
  label: string;
  description: string;
  detail: boolean;
  /** Whether the request has a body, and its fields if the document says which. */
  body: boolean;
  fields: Fields | null;
}

export interface Answer<T> {
  data: T;
  headers: Headers;
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
    client.close();
    client = connect();
    labels.clear();
    for (const each of listeners) each();
  },
  subscribe(listener: () => void): () => void {
    listeners.add(listener);
    return () => void listeners.delete(listener);
  },
};

/** The address of the service, which may be below a path of its host. */
export const base = new URL("..", import.meta.url);

function connect(): Client<unknown> {
  const { token } = session;
  return rowcast(base, { credentials: () => (token ? `Bearer ${token}` : null), bigint: true, pauseHidden: true });
}

/** The client with the credentials of now. */
export let client = connect();

/** Send a request. A response that is not a success is thrown as `Refused`; so is that there is none, with the status 0. */
export async function request<T = any>(
  method: string,
  path: string,
  options: { body?: unknown; headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<Answer<T>> {
  try {
    const response = await client.send(method, path, options);
    const text = await response.text();
    const json = /\bjson\b/.test(response.headers.get("Content-Type") ?? "");
    return { data: text ? (json ? parse(text) : text) : null, headers: response.headers };
  } catch (error) {
    if (error instanceof Refused || options.signal?.aborted) throw error;
    throw new Refused({ title: "No answer", status: 0, code: "unreachable", detail: "The service cannot be reached." });
  }
}

/** What OPTIONS says of an address. */
export function describe(path: string): Promise<Description> {
  return client.describe(path) as Promise<Description>;
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
        found.actions.push({
          id: operation.operationId,
          resource,
          path,
          method: method.toUpperCase(),
          label: operation.summary ?? last,
          description: operation.description ?? "",
          detail: Boolean(detail),
          body: operation.requestBody !== undefined,
          fields: bodyFields(operation.requestBody?.content?.["application/json"]?.schema, data),
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

/** The label of the row that relations name by this key; the key itself if it cannot be read. */
export function labelByKey(resource: string, key: unknown): Promise<string> {
  const name = `${resource}/${String(key)}`;
  let found = labels.get(name);
  if (!found) labels.set(name, (found = rowByKey(resource, key).then(([row, list]) => (row ? labelOf(row, list) : String(key)), () => String(key))));
  return found;
}

async function rowByKey(resource: string, key: unknown): Promise<[Row | undefined, ListInfo | undefined]> {
  const { list } = await describe(`/${resource}/`);
  const [column] = list?.primary_key ?? [];
  if (!list || list.key.join() === list.primary_key.join()) {
    return [(await request<Row>("GET", `/${resource}/${encodeURIComponent(String(key))}/`)).data, list];
  }
  if (!column || !list.filters[column]?.lookups.includes("exact")) return [undefined, list]; // addresses have another field
  const { data } = await request<any>("GET", `/${resource}/?${new URLSearchParams({ [column]: String(key) })}`);
  return [(Array.isArray(data) ? data : data.results)[0], list];
}

/** Read labels again: a row has changed. */
export function forgetLabels(resource: string): void {
  for (const name of labels.keys()) if (name.startsWith(`${resource}/`)) labels.delete(name);
}
