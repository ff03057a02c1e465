/** A live list: its rows as the service shows them, kept current by its stream, with one's own changes shown at once. */

import type { Message, Query, Transport } from "./connection";
import { type Http, type Problem, Refused } from "./http";
import { type ListInfo, Order, type Row } from "./order";
import { Reader } from "./reader";
import { type Selection, streamParams } from "./selection";

export interface LiveOptions extends Selection {
  /** As in `?ordering=`: `"-created_at"`, or several. By default that of the list. */
  ordering?: string | readonly string[];
  /** How many rows; without it all of them. */
  limit?: number;
}

export type Status = "loading" | "live" | "connecting" | "paused" | "refused" | "closed";
export type Key = string | number;
export type Listener<T> = (rows: readonly T[]) => void;

/** An event of the list's stream, and the row that the list had before. */
export interface Change<T = Row> {
  action: "INSERT" | "UPDATE" | "DELETE";
  id: Key;
  data: T | null;
  changed?: string[];
  cause?: "UPDATE";
  at: string;
  tx?: string;
  traceparent?: string;
  before: T | null;
}
type ChangeEvent = Omit<Change, "before">;

interface Overlay {
  kind: "create" | "update" | "delete";
  row: Row;
  /** The transaction of the confirmed change; its event takes the overlay away. */
  tx: string | null;
  timer?: ReturnType<typeof setTimeout>;
}

const SPARE_ROWS = 20; // kept beyond the limit, so that a deletion seldom needs another request
const MORE_ROWS = 100;
const UNCONFIRMED_MS = 3000; // for which one's own change is shown without its event, which another filter may keep away
const REMEMBERED = 1000; // of one's own transactions whose events came before the response
const RELOAD_MS = 50;
const HELD_MS = 1000; // for which events wait for the response to a row of one's own, which one of them may be about
const LONGEST_WAIT_MS = 30_000;

export class Live<T extends Row = Row> {
  private rows: Row[] = [];
  private rest = false; // whether there are rows after those that are here
  private total: number | null = null;
  private limit: number;
  private reader: Reader | null = null;
  private order: Order | null = null;
  private identities = new WeakMap<Row, string>();
  private turn = 0;
  private reading = true;
  private unwatch: (() => void) | null = null;
  private overlays = new Map<string, Overlay>();
  private seen = new Set<string>();
  private listeners = new Set<Listener<T>>();
  private watchers = new Set<(change: Change<T>) => void>();
  private snapshot: readonly T[] = Object.freeze([]);
  private planned: ReturnType<typeof setTimeout> | null = null;
  private reloads = 0;
  private failures = 0;
  private created = 0;
  private creating = 0;
  private held: ChangeEvent[] = [];
  private emitting = false;
  private state: Status = "loading";
  private refusal: Problem | null = null;

  constructor(
    private readonly http: Http,
    private readonly transport: Transport,
    readonly resource: string,
    private readonly options: LiveOptions,
    private readonly describe: (resource: string) => Promise<ListInfo>,
    private readonly closed: () => void = () => undefined,
  ) {
    this.limit = options.limit ?? Infinity;
    void this.load();
  }

  /** Call a listener with the rows now and after every change; the result ends that. */
  subscribe = (listener: Listener<T>): (() => void) => {
    this.listeners.add(listener);
    listener(this.snapshot);
    return () => void this.listeners.delete(listener);
  };

  /** The rows now: the same array until something changes. */
  getSnapshot = (): readonly T[] => this.snapshot;

  /** Call a listener with each change of a row, before the rows are given to `subscribe`; the result ends that. */
  changes = (listener: (change: Change<T>) => void): (() => void) => {
    this.watchers.add(listener);
    return () => void this.watchers.delete(listener);
  };

  /** Show more rows of a limited list. */
  more(rows: number = MORE_ROWS): void {
    if (this.state === "closed" || !this.hasMore) return;
    this.limit += rows;
    if (this.rest && this.rows.length < this.limit) void this.load();
    this.emit();
  }

  /** Whether a limited list has rows that are not shown. */
  get hasMore(): boolean {
    return this.rest || this.rows.length > this.limit;
  }

  /** How many rows there are in all, whatever the limit; `null` if the list's pages do not say so. */
  get count(): number | null {
    return this.total;
  }

  /** Whether the rows have been read, once at least. */
  get loaded(): boolean {
    return this.unwatch !== null;
  }

  /** Whether rows are being read: the first ones, more of them, or all of them again. */
  get loading(): boolean {
    return this.reading;
  }

  /** `loading` until the first rows are there; `connecting` while the connection is lost; `refused`: see `problem`. */
  get status(): Status {
    return this.state;
  }

  /** Why the list is refused, or only its stream: then the rows stay as they were read. */
  get problem(): Problem | null {
    return this.refusal;
  }

  close(): void {
    this.turn++;
    this.unwatch?.();
    if (this.planned !== null) clearTimeout(this.planned);
    for (const { timer } of this.overlays.values()) clearTimeout(timer);
    this.set("closed");
    this.listeners.clear();
    this.watchers.clear();
    this.closed();
  }

  // --- changes of one's own

  /** Create a row. It is shown at once, and disappears again if the service refuses it (`Refused`). */
  async create(values: Partial<T>): Promise<T> {
    const temporary = `new ${++this.created}`;
    this.overlays.set(temporary, { kind: "create", row: { ...values }, tx: null });
    this.creating++;
    this.emit();
    try {
      const response = await this.http.send("POST", `${this.resource}/`, { body: values });
      const [row] = await Promise.all([this.http.read(response) as Promise<T>, this.prepare()]);
      this.overlays.delete(temporary);
      this.confirm(this.identity(row), { kind: "create", row, tx: response.headers.get("X-Transaction") });
      return row;
    } catch (error) {
      this.overlays.delete(temporary);
      this.emit();
      throw error;
    } finally {
      if (--this.creating === 0) this.release();
    }
  }

  /** Change a row. The new values are shown at once, and the old ones again if the service refuses them (`Refused`). */
  async update(key: Key, values: Partial<T>): Promise<T> {
    return this.change(this.find(key), { kind: "update", row: { ...values }, tx: null }, async () => {
      const response = await this.http.send("PATCH", this.address(key), { body: values });
      return [response, (await this.http.read(response)) as T];
    });
  }

  /** Delete a row. It disappears at once, and comes back if the service refuses that (`Refused`). */
  async delete(key: Key): Promise<void> {
    await this.change(this.find(key), { kind: "delete", row: {}, tx: null }, async () => [
      await this.http.send("DELETE", this.address(key)),
      undefined as never,
    ]);
  }

  private async change(key: string, overlay: Overlay, send: () => Promise<[Response, T]>): Promise<T> {
    const before = this.overlays.get(key);
    if (before && before.kind !== "delete") overlay.row = { ...before.row, ...overlay.row };
    if (before?.kind === "create" && overlay.kind === "update") overlay.kind = "create";
    clearTimeout(before?.timer);
    this.overlays.set(key, overlay);
    this.emit();
    try {
      const [response, row] = await send();
      if (this.overlays.get(key) === overlay) this.confirm(key, { ...overlay, tx: response.headers.get("X-Transaction") });
      return row;
    } catch (error) {
      if (this.overlays.get(key) === overlay) {
        this.overlays.delete(key);
        this.emit();
      }
      throw error;
    }
  }

  /** The service has made a change: it is shown until its event comes, which may have been the case already. */
  private confirm(key: string, overlay: Overlay): void {
    const arrived = overlay.tx === null || this.seen.delete(`${overlay.tx} ${key}`);
    clearTimeout(this.overlays.get(key)?.timer);
    if (arrived) this.overlays.delete(key);
    else {
      this.overlays.set(key, overlay);
      this.expire(key, overlay);
    }
    this.emit();
  }

  /** Show a change no longer whose event does not come, because this list does not show the row. */
  private expire(key: string, overlay: Overlay): void {
    overlay.timer = setTimeout(() => {
      if (this.overlays.get(key) !== overlay) return;
      if (this.state !== "live") return this.expire(key, overlay);
      this.overlays.delete(key);
      this.emit();
    }, UNCONFIRMED_MS);
  }

  private address(key: Key): string {
    return `${this.resource}/${String(key).split(",").map(encodeURIComponent).join(",")}/`;
  }

  /** The identity of the row with a key as in addresses. */
  private find(key: Key): string {
    const names = this.reader?.info.key ?? [];
    const found = this.rows.find(row => names.map(name => String(row[name])).join(",") === String(key));
    return found ? this.identity(found) : String(key);
  }

  // --- the list

  private async load(): Promise<void> {
    const turn = ++this.turn;
    this.reading = true;
    try {
      const reader = await this.prepare();
      const known = new Map([...this.overlays].filter(([, overlay]) => overlay.tx !== null));
      const { rows, more, count, position } = await reader.read(this.limit, SPARE_ROWS);
      if (turn !== this.turn) return;
      [this.rows, this.rest, this.total, this.failures, this.held, this.reading] = [rows, more, count, 0, [], false];
      for (const [key, overlay] of known) if (this.overlays.get(key) === overlay) this.drop(key); // the list has them
      this.unwatch?.();
      const query: Query = { resource: this.resource, params: streamParams(this.options, reader.info), position };
      this.unwatch = this.transport.watch(query, message => this.receive(message));
      this.emit();
    } catch (error) {
      if (turn !== this.turn) return;
      if (error instanceof Refused && !error.passes) return this.refuse(error.problem);
      this.set(this.state === "loading" ? "loading" : "connecting");
      this.plan(Math.min(LONGEST_WAIT_MS, 250 * 2 ** ++this.failures) * (0.5 + Math.random()));
    }
  }

  private async prepare(): Promise<Reader> {
    if (!this.reader) {
      const info = await this.describe(this.resource);
      this.reader ??= new Reader(this.http, this.resource, this.options, info);
      this.order = new Order(this.reader.ordering, info);
    }
    return this.reader;
  }

  private refuse(problem: Problem): void {
    this.refusal = problem;
    this.reading = false;
    this.set("refused");
  }

  private identity(row: Row): string {
    let found = this.identities.get(row);
    if (found === undefined) this.identities.set(row, (found = this.reader!.identity(row)));
    return found;
  }

  /** Load the list again, soon: at once for the first time, and more slowly if that happens again and again. */
  private plan(milliseconds?: number): void {
    if (this.planned !== null) return;
    const wait = milliseconds ?? Math.min(5000, RELOAD_MS * 2 ** this.reloads++) * (0.5 + Math.random());
    this.planned = setTimeout(() => {
      this.planned = null;
      setTimeout(() => (this.reloads = Math.max(0, this.reloads - 1)), 10 * wait);
      void this.load();
    }, wait);
  }

  // --- the stream

  private receive(message: Message): void {
    if (message.type === "state") {
      if (message.state === "refused") this.refuse(message.problem!);
      else this.set(message.state);
    } else if (message.type === "event") {
      if (message.event === "") this.hold(message.data);
      else if (message.event === "reset") this.plan(message.data.reason === "expansion_too_large" ? undefined : 0); // it may come often
      else if (message.event === "stale" && this.shows(message.data)) this.plan();
    }
  }

  /** Apply a change; while a row of one's own is on its way, later, so that it is not shown twice. */
  private hold(change: ChangeEvent): void {
    if (!this.held.length && !(this.creating && change.action === "INSERT")) return this.apply(change);
    if (this.held.push(change) === 1) setTimeout(() => this.release(), HELD_MS);
  }

  private release(): void {
    const held = this.held;
    this.held = [];
    for (const change of held) this.apply(change);
  }

  private apply(change: ChangeEvent): void {
    const key = this.reader!.identityOf(change.id);
    if (change.tx !== undefined) this.recognise(key, change.tx);
    const index = this.rows.findIndex(row => this.identity(row) === key);
    const before = index < 0 ? null : this.rows[index]!;
    if (before) this.rows.splice(index, 1);
    if (change.data) this.put(change.data, before, index);
    if (this.total !== null && change.action !== "UPDATE") this.total += change.action === "INSERT" ? 1 : -1;
    for (const watcher of [...this.watchers]) watcher({ ...change, before } as Change<T>);
    if (this.rest && this.rows.length < this.limit) this.plan(); // a row that is not here has moved up
    this.emit();
  }

  /** Put a row where the list has it, or leave it out if that is beyond what is kept. */
  private put(row: Row, before: Row | null, index: number): void {
    if (before && this.order!.same(before, row)) {
      this.rows.splice(index, 0, row);
      return;
    }
    const place = this.order!.place(row, this.rows);
    if (place === undefined) {
      this.rows.splice(before ? index : this.rows.length, 0, row); // until the list is loaded again
      this.plan();
    } else if (!(this.rest && place === this.rows.length)) {
      this.rows.splice(place, 0, row);
    }
    const most = this.limit + SPARE_ROWS;
    if (this.rows.length > most) {
      this.rows.length = most;
      this.rest = true;
    }
  }

  /** Whether a row here shows one of the related rows that have changed. */
  private shows({ path, ids }: { path: string; ids: Key[] | null }): boolean {
    if (ids === null) return true;
    const keys = new Set(ids.map(each => (path === "" ? this.reader!.identityOf(each) : String(each))));
    const steps = path === "" ? [] : path.split(".");
    if (!steps.length) return this.rows.some(row => keys.has(this.identity(row)));
    const reach = (value: any, at: number): boolean => {
      if (Array.isArray(value)) return value.some(each => reach(each, at));
      if (value === null || typeof value !== "object") return false;
      if (at < steps.length) return reach(value[steps[at]!], at + 1);
      const names = Object.keys(value);
      return !("id" in value) || keys.has(String(value.id)) || names.length === 0;
    };
    return this.rows.some(row => reach(row, 0));
  }

  private recognise(key: string, tx: string): void {
    if (this.overlays.get(key)?.tx === tx) return this.drop(key);
    if (!this.overlays.size) return;
    this.seen.add(`${tx} ${key}`);
    if (this.seen.size > REMEMBERED) this.seen.delete(this.seen.values().next().value!);
  }

  private drop(key: string): void {
    clearTimeout(this.overlays.get(key)?.timer);
    this.overlays.delete(key);
  }

  // --- what is shown

  private visible(): T[] {
    let shown = this.rows;
    if (this.overlays.size && this.order) {
      shown = [];
      const here = new Set<string>();
      for (const row of this.rows) {
        const key = this.identity(row);
        here.add(key);
        const overlay = this.overlays.get(key);
        if (overlay?.kind !== "delete") shown.push(overlay ? this.complete({ ...row, ...overlay.row }, row) : row);
      }
      for (const [key, { kind, row }] of this.overlays) {
        if (kind !== "create" || here.has(key)) continue;
        shown.splice(this.order.place(row, shown) ?? 0, 0, this.complete(row, {}));
      }
    }
    return shown.slice(0, this.limit) as T[];
  }

  /** A row of one's own with the related rows that are shown: as another row has them, or none until the event comes. */
  private complete(row: Row, before: Row): Row {
    const found: Row = { ...row };
    for (const path of this.options.expand ?? []) {
      const name = path.split("__")[0]!;
      const column = `${name}_id`;
      if (!(column in this.reader!.info.fields)) found[name] ??= [];
      else if (!(name in found) || row[column] !== before[column]) {
        const other = row[column] == null ? undefined : this.rows.find(each => each[column] === row[column]);
        found[name] = other?.[name] ?? null;
      }
    }
    return found;
  }

  private set(state: Status): void {
    if (this.state === state || this.state === "closed") return;
    this.state = state;
    this.emit();
  }

  /** Tell the listeners, once for all that happens in one turn. */
  private emit(): void {
    if (this.emitting) return;
    this.emitting = true;
    queueMicrotask(() => {
      this.emitting = false;
      this.snapshot = Object.freeze(this.visible());
      for (const listener of [...this.listeners]) listener(this.snapshot);
    });
  }
}
