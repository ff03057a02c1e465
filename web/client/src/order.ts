/** The order of a list, as far as it can be told without the database: texts are sorted by a collation that only it has. */

export type Row = Record<string, any>;

/** What `OPTIONS` of a list says about it. */
export interface ListInfo {
  /** The fields that addresses name a row by. */
  key: string[];
  /** The fields that events name a row by. */
  primary_key?: string[];
  fields: Record<string, { type: string; choices?: unknown[] }>;
  default_ordering: string[];
  ordered_by_choices?: string[];
  pagination: string;
  max_page_size: number;
}

/** The fields that tell rows apart: those that events name them by, if rows have them. */
export function identityFields(info: ListInfo): string[] {
  const found = info.primary_key ?? info.key;
  return found.every(name => name in info.fields) ? found : info.key;
}

const NUMBERS = new Set(["integer", "float", "smallint"]);
const MOMENTS = new Set(["date", "datetime", "time"]);

export class Order {
  readonly terms: { name: string; descending: boolean }[];

  constructor(
    ordering: string[],
    private readonly info: ListInfo,
  ) {
    const named = ordering.map(each => each.replace(/^-/, ""));
    this.terms = [
      ...ordering.map(each => ({ name: each.replace(/^-/, ""), descending: each.startsWith("-") })),
      ...identityFields(info).filter(name => !named.includes(name)).map(name => ({ name, descending: false })),
    ];
  }

  /** Whether two forms of a row have the same place. */
  same(one: Row, other: Row): boolean {
    return this.terms.every(({ name }) => name in one && name in other && one[name] === other[name]);
  }

  /** Negative if the first row comes first; `undefined` if only the database knows. */
  compare(one: Row, other: Row): number | undefined {
    for (const { name, descending } of this.terms) {
      if (!(name in one && name in other)) return undefined;
      const found = this.values(name, one[name], other[name]);
      if (found === undefined) return undefined;
      if (found !== 0) return descending ? -found : found;
    }
    return 0;
  }

  /** The place of a row among others, `undefined` if only the database knows. */
  place(row: Row, rows: readonly Row[]): number | undefined {
    let [low, high] = [0, rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const found = this.compare(row, rows[middle]!);
      if (found === undefined) return undefined;
      if (found < 0) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private values(name: string, one: any, other: any): number | undefined {
    if (one === other) return 0;
    if (one === null || other === null) return one === null ? 1 : -1; // PostgreSQL: null is greater than everything
    const field = this.info.fields[name];
    if (!field) return undefined;
    if (this.info.ordered_by_choices?.includes(name)) {
      const ranks = [one, other].map(value => field.choices?.indexOf(value) ?? -1);
      return ranks.includes(-1) ? undefined : ranks[0]! - ranks[1]!;
    }
    if (field.type === "boolean") return Number(one) - Number(other);
    if (NUMBERS.has(field.type)) return typeof one === "number" && typeof other === "number" ? one - other : undefined;
    if (field.type === "big_integer") return Number.isSafeInteger(one) && Number.isSafeInteger(other) ? one - other : undefined;
    if (field.type === "uuid") return one < other ? -1 : 1;
    if (MOMENTS.has(field.type)) return moments(one, other);
    if (field.type === "foreign_key" && typeof one === "number" && typeof other === "number") return one - other;
    return undefined;
  }
}

/** Two dates or times of the service, which are in UTC, with up to six digits of a second. */
function moments(one: string, other: string): number | undefined {
  const [a, b] = [one, other].map(text => /^(\d{4}-\d\d-\d\d|)(T?(?:\d\d:\d\d(?::\d\d)?)?)(?:\.(\d+))?(Z|\+00:00|)$/.exec(text));
  if (!a || !b) return undefined;
  const [left, right] = [a, b].map(found => found[1]! + found[2]! + (found[3] ?? "").padEnd(6, "0"));
  return left === right ? 0 : left! < right! ? -1 : 1;
}
