/** Reads a list, or the beginning of one, with the position from which its stream continues: all of one moment. */

import { type Http, Refused } from "./http";
import { type ListInfo, type Row, identityFields } from "./order";
import { type Selection, streamParams } from "./selection";

export interface Reading {
  rows: Row[];
  /** Whether there are more rows after them. */
  more: boolean;
  /** How many rows there are in all; `null` if the list does not say so. */
  count: number | null;
  position: string;
}

interface Page extends Omit<Reading, "more"> {
  path: string;
  next: string | null;
}

const PAGE_ROWS = 100;
const ANSWER_MS = 30_000; // for one response; then the request is sent again
const ATTEMPTS = 3; // to read parts of a list at one moment, while it changes

export class Reader {
  private exportable = true;
  readonly ordering: string[];

  constructor(
    private readonly http: Http,
    private readonly resource: string,
    private readonly query: Selection & { ordering?: string | readonly string[] },
    readonly info: ListInfo,
  ) {
    const { ordering } = query;
    this.ordering = ordering === undefined ? info.default_ordering : typeof ordering === "string" ? ordering.split(",") : [...ordering];
  }

  /** What tells a row from others, as an event's `id`. */
  identity(row: Row): string {
    const names = identityFields(this.info);
    return names.length === 1 ? String(row[names[0]!]) : names.map(name => encodeURIComponent(String(row[name]))).join(",");
  }

  /** The same of an event, or of a key in `stale`. */
  identityOf(id: unknown): string {
    if (Array.isArray(id)) return id.map(part => encodeURIComponent(String(part))).join(",");
    if (identityFields(this.info).length === 1) return String(id);
    return String(id).split(",").map(part => encodeURIComponent(decodeURIComponent(part))).join(",");
  }

  /** The first rows, and as many more as are cheap, up to `spare`; all of them if the limit is `Infinity`. */
  async read(limit: number, spare: number): Promise<Reading> {
    const most = limit + spare;
    const size = Math.min(this.info.max_page_size, most === Infinity ? PAGE_ROWS : most);
    const names: Record<string, string> = { page: "page_size", cursor: "page_size", offset: "limit" };
    const paged = names[this.info.pagination] ? { [names[this.info.pagination]!]: String(size) } : {};
    const path = this.path(paged);
    const first = await this.page(path);
    if (first.next === null || first.rows.length >= limit) return reading(first.rows, first.next, first);
    const found = await this.whole(most);
    if (!found) return this.pages(first, limit);
    let { count } = first;
    let whole = found;
    for (let attempt = 1; whole.more && count !== null && whole.position !== first.position; attempt++) {
      if (attempt === ATTEMPTS) {
        count = null; // of another moment
        break;
      }
      const [page, again] = await Promise.all([this.page(path), this.whole(most)]);
      if (again) [whole, count, first.position] = [again, page.count, page.position];
    }
    return { ...whole, count: whole.more ? count : whole.rows.length };
  }

  /** The first rows in one response, and so of one moment; `null` for a list that is not sent so. */
  private async whole(most: number): Promise<Omit<Reading, "count"> | null> {
    if (!this.exportable) return null;
    try {
      const response = await this.http.send("GET", this.path({}), {
        accept: "application/x-ndjson",
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      const { rows, more } = await this.lines(response, most);
      return { rows, more, position: positionOf(response) };
    } catch (error) {
      if (!(error instanceof Refused && (error.status === 400 || error.status === 406))) throw error;
      this.exportable = false; // Python makes it, or relations to many rows are expanded: there are only pages
      return null;
    }
  }

  /** The first lines of a response. The rest is not sent. */
  private async lines(response: Response, most: number): Promise<{ rows: Row[]; more: boolean }> {
    const rows: Row[] = [];
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return { rows, more: false };
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (rows.length === most) {
          await reader.cancel().catch(() => undefined);
          return { rows, more: true };
        }
        rows.push(this.http.parse(line));
      }
    }
  }

  /** Pages, one after the other: several times, if a change may have moved a row to another page meanwhile. */
  private async pages(first: Page, limit: number): Promise<Reading> {
    for (let attempt = 1; ; attempt++) {
      const found = new Map(first.rows.map(row => [this.identity(row), row]));
      let page = first;
      while (page.next !== null && found.size < limit) {
        page = await this.page(page.next);
        for (const row of page.rows) found.set(this.identity(row), row);
      }
      if (page.position === first.position || this.info.pagination === "cursor" || attempt === ATTEMPTS) {
        return reading([...found.values()], page.next, first);
      }
      first = await this.page(first.path);
    }
  }

  private async page(path: string): Promise<Page> {
    const response = await this.http.send("GET", path, { signal: AbortSignal.timeout(ANSWER_MS) });
    const body: unknown = await this.http.read(response);
    const position = positionOf(response);
    if (Array.isArray(body)) return { path, rows: body, count: body.length, next: null, position };
    const { results, next, count } = body as { results: Row[]; next: string | null; count?: number | null };
    return { path, rows: results, count: count ?? null, next: next === null ? null : `${this.resource}/${new URL(next).search}`, position };
  }

  private path(paged: Record<string, string>): string {
    const { expand, ...found } = streamParams(this.query, this.info);
    const ordering: Record<string, string> = this.query.ordering === undefined ? {} : { ordering: this.ordering.join(",") };
    return `${this.resource}/?${new URLSearchParams({ ...found, ...(expand ? { expand } : {}), ...ordering, ...paged })}`;
  }
}

function reading(rows: Row[], next: string | null, { count, position }: Page): Reading {
  return { rows, more: next !== null, count: next === null ? rows.length : count, position };
}

function positionOf(response: Response): string {
  const position = response.headers.get("X-Stream-Position");
  if (position === null) throw new Error("The response has no position."); // it took too long; the next one will have one
  return position;
}
