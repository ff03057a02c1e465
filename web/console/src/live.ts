/** A list that stays current: pages of rows, then every change of them, in the order of the list. */

import { Failure, type ListInfo, type Row, keyOf, request } from "./api";
import { type State, follow } from "./stream";

export interface Snapshot {
  rows: Row[];
  keys: string[];
  count: number | null;
  more: boolean;
  loading: boolean;
  state: State;
  failure: Failure | null;
  /** The rows that have changed lately, with the fields of each; "*" stands for a new row. */
  changed: ReadonlyMap<string, ReadonlySet<string>>;
}

const MARK_MILLISECONDS = 4000;
const PAGE_ROWS = 100;
const FRAME_MILLISECONDS = 16;

export class LiveList {
  private rows = new Map<string, Row>();
  private order: string[] = [];
  private keys = new Map<string, string>(); // of events → of addresses
  private count: number | null = null;
  private next: string | null = null;
  private loading = false;
  private state: State = "connecting";
  private failure: Failure | null = null;
  private changed = new Map<string, Set<string>>();
  private stop: (() => void) | null = null;
  private abort = new AbortController();
  private listeners = new Set<() => void>();
  private snapshot: Snapshot;
  private planned = false;

  constructor(
    readonly resource: string,
    readonly info: ListInfo,
    readonly streams: boolean,
    readonly query: URLSearchParams,
  ) {
    this.snapshot = this.take();
    void this.load();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };
  getSnapshot = (): Snapshot => this.snapshot;

  close(): void {
    this.abort.abort();
    this.stop?.();
    this.listeners.clear();
  }

  /** Load the list again, from its first page. */
  async load(): Promise<void> {
    this.stop?.();
    this.abort.abort();
    this.abort = new AbortController();
    const query = new URLSearchParams(this.query);
    if (this.info.pagination === "page" || this.info.pagination === "cursor" || this.info.pagination === "offset") {
      query.set(this.info.pagination === "offset" ? "limit" : "page_size", String(Math.min(PAGE_ROWS, this.info.max_page_size)));
    }
    this.loading = true;
    this.tell();
    try {
      const { data, headers } = await request<any>("GET", `/${this.resource}/?${query}`, { signal: this.abort.signal });
      const rows: Row[] = Array.isArray(data) ? data : data.results ?? [];
      this.rows.clear();
      this.order = [];
      this.keys.clear();
      this.add(rows);
      this.count = Array.isArray(data) ? rows.length : data.count ?? null;
      this.next = Array.isArray(data) ? null : data.next ?? null;
      this.failure = null;
      this.follow(headers.get("X-Stream-Position"));
    } catch (error) {
      if (!(error instanceof Failure)) return;
      this.failure = error;
    } finally {
      this.loading = false;
      this.tell();
    }
  }

  /** Load the next page. */
  async more(): Promise<void> {
    if (!this.next || this.loading) return;
    this.loading = true;
    this.tell();
    try {
      const { pathname, search } = new URL(this.next, location.href);
      const { data } = await request<any>("GET", pathname + search, { signal: this.abort.signal });
      this.add(data.results);
      this.next = data.next;
    } catch (error) {
      if (!(error instanceof Failure)) return;
      if (error.problem.status === 404) this.next = null; // the rows of the last page are gone meanwhile
      else this.failure = error;
    } finally {
      this.loading = false;
      this.tell();
    }
  }

  private add(rows: Row[]): void {
    for (const row of rows) {
      const key = keyOf(row, this.info.key);
      if (!this.rows.has(key)) this.order.push(key);
      this.set(key, row);
    }
  }

  private set(key: string, row: Row): void {
    this.rows.set(key, row);
    this.keys.set(keyOf(row, this.info.primary_key), key);
  }

  private follow(position: string | null): void {
    if (!this.streams) {
      this.state = "refused";
      return;
    }
    const query = new URLSearchParams(this.query);
    for (const name of ["ordering", "expand"]) query.delete(name);
    this.stop = follow(`/${this.resource}/stream/?${query}`, position, {
      state: (state, detail) => {
        this.state = state;
        if (state === "refused" && detail) console.info(`No live changes of ${this.resource}: ${detail}`);
        this.tell();
      },
      event: event => {
        if (event.event === "reset") void this.load();
        else if (event.event === "") this.change(event.data);
      },
    });
  }

  private change(event: { action: string; id: unknown; data: Row | null; changed?: string[] }): void {
    const id = this.info.primary_key.length > 1 ? String(event.id) : encodeURIComponent(String(event.id));
    const known = this.keys.get(id);
    if (event.action === "DELETE") {
      if (known !== undefined) this.drop(known);
      if (this.count !== null) this.count -= 1;
    } else {
      const key = keyOf(event.data!, this.info.key);
      const before = known === undefined ? undefined : this.rows.get(known);
      if (known !== undefined && known !== key) this.drop(known); // its address is another one now
      if (event.action === "INSERT" && !before && this.count !== null) this.count += 1;
      this.place(key, { ...before, ...event.data! }, known === key ? before : undefined);
      this.mark(key, before ? new Set(event.changed ?? []) : new Set(["*"]));
    }
    this.tell();
  }

  private drop(key: string): void {
    this.rows.delete(key);
    this.order = this.order.filter(each => each !== key);
  }

  /** Put a row to its place in the order. A row after the last loaded one is not shown until its page is loaded. */
  private place(key: string, row: Row, known: Row | undefined): void {
    const steps = (this.query.get("ordering")?.split(",") ?? this.info.default_ordering).filter(Boolean);
    const moved = !known || steps.some(step => known[step.replace("-", "")] !== row[step.replace("-", "")]);
    if (!moved) {
      this.set(key, row);
      return;
    }
    if (known) this.drop(key);
    let place = this.order.findIndex(each => compare(row, this.rows.get(each)!, steps, this.info) < 0);
    if (place < 0) {
      if (this.next) return;
      place = this.order.length;
    }
    this.order.splice(place, 0, key);
    this.set(key, row);
  }

  private mark(key: string, fields: Set<string>): void {
    this.changed.set(key, fields);
    setTimeout(() => {
      if (this.changed.get(key) === fields) this.changed.delete(key);
      this.tell();
    }, MARK_MILLISECONDS);
  }

  /** Tell the listeners, at most once a frame however many events come. */
  private tell(): void {
    if (this.planned) return;
    this.planned = true;
    setTimeout(() => {
      this.planned = false;
      this.snapshot = this.take();
      for (const listener of this.listeners) listener();
    }, FRAME_MILLISECONDS);
  }

  private take(): Snapshot {
    return {
      rows: this.order.map(key => this.rows.get(key)!),
      keys: [...this.order],
      count: this.count,
      more: this.next !== null,
      loading: this.loading,
      state: this.state,
      failure: this.failure,
      changed: new Map(this.changed),
    };
  }
}

function compare(one: Row, other: Row, steps: string[], info: ListInfo): number {
  for (const step of [...steps, ...info.key]) {
    const plain = step.replace("-", "");
    const name = plain in one ? plain : `${plain}_id`; // of a relation
    const sign = step.startsWith("-") ? -1 : 1;
    const [left, right] = [one[name], other[name]];
    if (left === right || (left == null && right == null)) continue;
    if (left == null) return sign; // PostgreSQL: nulls are the greatest
    if (right == null) return -sign;
    const field = info.fields[name];
    if (field?.choices && info.ordered_by_choices.includes(plain)) return sign * (field.choices.indexOf(left) - field.choices.indexOf(right));
    const numbers = typeof left === "number" || typeof left === "bigint" || field?.type === "decimal";
    const [a, b] = numbers ? [Number(left), Number(right)] : [String(left), String(right)];
    if (a !== b) return sign * (a < b ? -1 : 1);
  }
  return 0;
}
