/** JSON whose large integers keep their digits, as BigInt, in browsers that show the source of a number. */

type Revive = (key: string, value: unknown, context?: { source?: string }) => unknown;
type RawJSON = { rawJSON?: (text: string) => unknown };

const LARGE = /\d{16}/;

/** The value of a JSON text. Integers that a number cannot hold are BigInt. */
export function parse(text: string): any {
  return LARGE.test(text) ? JSON.parse(text, revive as (key: string, value: unknown) => unknown) : JSON.parse(text);
}

const revive: Revive = (_, value, context) =>
  typeof value === "number" && context?.source && /^-?\d{16,}$/.test(context.source) && !Number.isSafeInteger(value)
    ? BigInt(context.source)
    : value;

/** A value as JSON. BigInt is an integer with all its digits. */
export function stringify(value: unknown, indent?: number): string {
  const raw = (JSON as RawJSON).rawJSON;
  return JSON.stringify(value, (_, each) => (typeof each === "bigint" ? (raw ? raw(String(each)) : Number(each)) : each), indent);
}
