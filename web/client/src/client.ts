/**
 * The client of a Rowcast service: lists that stay current.
 *
 *     const tasks = rowcast("/").live("tasks", { filter: { completed: false }, ordering: "-created_at" });
 *     tasks.subscribe(rows => render(rows));
 */

import { Connection, type Transport } from "./connection";
import { type Credentials, type Fetch, Http, Refused } from "./http";
import { Live, type LiveOptions } from "./live";
import type { ListInfo, Row } from "./order";
import { SharedTransport, serveTabs } from "./shared";

export { type Credentials, type Problem, Refused } from "./http";
export { type Key, type Listener, Live, type LiveOptions, type Status } from "./live";
export type { Row } from "./order";

export interface Options {
  /** A token of `rowcast token create`, or a JSON Web Token. */
  token?: string;
  /** The value of `Authorization`, asked for before each request; `expired` is true after the last one was refused. */
  credentials?: Credentials;
  /** The address of this file, of the page's own origin, for the connection that all tabs share; `false` for one for each tab. */
  worker?: string | URL | false;
  fetch?: Fetch;
}

/** The rows of a resource in the `paths` that `openapi-typescript` makes of `/openapi.json`. */
export type RowOf<Paths, Resource extends string> = `/${Resource}/` extends keyof Paths
  ? Paths[`/${Resource}/`] extends { get: { responses: { 200: { content: { "application/json": infer Body } } } } }
    ? Body extends { results: (infer Found)[] }
      ? Found
      : Body extends (infer Found)[]
        ? Found
        : Row
    : Row
  : Row;

export interface Client<Paths> {
  /** A list that stays current. */
  live<Resource extends string>(resource: Resource, options?: LiveOptions): Live<RowOf<Paths, Resource> & Row>;
}

/** A client of the service at an address. `Paths` are the types of its OpenAPI document. */
export function rowcast<Paths = unknown>(base: string | URL = "/", options: Options = {}): Client<Paths> {
  const here = typeof location === "undefined" ? undefined : location.href;
  const address = new URL(base, here).href.replace(/\/?$/, "/");
  const { token } = options;
  const authorization = token === undefined ? null : token.includes(" ") ? token : `Bearer ${token}`;
  const http = new Http(address, options.credentials ?? (() => authorization), options.fetch ?? ((...args) => fetch(...args)));
  const descriptions = new Map<string, Promise<ListInfo>>();

  function describe(resource: string): Promise<ListInfo> {
    let found = descriptions.get(resource);
    if (!found) {
      found = http.send("OPTIONS", `${resource}/`).then(async response => {
        const list = (await response.json()).list as ListInfo | undefined;
        if (!list) throw new Refused({ status: 404, title: "Not Found", detail: `There is no list of ${resource}.` });
        return list;
      });
      found.catch(() => descriptions.delete(resource));
      descriptions.set(resource, found);
    }
    return found;
  }

  let transport: Transport | null = null;
  return {
    live: (resource, query = {}) => {
      transport ??= transportFor(options.worker, http, options.fetch !== undefined);
      return new Live(http, transport, resource, query, describe) as any;
    },
  };
}

function transportFor(worker: string | URL | false | undefined, http: Http, ownFetch: boolean): Transport {
  if (worker === undefined && typeof location !== "undefined" && !ownFetch) {
    const own = new URL(import.meta.url);
    if (own.origin === location.origin && own.pathname.endsWith("/client.js")) worker = own;
  }
  if (!worker || typeof SharedWorker === "undefined") return new Connection(http);
  return new SharedTransport(worker, http);
}

declare const SharedWorkerGlobalScope: (new () => unknown) | undefined;
if (typeof SharedWorkerGlobalScope !== "undefined" && globalThis instanceof SharedWorkerGlobalScope) serveTabs(globalThis as any);
