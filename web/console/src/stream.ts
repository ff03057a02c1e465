/** A stream, read with fetch, so that credentials are in a header and never in an address. It reconnects by itself. */

import { authorization, parse } from "./api";

export interface StreamEvent {
  event: string; // "" for a change
  id: string;
  data: any;
}
export type State = "connecting" | "live" | "waiting" | "paused" | "refused" | "closed";

export interface Handlers {
  event(event: StreamEvent): void;
  state?(state: State, detail?: string): void;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
const HIDDEN_MILLISECONDS = 2000;

/** Wait until somebody can see the page. */
function seen(): Promise<void> {
  return new Promise(resolve => {
    const look = () => {
      if (document.visibilityState === "hidden") return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

/**
 * Follow a stream from a position. The result closes it.
 *
 * A page that nobody sees has no connection, since browsers have six for all tabs of a service; it resumes when it is seen again.
 */
export function follow(address: string, position: string | null, handlers: Handlers): () => void {
  let stopped = false;
  let last = position;
  let wait = FIRST_WAIT;
  let controller = new AbortController();
  let timer = 0;
  const hide = () => {
    clearTimeout(timer);
    if (document.visibilityState === "hidden") timer = window.setTimeout(() => controller.abort(), HIDDEN_MILLISECONDS);
  };
  document.addEventListener("visibilitychange", hide);

  async function run(): Promise<void> {
    while (!stopped) {
      if (document.visibilityState === "hidden") {
        handlers.state?.("paused");
        await seen();
        if (stopped) return;
        wait = FIRST_WAIT;
      }
      handlers.state?.("connecting");
      controller = new AbortController();
      try {
        const headers: Record<string, string> = { Accept: "text/event-stream", ...authorization() };
        if (last) headers["Last-Event-ID"] = last;
        const response = await fetch(address, { headers, signal: controller.signal, cache: "no-store" });
        if (!response.ok) {
          const problem = await response.json().catch(() => ({ detail: response.statusText }));
          if (response.status < 500 && response.status !== 429 && response.status !== 408) {
            handlers.state?.("refused", problem.detail);
            return;
          }
          throw new Error(problem.detail);
        }
        for await (const event of events(response.body!)) {
          if (stopped) return;
          if (event.id) last = event.id;
          if (event.event === "ready") {
            wait = FIRST_WAIT;
            handlers.state?.("live");
          }
          handlers.event(event);
        }
      } catch (error) {
        if (stopped) return;
      }
      if (document.visibilityState === "hidden") continue;
      handlers.state?.("waiting");
      await new Promise(resolve => setTimeout(resolve, wait * (0.5 + Math.random())));
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }

  void run();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", hide);
    controller.abort();
    handlers.state?.("closed");
  };
}

/** The events of a body (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let event = "";
  let id = "";
  let data: string[] = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (line === "" || line === "\r") {
          if (data.length) yield { event, id, data: parse(data.join("\n")) };
          event = "";
          data = [];
          continue;
        }
        const [, name, text] = /^([^:]*):? ?(.*?)\r?$/.exec(line) ?? [];
        if (name === "event") event = text!;
        else if (name === "id") id = text!;
        else if (name === "data") data.push(text!);
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
