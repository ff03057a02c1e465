/** How a value is shown. */

import { useEffect, useState } from "preact/hooks";
import { type Field, labelByKey, stringify } from "./api";
import { LOCAL_ZONE } from "./times";

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function Shown({ value, field }: { value: unknown; field: Field | undefined }) {
  if (value === null || value === undefined) return <span class="null">—</span>;
  if (field?.type === "foreign_key") return <Label resource={field.to!} value={value} />;
  if (field?.type === "datetime" && typeof value === "string") {
    const date = new Date(value);
    return Number.isNaN(date.getTime()) ? <>{value}</> : <time dateTime={value} title={`${value} (shown for ${LOCAL_ZONE})`}>{MOMENT.format(date)}</time>;
  }
  if (typeof value === "boolean") return <span class={value ? "yes" : "no"}>{value ? "yes" : "no"}</span>;
  if (Array.isArray(value) && field?.type === "many_to_many") return <>{value.map((each, place) => <span class="chip" key={place}>{each && typeof each === "object" ? short(each) : <Label resource={field.to!} value={each} />}</span>)}</>;
  if (typeof value === "object") return <code>{stringify(value)}</code>;
  return <>{String(value)}</>;
}

function short(row: object): string {
  const text = Object.entries(row).find(([name, value]) => typeof value === "string" && !/id$/.test(name));
  return text ? String(text[1]) : stringify(row);
}

function Label({ resource, value }: { resource: string; value: unknown }) {
  const [label, set] = useState<string | null>(null);
  useEffect(() => {
    let current = true;
    labelByKey(resource, value).then(found => current && set(found));
    return () => {
      current = false;
    };
  }, [resource, value]);
  return <span title={String(value)}>{label ?? "…"}</span>;
}
