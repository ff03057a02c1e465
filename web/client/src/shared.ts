/** One connection for all tabs: a `SharedWorker` has it, and tabs speak to it through ports. */

import { Connections, type Message, type Query, type Transport } from "./connection";
import { Http } from "./http";

type ToWorker =
  | { type: "open"; base: string; owner: string; bigint: boolean; lock: string | null }
  | { type: "watch"; id: number; query: Query }
  | { type: "unwatch"; id: number }
  | { type: "credentials"; id: number; value: string | null }
  | { type: "close" };
type ToTab =
  | { type: "hello" }
  | { type: "message"; id: number; message: Message }
  | { type: "credentials"; id: number; expired: boolean };

const HELLO_MS = 5000; // within which a worker answers; otherwise the page has a connection of its own
const CREDENTIALS_MS = 10_000;

interface Watched {
  query: Query;
  receive: (message: Message) => void;
  unwatch: (() => void) | null; // of the page's own connection
}

/** Live queries of a tab, by a worker; by a connection of the tab itself if there is no worker. */
export class SharedTransport implements Transport {
  private watched = new Map<number, Watched>();
  private numbers = 0;
  private port: MessagePort | null = null;
  private direct: Connections | null = null;
  private readonly opened: Promise<void>;

  constructor(
    address: string | URL,
    private readonly http: Http,
  ) {
    this.opened = this.open(address).catch(() => this.goAlone());
  }

  watch(query: Query, receive: (message: Message) => void): () => void {
    const id = ++this.numbers;
    const one: Watched = { query: { ...query }, receive, unwatch: null };
    this.watched.set(id, one);
    void this.opened.then(() => this.watched.has(id) && this.begin(id, one));
    return () => {
      this.watched.delete(id);
      one.unwatch?.();
      this.send({ type: "unwatch", id });
    };
  }

  private begin(id: number, one: Watched): void {
    if (this.direct) one.unwatch ??= this.direct.watch(one.query, one.receive);
    else this.send({ type: "watch", id, query: one.query });
  }

  private send(message: ToWorker): void {
    this.port?.postMessage(message);
  }

  private async open(address: string | URL): Promise<void> {
    const lock = await holdLock();
    const owner = (await this.http.credentials(false)) ?? "";
    const { base, bigint } = this.http;
    const hello = (held: string | null) => this.send({ type: "open", base, owner, bigint, lock: held });
    await new Promise<void>((resolve, reject) => {
      const worker = new SharedWorker(trusted(address), { type: "module", name: "rowcast" });
      const timer = setTimeout(reject, HELLO_MS);
      worker.onerror = () => reject();
      worker.port.onmessage = ({ data }: MessageEvent<ToTab>) => {
        if (data.type === "hello") {
          clearTimeout(timer);
          resolve();
        } else void this.receive(data);
      };
      this.port = worker.port;
      hello(lock);
    });
    addEventListener("pagehide", () => this.send({ type: "close" }));
    addEventListener("pageshow", event => {
      if (!event.persisted) return; // a page that comes back as it was
      hello(null);
      for (const [id, one] of this.watched) this.begin(id, one);
    });
  }

  close(): void {
    this.send({ type: "close" });
    this.port?.close();
    this.port = null;
  }

  private goAlone(): void {
    this.port = null;
    this.direct = new Connections(this.http);
  }

  private async receive(data: ToTab): Promise<void> {
    if (data.type === "credentials") {
      const value = (await this.http.credentials(data.expired)) ?? null;
      this.send({ type: "credentials", id: data.id, value });
    } else if (data.type === "message") {
      const one = this.watched.get(data.id);
      if (!one) return;
      if ("position" in data.message && data.message.position) one.query.position = data.message.position;
      one.receive(data.message);
    }
  }
}

interface Policy {
  createScriptURL(text: string): any;
}
interface TrustedTypes {
  createPolicy(name: string, rules: Policy): Policy;
}
let policy: Policy | null = null;

/** An address for a worker as pages take it whose Content-Security-Policy requires trusted types, and allows `rowcast`. */
function trusted(address: string | URL): string | URL {
  const types = (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes;
  if (!types) return address;
  policy ??= types.createPolicy("rowcast", {
    createScriptURL: text => {
      if (new URL(text, location.href).origin !== location.origin) throw new TypeError("A worker is of the page's own origin.");
      return text;
    },
  });
  return policy.createScriptURL(String(address));
}

/** Hold a lock as long as this tab lives, so that the worker notices its end. `null` where there are no locks. */
async function holdLock(): Promise<string | null> {
  if (!navigator.locks) return null;
  const name = `rowcast ${crypto.randomUUID()}`;
  await new Promise<void>(resolve => {
    void navigator.locks.request(name, () => new Promise(() => resolve()));
  });
  return name;
}

/** What a worker is made of: the connections of its tabs, one for each service and its credentials. */
export function serveTabs(scope: { onconnect: ((event: MessageEvent) => void) | null }): void {
  const connections = new Map<string, { connection: Connections; ports: Set<MessagePort> }>();
  const asked = new Map<number, (value: string | null) => void>();
  let questions = 0;

  function ask(ports: Set<MessagePort>, expired: boolean): Promise<string | null> {
    const id = ++questions;
    return new Promise(resolve => {
      const timer = setTimeout(() => answer(null), CREDENTIALS_MS);
      function answer(value: string | null): void {
        clearTimeout(timer);
        asked.delete(id);
        resolve(value);
      }
      asked.set(id, answer);
      for (const port of ports) port.postMessage({ type: "credentials", id, expired } satisfies ToTab);
    });
  }

  function connectionOf(base: string, owner: string, bigint: boolean, port: MessagePort): Connections {
    const name = `${base} ${bigint} ${owner}`;
    let found = connections.get(name);
    if (!found) {
      const ports = new Set<MessagePort>();
      const credentials = (expired: boolean) => (owner === "" && !expired ? null : ask(ports, expired));
      const http = new Http(base, credentials, (...args) => fetch(...args), bigint);
      found = { connection: new Connections(http), ports };
      connections.set(name, found);
    }
    found.ports.add(port);
    return found.connection;
  }

  scope.onconnect = ({ ports: [port] }) => {
    const unwatch = new Map<number, () => void>();
    let connection: Connections | null = null;

    function close(): void {
      for (const end of unwatch.values()) end();
      unwatch.clear();
      for (const { ports } of connections.values()) ports.delete(port!);
    }

    port!.onmessage = ({ data }: MessageEvent<ToWorker>) => {
      const send = (message: ToTab) => port!.postMessage(message);
      if (data.type === "open") {
        connection = connectionOf(data.base, data.owner, data.bigint, port!);
        if (data.lock !== null) void navigator.locks.request(data.lock, close);
        send({ type: "hello" });
      } else if (data.type === "watch" && connection) {
        const { id, query } = data;
        unwatch.get(id)?.();
        unwatch.set(id, connection.watch(query, message => send({ type: "message", id, message })));
      } else if (data.type === "unwatch") {
        unwatch.get(data.id)?.();
        unwatch.delete(data.id);
      } else if (data.type === "credentials") asked.get(data.id)?.(data.value);
      else if (data.type === "close") close();
    };
  };
}
