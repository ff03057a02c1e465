/**
 * The client of a Rowcast service: lists that stay current.
 *
 *     const tasks = rowcast("/").live("tasks", { filter: { completed: false }, ordering: "-created_at" });
 *     tasks.subscribe(rows => render(rows));
 */

import { Connections, type Message, type Transport } from "./connection";
import { type Credentials, type Fetch, Http, Refused, type Send } from "./http";
import { Live, type LiveOptions } from "./live";
import type { ListInfo, Row } from "./order";
import { PausingTransport } from "./pausing";
import { type Selection, streamParams } from "./selection";
import { SharedTransport, serveTabs } from "./shared";

export type { Message, State } from "./connection";
export { type Credentials, type Problem, Refused, type Send } from "./http";
export { parse, stringify } from "./json";
export { type Change, type Key, type Listener, Live, type LiveOptions, type Status } from "./live";
export type { ListInfo, Row } from "./order";
export type { Selection } from "./selection";

export interface Options {
  /** A token of `rowcast token create`, or a JSON Web Token. */
  token?: string;
  /** The value of `Authorization`, asked for before each request; `expired` is true after the last one was refused. */
  credentials?: Credentials;
  /** The address of this file, of the page's own origin, for the connection that all tabs share; `false` for one for each tab. */
  worker?: string | URL | false;
  /** Whether streams end while nobody sees the page, and resume when somebody does. */
  pauseHidden?: boolean;
  /** Whether integers that a number cannot hold are BigInt, with all their digits. */
  bigint?: boolean;
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

/** Which events, and from where on. */
export interface WatchOptions extends Selection {
  /** The position after which the events begin; without it now. */
  position?: string | null;
}

/** What `OPTIONS` says of an address. */
export interface Description {
  name: string;
  description: string;
  methods: string[];
  list?: ListInfo;
}

export interface Client<Paths> {
  /** A list that stays current. */
  live<Resource extends string>(resource: Resource, options?: LiveOptions): Live<RowOf<Paths, Resource> & Row>;
  /** The events of a resource, by the connection of the live lists; the result ends them. */
  watch(resource: string, options: WatchOptions, listener: (message: Message) => void): () => void;
  /** Send a request to a path below the service's address. A response that is not a success is thrown as `Refused`. */
  send(method: string, path: string, options?: Send): Promise<Response>;
  /** What `OPTIONS` says of the path, which is asked once. */
  describe(path: string): Promise<Description>;
  /** End everything that the client has opened. */
  close(): void;
}

/** A client of the service at an address. `Paths` are the types of its OpenAPI document. */
export function rowcast<Paths = unknown>(base: string | URL = "/", options: Options = {}): Client<Paths> {
  const here = typeof location === "undefined" ? undefined : location.href;
  const address = new URL(base, here).href.replace(/\/?$/, "/");
  const { token } = options;
  const authorization = token === undefined ? null : token.includes(" ") ? token : `Bearer ${token}`;
  const ownFetch = options.fetch ?? ((...args) => fetch(...args));
  const http = new Http(address, options.credentials ?? (() => authorization), ownFetch, options.bigint);
  const descriptions = new Map<string, Promise<Description>>();
  const ends = new Set<() => void>();
  let transport: Transport | null = null;
  const carrier = () => (transport ??= transportFor(options, http));

  function describe(address: string): Promise<Description> {
    const path = address.replace(/^\//, "");
    let found = descriptions.get(path);
    if (!found) {
      found = http.send("OPTIONS", path).then(response => http.read(response));
      found.catch(() => descriptions.delete(path));
      descriptions.set(path, found);
    }
    return found;
  }

  async function describeList(resource: string): Promise<ListInfo> {
    const { list } = await describe(`${resource}/`);
    if (!list) throw new Refused({ status: 404, title: "Not Found", detail: `There is no list of ${resource}.` });
    return list;
  }

  return {
    live: (resource, query = {}) => {
      const list: Live = new Live(http, carrier(), resource, query, describeList, () => ends.delete(end));
      const end = () => list.close();
      ends.add(end);
      return list as any;
    },
    watch: (resource, { position = null, ...selection }, listener) => {
      const unwatch = carrier().watch({ resource, params: streamParams(selection), position }, listener);
      const end = () => {
        ends.delete(end);
        unwatch();
      };
      ends.add(end);
      return end;
    },
    send: (method, path, send) => http.send(method, path, send),
    describe,
    close: () => {
      for (const end of [...ends]) end();
      transport?.close?.();
      transport = null;
    },
  };
}

function transportFor(options: Options, http: Http): Transport {
  const found = connectionFor(options.worker, http, options.fetch !== undefined);
  const carrier = options.pauseHidden && typeof document !== "undefined" ? new PausingTransport(found) : found;
  return {
    watch: (query, receive) =>
      carrier.watch(query, message => {
        if (message.type === "event" && message.position) http.seen.note(message.position);
        receive(message);
      }),
    close: () => carrier.close?.(),
  };
}

function connectionFor(worker: string | URL | false | undefined, http: Http, ownFetch: boolean): Transport {
  if (worker === undefined && typeof location !== "undefined" && !ownFetch) {
    const own = new URL(import.meta.url);
    if (own.origin === location.origin && own.pathname.endsWith("/client.js")) worker = own;
  }
  if (!worker || typeof SharedWorker === "undefined") return new Connections(http);
  return new SharedTransport(worker, http);
}

declare const SharedWorkerGlobalScope: (new () => unknown) | undefined;
if (typeof SharedWorkerGlobalScope !== "undefined" && globalThis instanceof SharedWorkerGlobalScope) serveTabs(globalThis as any);
