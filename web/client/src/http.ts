/** Requests with credentials, and their failures. */

import { parse, stringify } from "./json";
import { Seen } from "./seen";

/** The value of `Authorization`, or nothing. `expired` is true if the last one was refused. */
export type Credentials = (expired: boolean) => string | null | undefined | Promise<string | null | undefined>;
export type Fetch = typeof fetch;

/** A problem document (RFC 9457) of the service. */
export interface Problem {
  status: number;
  title: string;
  detail?: string;
  code?: string;
  /** The address of a page about this kind of problem. */
  type?: string;
  errors?: Record<string, unknown>;
}

/** A request that the service has refused. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(readonly problem: Problem) {
    super(problem.detail ?? problem.title);
  }
  get status(): number {
    return this.problem.status;
  }
  /** Whether the same request may succeed later. */
  get passes(): boolean {
    return this.status >= 500 || this.status === 408 || this.status === 425 || this.status === 429;
  }
}

export interface Send {
  /** The media type of the response; JSON by default. */
  accept?: string;
  /** A `Blob`, a `FormData` or bytes are sent as they are, anything else as JSON. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Sends requests below an address. */
export class Http {
  /** What reads name, so that none shows an older state. */
  readonly seen = new Seen();
  private readonly ownOrigin: boolean;

  constructor(
    readonly base: string,
    readonly credentials: Credentials,
    readonly fetch: Fetch,
    /** Whether integers that a number cannot hold are read as BigInt. */
    readonly bigint = false,
  ) {
    this.ownOrigin = typeof location === "undefined" || new URL(base).origin === location.origin;
  }

  /** The response, if it is a success. Credentials that are refused are renewed, once. */
  async send(method: string, path: string, { accept = "application/json", body, headers, signal }: Send = {}): Promise<Response> {
    const raw = body instanceof Blob || body instanceof FormData || body instanceof ArrayBuffer || ArrayBuffer.isView(body);
    const streams = accept === "text/event-stream";
    for (let expired = false; ; expired = true) {
      const authorization = await this.credentials(expired);
      const naming = streams ? null : this.seen.begin(method, this.ownOrigin || Boolean(authorization) || method === "QUERY");
      const response = await this.fetch(this.base + path.replace(/^\//, ""), {
        method,
        headers: {
          Accept: accept,
          ...(authorization ? { Authorization: authorization } : {}),
          ...(body === undefined || raw ? {} : { "Content-Type": "application/json" }),
          ...naming?.headers,
          ...headers,
        },
        cache: "no-cache", // the browser's own is asked about; "no-store" would keep the service from using memory and replicas
        ...(body === undefined ? {} : { body: raw ? (body as BodyInit) : stringify(body) }),
        ...(signal ? { signal } : {}),
      });
      if (response.ok) {
        naming?.answered(response.headers);
        return response;
      }
      if (response.status === 401 && !expired && authorization) {
        await response.body?.cancel().catch(() => undefined);
        continue;
      }
      throw new Refused(await problemOf(response));
    }
  }

  /** The value of a JSON text of the service. */
  parse(text: string): any {
    return this.bigint ? parse(text) : JSON.parse(text);
  }

  /** The body of a response. */
  async read(response: Response): Promise<any> {
    return this.parse(await response.text());
  }
}

async function problemOf(response: Response): Promise<Problem> {
  const found: unknown = await response.json().catch(() => null);
  const known = found !== null && typeof found === "object" ? (found as Partial<Problem>) : {};
  return { ...known, title: known.title ?? (response.statusText || "Error"), status: response.status };
}
