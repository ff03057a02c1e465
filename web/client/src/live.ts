/** A live list: its rows as the service shows them, kept current by its stream, with one's own changes shown at once. */

import type { Message, Query, Transport } from "./connection";
import { type Http, type Problem, Refused } from "./http";
import { type ListInfo, Order, type Row } from "./order";

export interface LiveOptions {
  /** Conditions, as in `?filter=`: `{completed: false, or: [{priority: "high"}, {due__lt: "2026-01-01"}]}`. */
  filter?: Record<string, unknown>;
  /** Relations whose rows are shown. */
  expand?: readonly string[];
  /** As in `?ordering=`: `"-created_at"`, or several. By default that of the list. */
  ordering?: string | readonly string[];
  /** How many rows; without it all of them. */
  limit?: number;
  search?: string;
  fields?: readonly string[];
  /** Further parameters of the list and of its stream. */
  params?: Record<string, string>;
}

export type Status = "loading" | "live" | "connecting" | "refused" | "closed";
export type Key = string | number;
export type Listener<T> = (rows: readonly T[]) => void;

interface Overlay {
  kind: "create" | "update" | "delete";
  row: Row;
  /** The transaction of the confirmed change; its event takes the overlay away. */
  tx: string | null;
  timer?: ReturnType<typeof setTimeout>;
}

const SPARE_ROWS = 20; // kept beyond the limit, so that a deletion seldom needs another request
const PAGE_ROWS = 100;
const UNCONFIRMED_MS = 3000; // for which one's own change is shown without its event, which another filter may keep away
const REMEMBERED = 1000; // of one's own transactions whose events came before the response
const ANSWER_MS = 30_000; // for one response; then the request is sent again
const RELOAD_MS = 50;
const HELD_MS = 1000; // for which events wait for the response to a row of one's own, which one of them may be about
const LONGEST_WAIT_MS = 30_000;

export class Live<T extends Row = Row> {
  private rows: Row[] = [];
  private more = false;
  private order: Order | null = null;
  private info: ListInfo | null = null;
  private turn = 0;
  private unwatch: (() => void) | null = null;
  private overlays = new Map<string, Overlay>();
  private seen = new Set<string>();
  private listeners = new Set<Listener<T>>();
  private snapshot: readonly T[] = Object.freeze([]);
  private planned: ReturnType<typeof setTimeout> | null = null;
  private reloads = 0;
  private failures = 0;
  private created = 0;
  private creating = 0;
  private held: Change[] = [];
  private emitting = false;
  private exportable = true;
  private state: Status = "loading";
  private refusal: Problem | null = null;

  constructor(
    private readonly http: Http,
    private readonly transport: Transport,
    readonly resource: string,
    private readonly options: LiveOptions,
    private readonly describe: (resource: string) => Promise<ListInfo>,
  ) {
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

  /** `loading` until the first rows are there; `connecting` while the connection is lost; `refused`: see `problem`. */
  get status(): Status {
    return this.state;
  }

  /** Why the list is refused. */
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
      const row = (await response.json()) as T;
      this.overlays.delete(temporary);
      this.confirm(this.keyOf(row), { kind: "create", row, tx: response.headers.get("X-Transaction") });
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
    return this.change(String(key), { kind: "update", row: { ...values }, tx: null }, async () => {
      const response = await this.http.send("PATCH", this.address(key), { body: values });
      return [response, (await response.json()) as T];
    });
  }

  /** Delete a row. It disappears at once, and comes back if the service refuses that (`Refused`). */
  async delete(key: Key): Promise<void> {
    await this.change(String(key), { kind: "delete", row: {}, tx: null }, async () => [
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

  // --- the list

  private async load(): Promise<void> {
    const turn = ++this.turn;
    try {
      this.info ??= await this.describe(this.resource);
      this.order ??= new Order(this.ordering() ?? this.info.default_ordering, this.info);
      const known = new Map([...this.overlays].filter(([, overlay]) => overlay.tx !== null));
      const { rows, more, position } = await this.read();
      if (turn !== this.turn) return;
      [this.rows, this.more, this.failures, this.held] = [rows, more, 0, []];
      for (const [key, overlay] of known) if (this.overlays.get(key) === overlay) this.drop(key); // the list has them
      this.unwatch?.();
      const query: Query = { resource: this.resource, params: this.streamParams(), position };
      this.unwatch = this.transport.watch(query, message => turn === this.turn && this.receive(message));
      this.emit();
    } catch (error) {
      if (turn !== this.turn) return;
      if (error instanceof Refused && !error.passes) return this.refuse(error.problem);
      this.set(this.state === "loading" ? "loading" : "connecting");
      this.plan(Math.min(LONGEST_WAIT_MS, 250 * 2 ** ++this.failures) * (0.5 + Math.random()));
    }
  }

  private refuse(problem: Problem): void {
    this.refusal = problem;
    this.set("refused");
  }

  /** The rows, whether there are more, and the position from which the stream continues: all of one moment. */
  private async read(): Promise<{ rows: Row[]; more: boolean; position: string }> {
    const { limit } = this.options;
    const info = this.info!;
    const size = Math.min(info.max_page_size, limit === undefined ? PAGE_ROWS : limit + SPARE_ROWS);
    const names: Record<string, string> = { page: "page_size", cursor: "page_size", offset: "limit" };
    const paged = names[info.pagination] ? { [names[info.pagination]!]: String(size) } : {};
    const first = await this.page(`${this.resource}/?${this.search({ ...this.listParams(), ...paged })}`);
    if (first.next === null || first.rows.length >= (limit ?? Infinity)) return { ...first, more: first.next !== null };
    const found = await this.whole();
    if (!found) return this.pages(first);
    const most = (limit ?? Infinity) + SPARE_ROWS;
    return { rows: found.rows.slice(0, most), more: found.rows.length > most, position: found.position };
  }

  /** All rows in one response, and so of one moment; `null` for a list that is not sent so. */
  private async whole(): Promise<{ rows: Row[]; position: string } | null> {
    if (!this.exportable) return null;
    try {
      const path = `${this.resource}/?${this.search(this.listParams())}`;
      const signal = AbortSignal.timeout(ANSWER_MS);
      const response = await this.http.send("GET", path, { accept: "application/x-ndjson", signal });
      const lines = (await response.text()).split("\n").filter(Boolean);
      return { rows: lines.map(line => JSON.parse(line) as Row), position: positionOf(response) };
    } catch (error) {
      if (!(error instanceof Refused && (error.status === 400 || error.status === 406))) throw error;
      this.exportable = false; // Python makes it, or relations to many rows are expanded: there are only pages
      return null;
    }
  }

  /** All pages: several times, if something has been changed meanwhile that may have moved a row to another page. */
  private async pages(first: Page): Promise<{ rows: Row[]; more: boolean; position: string }> {
    const { limit } = this.options;
    for (let attempt = 1; ; attempt++) {
      const found = new Map(first.rows.map(row => [this.keyOf(row), row]));
      let page = first;
      while (page.next !== null && (limit === undefined || found.size < limit)) {
        page = await this.page(page.next);
        for (const row of page.rows) found.set(this.keyOf(row), row);
      }
      if (page.position === first.position || this.info!.pagination === "cursor" || attempt === 3)
        return { rows: [...found.values()], more: page.next !== null, position: first.position };
      first = await this.page(first.path);
    }
  }

  private async page(path: string): Promise<Page> {
    const response = await this.http.send("GET", path, { signal: AbortSignal.timeout(ANSWER_MS) });
    const body: unknown = await response.json();
    const position = positionOf(response);
    if (Array.isArray(body)) return { path, rows: body as Row[], next: null, position };
    const { results, next } = body as { results: Row[]; next: string | null };
    return { path, rows: results, next: next === null ? null : `${this.resource}/${new URL(next).search}`, position };
  }

  private ordering(): string[] | null {
    const { ordering } = this.options;
    return ordering === undefined ? null : typeof ordering === "string" ? ordering.split(",") : [...ordering];
  }

  private streamParams(): Record<string, string> {
    const { filter, expand, search, fields, params } = this.options;
    const found: Record<string, string> = { ...params, expand: (expand ?? []).join(",") };
    if (filter && Object.keys(filter).length) found.filter = JSON.stringify(filter);
    if (search) found.search = search;
    if (fields) found.fields = [...new Set([...fields, ...(expand ?? []).map(path => path.split("__")[0]!), ...this.info!.key])].join(",");
    return found;
  }

  private listParams(): Record<string, string> {
    const { expand, ...found } = this.streamParams();
    const ordering = this.ordering();
    return { ...found, ...(expand ? { expand } : {}), ...(ordering ? { ordering: ordering.join(",") } : {}) };
  }

  private search(params: Record<string, string>): string {
    return String(new URLSearchParams(params));
  }

  private keyOf(row: Row): string {
    return this.info!.key.map(name => String(row[name])).join(",");
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
      else if (message.event === "reset") this.plan(0);
      else if (message.event === "stale" && this.shows(message.data)) this.plan();
    }
  }

  /** Apply a change; while a row of one's own is on its way, later, so that it is not shown twice. */
  private hold(change: Change): void {
    if (!this.held.length && !(this.creating && change.action === "INSERT")) return this.apply(change);
    if (this.held.push(change) === 1) setTimeout(() => this.release(), HELD_MS);
  }

  private release(): void {
    const held = this.held;
    this.held = [];
    for (const change of held) this.apply(change);
  }

  private apply(change: Change): void {
    const key = String(change.id);
    if (change.tx !== undefined) this.recognise(key, change.tx);
    const index = this.rows.findIndex(row => this.keyOf(row) === key);
    const before = index < 0 ? null : this.rows[index]!;
    if (before) this.rows.splice(index, 1);
    if (change.data) this.put(change.data, before, index);
    const { limit } = this.options;
    if (limit !== undefined && this.more && this.rows.length < limit) this.plan(); // a row that is not here has moved up
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
    } else if (!(this.more && place === this.rows.length)) {
      this.rows.splice(place, 0, row);
    }
    const most = (this.options.limit ?? Infinity) + SPARE_ROWS;
    if (this.rows.length > most) {
      this.rows.length = most;
      this.more = true;
    }
  }

  /** Whether a row here shows one of the related rows that have changed. */
  private shows({ path, ids }: { path: string; ids: Key[] | null }): boolean {
    if (ids === null) return true;
    const keys = new Set(ids.map(String));
    const steps = path === "" ? [] : path.split(".");
    if (!steps.length) return this.rows.some(row => keys.has(this.keyOf(row)));
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
        const key = this.keyOf(row);
        here.add(key);
        const overlay = this.overlays.get(key);
        if (overlay?.kind !== "delete") shown.push(overlay ? this.complete({ ...row, ...overlay.row }, row) : row);
      }
      for (const [key, { kind, row }] of this.overlays) {
        if (kind !== "create" || here.has(key)) continue;
        shown.splice(this.order.place(row, shown) ?? 0, 0, this.complete(row, {}));
      }
    }
    return shown.slice(0, this.options.limit) as T[];
  }

  /** A row of one's own with the related rows that are shown: as another row has them, or none until the event comes. */
  private complete(row: Row, before: Row): Row {
    const found: Row = { ...row };
    for (const path of this.options.expand ?? []) {
      const name = path.split("__")[0]!;
      const column = `${name}_id`;
      if (!(column in this.info!.fields)) found[name] ??= [];
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

interface Change {
  action: "INSERT" | "UPDATE" | "DELETE";
  id: Key;
  data: Row | null;
  tx?: string;
}

interface Page {
  path: string;
  rows: Row[];
  next: string | null;
  position: string;
}

function positionOf(response: Response): string {
  const position = response.headers.get("X-Stream-Position");
  if (position === null) throw new Error("The response has no position."); // it took too long; the next one will have one
  return position;
}
