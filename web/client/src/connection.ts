/** One connection for many live queries: `QUERY /stream/`. It reconnects, resumes each query, and renews credentials. */

import { type Http, type Problem, Refused } from "./http";
import { Parser } from "./sse";

export interface Query {
  resource: string;
  params: Record<string, unknown>;
  position: string | null;
}
export type State = "connecting" | "live" | "paused" | "refused";
export type Message =
  | { type: "event"; event: string; data: any; position: string | null }
  | { type: "position"; position: string }
  | { type: "state"; state: State; problem?: Problem };

/** What carries live queries: a connection of this page, or of a worker. */
export interface Transport {
  watch(query: Query, receive: (message: Message) => void): () => void;
  /** End what it has itself, after all queries have ended. */
  close?(): void;
}

interface Watched {
  query: Query;
  receive: (message: Message) => void;
  refused: boolean;
}

const MOST_QUERIES = 100; // which the service takes on one connection
const RETRY_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
const SILENCE_MS = 60_000; // without even a heartbeat, after which the connection is given up
const GATHER_MS = 5; // queries that are opened together share a connection at once

/** As many connections as the queries need. */
export class Connections implements Transport {
  private readonly open: Connection[] = [];

  constructor(private readonly http: Http) {}

  watch(query: Query, receive: (message: Message) => void): () => void {
    let free = this.open.find(each => each.size < MOST_QUERIES);
    if (!free) this.open.push((free = new Connection(this.http)));
    return free.watch(query, receive);
  }
}

class Connection implements Transport {
  private watched = new Map<string, Watched>();
  private numbers = 0;
  private running = false;
  private controller: AbortController | null = null;
  private changed = false;
  private wake: (() => void) | null = null;
  private gathering: ReturnType<typeof setTimeout> | null = null;

  constructor(private readonly http: Http) {
    globalThis.addEventListener?.("online", () => this.wake?.());
  }

  /** How many queries it has that are not refused. */
  get size(): number {
    let size = 0;
    for (const { refused } of this.watched.values()) if (!refused) size++;
    return size;
  }

  watch(query: Query, receive: (message: Message) => void): () => void {
    const name = String(++this.numbers);
    this.watched.set(name, { query: { ...query }, receive, refused: false });
    this.reopen();
    return () => {
      this.watched.delete(name);
      if (!this.size) this.reopen(); // others lose no time for this
    };
  }

  /** Open the connection again, with the queries of now. */
  private reopen(): void {
    this.gathering ??= setTimeout(() => {
      this.gathering = null;
      this.changed = true;
      this.controller?.abort();
      this.wake?.();
      if (!this.running) void this.run();
    }, GATHER_MS);
  }

  private async run(): Promise<void> {
    this.running = true;
    let failures = 0;
    while (this.size) {
      this.changed = false;
      const open = new Map([...this.watched].filter(([, each]) => !each.refused));
      const outcome = await this.open(open);
      if (this.changed) continue;
      if (outcome instanceof Refused && !outcome.passes) {
        for (const each of open.values()) this.refuse(each, outcome.problem);
        continue;
      }
      failures = typeof outcome === "number" ? 0 : failures + 1;
      for (const each of open.values()) each.receive({ type: "state", state: "connecting" });
      const wait = failures ? Math.min(LONGEST_WAIT_MS, 250 * 2 ** failures) * (0.5 + Math.random()) : (outcome as number);
      await this.sleep(wait);
    }
    this.running = false;
  }

  /** Read the connection to its end: how long to wait for the next one, or why there is none. */
  private async open(open: Map<string, Watched>): Promise<number | Error> {
    const controller = (this.controller = new AbortController());
    let heard = Date.now();
    const silence = setInterval(() => Date.now() - heard > SILENCE_MS && controller.abort(), 5000);
    let retry = RETRY_MS;
    let began = false;
    try {
      const queries = Object.fromEntries([...open].map(([name, { query }]) => [name, described(query)]));
      const response = await this.http.send("QUERY", "stream/", {
        accept: "text/event-stream",
        body: { queries },
        signal: controller.signal,
      });
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      const parser = new Parser();
      let current: Watched | undefined;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return began ? retry : new Error("The stream has ended.");
        heard = Date.now();
        began = true;
        for (const block of parser.feed(decoder.decode(value, { stream: true }))) {
          if (block.retry !== null) retry = block.retry;
          const data = block.data === null ? null : this.http.parse(block.data);
          if (block.event === "query") current = open.get(data.query);
          else if (block.event === "refused") this.refuse(open.get(data.query), data.problem);
          else if (current && this.isWatched(current)) deliver(current, block.event, block.id, data);
        }
      }
    } catch (error) {
      return began && !(error instanceof SyntaxError) ? retry : (error as Error);
    } finally {
      clearInterval(silence);
      controller.abort();
    }
  }

  private isWatched(one: Watched): boolean {
    return [...this.watched.values()].includes(one);
  }

  private refuse(one: Watched | undefined, problem: Problem): void {
    if (!one) return;
    one.refused = true;
    one.receive({ type: "state", state: "refused", problem });
  }

  private sleep(milliseconds: number): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

function deliver(to: Watched, event: string, id: string | null, data: any): void {
  if (id) to.query.position = id;
  if (data !== null) to.receive({ type: "event", event, data, position: id });
  else if (id) to.receive({ type: "position", position: id });
  if (event === "ready") to.receive({ type: "state", state: "live" });
}

function described({ resource, params, position }: Query): Record<string, unknown> {
  return position === null ? { resource, params } : { resource, params, last_event_id: position };
}
