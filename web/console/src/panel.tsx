/** A panel beside the table. It takes the focus when it opens, closes with Escape, and gives the focus back. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef } from "preact/hooks";

export function Panel({ title, close, onClose, children }: { title: string; close: string; onClose(): void; children: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const id = useId();
  useEffect(() => heading.current?.focus(), [title]);
  return (
    <section class="panel" aria-labelledby={id} onKeyDown={event => event.key === "Escape" && onClose()}>
      <header>
        <h2 id={id} ref={heading} tabIndex={-1}>{title}</h2>
        <button type="button" class="quiet" aria-label={close} onClick={onClose}>×</button>
      </header>
      {children}
    </section>
  );
}

/** Focus an element if nothing has the focus any more, as after its element has gone or was disabled. */
export function refocus(find: () => HTMLElement | null | undefined): void {
  requestAnimationFrame(() => document.activeElement === document.body && find()?.focus());
}

/** When `open` becomes null, focus what had the focus before, or what is found in its place. */
export function useReturnedFocus(open: string | null, instead: () => HTMLElement | null): void {
  const opener = useRef<Element | null>(null);
  const before = useRef<string | null>(null);
  useLayoutEffect(() => {
    if (before.current === null && open !== null) opener.current = document.activeElement;
    if (before.current !== null && open === null) {
      const last = opener.current;
      refocus(() => (last instanceof HTMLElement && last.isConnected && last !== document.body ? last : instead()));
    }
    before.current = open;
  }, [open]);
}
