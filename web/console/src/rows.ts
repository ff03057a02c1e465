/** The rows of a table: a live list of the client, with marks on what has changed lately. */

import type { Change, Live, Problem, Status } from "@rowcast/client";
import { type ListInfo, type Row, client, keyOf } from "./api";
import type { Store } from "./hooks";

export interface Snapshot {
  rows: readonly Row[];
  /** The keys of the rows, as addresses have them. */
  keys: string[];
  count: number | null;
  more: boolean;
  loaded: boolean;
  loading: boolean;
  status: Status;
  problem: Problem | null;
  /** The rows that have changed lately, with the fields of each; "*" stands for a new row. */
  changed: ReadonlyMap<string, ReadonlySet<string>>;
}

const FIRST_ROWS = 80;
const MARK_MILLISECONDS = 4000;
const FRAME_MILLISECONDS = 16;

export class TableRows implements Store<Snapshot> {
  private readonly live: Live;
  private readonly keys = new WeakMap<Row, string>();
  private changed = new Map<string, Set<string>>();
  private listeners = new Set<() => void>();
  private snapshot: Snapshot;
  private planned = false;

  /** `query` has the parameters of the list. */
  constructor(
    resource: string,
    private readonly info: ListInfo,
    { ordering, ...params }: Record<string, string>,
  ) {
    this.live = client.live(resource, { params, limit: FIRST_ROWS, ...(ordering === undefined ? {} : { ordering }) });
    this.snapshot = this.take();
    this.live.subscribe(() => this.plan());
    this.live.changes(change => this.mark(change));
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };
  getSnapshot = (): Snapshot => this.snapshot;

  /** Show as many rows more as are shown. */
  more(): void {
    this.live.more(this.live.getSnapshot().length);
  }

  close(): void {
    this.live.close();
    this.listeners.clear();
  }

  private mark({ action, data, before, changed }: Change): void {
    if (action === "DELETE") return;
    const fields = new Set(before ? changed : ["*"]);
    const key = this.keyOf(data!);
    this.changed.set(key, fields);
    setTimeout(() => {
      if (this.changed.get(key) === fields) this.changed.delete(key);
      this.plan();
    }, MARK_MILLISECONDS);
  }

  private keyOf(row: Row): string {
    let key = this.keys.get(row);
    if (key === undefined) this.keys.set(row, (key = keyOf(row, this.info.key)));
    return key;
  }

  /** Show what there is, at most once a frame however many events come. */
  private plan(): void {
    if (this.planned) return;
    this.planned = true;
    setTimeout(() => {
      this.planned = false;
      this.snapshot = this.take();
      for (const listener of this.listeners) listener();
    }, FRAME_MILLISECONDS);
  }

  private take(): Snapshot {
    const { live } = this;
    const rows = live.getSnapshot();
    return {
      rows,
      keys: rows.map(row => this.keyOf(row)),
      count: live.count,
      more: live.hasMore,
      loaded: live.loaded,
      loading: live.loading,
      status: live.status,
      problem: live.problem,
      changed: new Map(this.changed),
    };
  }
}
