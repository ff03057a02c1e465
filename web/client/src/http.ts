/** Requests with credentials, and their failures. */

/** The value of `Authorization`, or nothing. `expired` is true if the last one was refused. */
export type Credentials = (expired: boolean) => string | null | undefined | Promise<string | null | undefined>;
export type Fetch = typeof fetch;

/** A problem document (RFC 9457) of the service. */
export interface Problem {
  status: number;
  title: string;
  detail?: string;
  code?: string;
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
  accept?: string;
  body?: unknown;
  signal?: AbortSignal;
}

/** Sends requests below an address. */
export class Http {
  constructor(
    readonly base: string,
    readonly credentials: Credentials,
    readonly fetch: Fetch,
  ) {}

  /** The response, if it is a success. Credentials that are refused are renewed, once. */
  async send(method: string, path: string, { accept = "application/json", body, signal }: Send = {}): Promise<Response> {
    for (let expired = false; ; expired = true) {
      const authorization = await this.credentials(expired);
      const headers: Record<string, string> = { Accept: accept };
      if (authorization) headers.Authorization = authorization;
      if (body !== undefined) headers["Content-Type"] = "application/json";
      const response = await this.fetch(this.base + path, {
        method,
        headers,
        cache: "no-store",
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(signal ? { signal } : {}),
      });
      if (response.ok) return response;
      if (response.status === 401 && !expired && authorization) {
        await response.body?.cancel().catch(() => undefined);
        continue;
      }
      throw new Refused(await problemOf(response));
    }
  }
}

async function problemOf(response: Response): Promise<Problem> {
  const found: unknown = await response.json().catch(() => null);
  const known = found !== null && typeof found === "object" ? (found as Partial<Problem>) : {};
  return { ...known, title: known.title ?? (response.statusText || "Error"), status: response.status };
}
