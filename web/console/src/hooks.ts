/** Small hooks. */

import { useEffect, useState } from "preact/hooks";

export interface Store<T> {
  subscribe(listener: () => void): () => void;
  getSnapshot(): T;
}

/** The current value of a store. */
export function useStore<T>(store: Store<T>): T {
  const [, turn] = useState(0);
  useEffect(() => {
    turn(n => n + 1);
    return store.subscribe(() => turn(n => n + 1));
  }, [store]);
  return store.getSnapshot();
}

export interface Loaded<T> {
  value: T | null;
  error: Error | null;
}

/** The result of a promise, loaded again when a dependency changes. */
export function useLoaded<T>(load: () => Promise<T>, dependencies: unknown[]): Loaded<T> {
  const [found, set] = useState<Loaded<T>>({ value: null, error: null });
  useEffect(() => {
    let current = true;
    set(known => (known.value === null && known.error === null ? known : { value: null, error: null }));
    load().then(
      value => current && set({ value, error: null }),
      error => current && set({ value: null, error }),
    );
    return () => {
      current = false;
    };
  }, dependencies);
  return found;
}

/** The address after `#`: a path, and parameters. */
export interface Place {
  path: string[];
  query: URLSearchParams;
}

function here(): Place {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
}

export function usePlace(): Place {
  const [place, set] = useState(here);
  useEffect(() => {
    const follow = () => set(here());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return place;
}

export function hash(path: string[], query?: URLSearchParams): string {
  const parameters = query?.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${parameters ? `?${parameters}` : ""}`;
}

export function go(path: string[], query?: URLSearchParams, replace = false): void {
  const address = hash(path, query);
  if (address === location.hash) return;
  if (replace) {
    history.replaceState(null, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = address;
}
