/** Messages at the edge of the page: what was done, with a way to undo it, and what failed. */

import { useEffect } from "preact/hooks";
import { Refused, type Row, request } from "./api";
import { type Store, useStore } from "./hooks";
import { refocus } from "./panel";

export interface Notice {
  text: string;
  failed?: boolean;
  undo?: () => Promise<void>;
}

let current: Notice | null = null;
const listeners = new Set<() => void>();
const notices: Store<Notice | null> = {
  subscribe: listener => (listeners.add(listener), () => void listeners.delete(listener)),
  getSnapshot: () => current,
};

export function notify(notice: Notice | null): void {
  current = notice;
  for (const each of listeners) each();
}

export function fail(error: unknown): void {
  notify({ text: error instanceof Refused ? `${error.problem.title}: ${error.message}` : String(error), failed: true });
}

/** How to undo the change of a row: its old values, if nobody has changed it since. */
export function undoChange(path: string, old: Row, etag: string | null, after: () => Promise<void>): () => Promise<void> {
  return async () => {
    await request("PATCH", path, { body: old, headers: etag ? { "If-Match": etag } : {} });
    await after();
    notify({ text: "Undone." });
  };
}

const KEEP_MILLISECONDS = 15_000;

export function Notices() {
  const notice = useStore(notices);
  useEffect(() => {
    if (!notice) return;
    const timer = setTimeout(() => current === notice && notify(null), KEEP_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [notice]);
  const leave = () => refocus(() => document.querySelector<HTMLElement>(".panel h2, #content"));
  const close = () => {
    notify(null);
    leave();
  };
  const undo = async () => {
    try {
      await notice!.undo!();
    } catch (error) {
      const changed = error instanceof Refused && error.problem.status === 412;
      if (changed) notify({ text: "The row has changed since, so this cannot be undone.", failed: true });
      else fail(error);
    }
    leave();
  };
  return (
    <div class="notices" role="status" aria-live="polite">
      {notice && (
        <p class={notice.failed ? "notice failed" : "notice"}>
          <span>{notice.text}</span>
          {notice.undo && <button type="button" onClick={undo}>Undo</button>}
          <button type="button" class="quiet" aria-label="Close the message" onClick={close}>×</button>
        </p>
      )}
    </div>
  );
}
