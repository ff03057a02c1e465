/** Live queries that end while nobody sees the page, and go on from their positions when somebody does. */

import type { Message, Query, Transport } from "./connection";

const HIDDEN_MS = 2000; // for which a page is hidden before its queries end

interface Watched {
  query: Query;
  receive: (message: Message) => void;
  unwatch: (() => void) | null;
}

export class PausingTransport implements Transport {
  private watched = new Set<Watched>();
  private paused = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly look = () => {
    clearTimeout(this.timer);
    if (document.visibilityState === "hidden") this.timer = setTimeout(() => this.pause(), HIDDEN_MS);
    else if (this.paused) this.resume();
  };

  constructor(private readonly inner: Transport) {
    document.addEventListener("visibilitychange", this.look);
    this.look();
  }

  watch(query: Query, receive: (message: Message) => void): () => void {
    const one: Watched = { query: { ...query }, receive, unwatch: null };
    this.watched.add(one);
    if (this.paused) receive({ type: "state", state: "paused" });
    else this.begin(one);
    return () => {
      this.watched.delete(one);
      one.unwatch?.();
    };
  }

  close(): void {
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.look);
    this.inner.close?.();
  }

  private begin(one: Watched): void {
    one.unwatch = this.inner.watch(one.query, message => {
      if ("position" in message && message.position) one.query.position = message.position;
      if (message.type === "state" && message.state === "refused") this.watched.delete(one);
      one.receive(message);
    });
  }

  private pause(): void {
    this.paused = true;
    for (const one of this.watched) {
      one.unwatch?.();
      one.receive({ type: "state", state: "paused" });
    }
  }

  private resume(): void {
    this.paused = false;
    for (const one of this.watched) {
      one.receive({ type: "state", state: "connecting" });
      this.begin(one);
    }
  }
}
