/** The filter builder: conditions and groups of them, made from what OPTIONS says that a list allows. */

import { useId, useRef, useState } from "preact/hooks";
import { type Filter, type ListInfo, describe, parse, stringify } from "./api";
import { RowPicker, RowsPicker } from "./controls";
import { useLoaded } from "./hooks";
import { refocus } from "./panel";

export interface Condition {
  kind: "condition";
  field: string;
  lookup: string;
  text: string;
}
export interface Group {
  kind: "and" | "or" | "not";
  items: Node[];
}
export type Node = Condition | Group;

const WORDS: Record<string, string> = {
  exact: "is", ne: "is not", gt: ">", gte: "≥", lt: "<", lte: "≤", in: "is one of", not_in: "is none of", range: "is between",
  isnull: "is empty", contains: "contains", icontains: "contains (any case)", startswith: "starts with",
  istartswith: "starts with (any case)", endswith: "ends with", iendswith: "ends with (any case)", iexact: "is (any case)",
  regex: "matches", iregex: "matches (any case)", search: "has the words", overlap: "has one of", len: "has the length",
};
const PICKED = new Set(["exact", "ne", "in", "not_in"]); // comparisons with keys of rows
const LISTS = new Set(["in", "not_in", "range", "overlap"]);
const TEXTS = new Set(["string", "text", "citext", "slug", "email", "url", "char"]); // which may be empty
const NUMBERS = new Set(["integer", "smallint", "big_integer", "float", "real"]);

/** The groups of `?filter=` as a tree. */
export function read(text: string | null, info: ListInfo): Group {
  const root: Group = { kind: "and", items: [] };
  if (!text) return root;
  let found: unknown;
  try {
    found = parse(text);
  } catch {
    return root;
  }
  root.items = nodes(found as Record<string, unknown>, info);
  const only = root.items[0];
  return root.items.length === 1 && only && only.kind !== "condition" ? only : root;
}

function nodes(object: Record<string, unknown>, info: ListInfo): Node[] {
  return Object.entries(object ?? {}).map(([name, value]): Node => {
    if (name === "and" || name === "or") return { kind: name, items: (value as any[]).flatMap(each => one(nodes(each, info))) };
    if (name === "not") return { kind: "not", items: nodes(value as any, info) };
    const field = Object.keys(info.filters).filter(each => name === each || name.startsWith(`${each}__`)).sort((a, b) => b.length - a.length)[0] ?? name;
    const lookup = name.slice(field.length + 2) || "exact";
    if (value === null) return { kind: "condition", field, lookup: "isnull", text: "true" };
    return { kind: "condition", field, lookup, text: Array.isArray(value) ? value.join(", ") : String(value) };
  });
}

function one(items: Node[]): Node[] {
  return items.length > 1 ? [{ kind: "and", items }] : items;
}

/** The tree as the value of `?filter=`; empty without conditions. */
export function write(group: Group, info: ListInfo): string {
  const object = written(group, info);
  return object && Object.keys(object).length ? stringify(object) : "";
}

function written(node: Node, info: ListInfo): Record<string, unknown> | null {
  if (node.kind === "condition") {
    const filter = info.filters[node.field];
    if (node.text === "" && !["isnull", "exact"].includes(node.lookup)) return null;
    if (node.text === "" && node.lookup === "exact" && filter && (filter.to || !TEXTS.has(filter.type))) return null; // not written yet
    const name = node.lookup === "exact" ? node.field : `${node.field}__${node.lookup}`;
    return { [name]: value(node, info.filters[node.field]) };
  }
  const items = node.items.map(each => written(each, info)).filter(each => each !== null);
  if (!items.length) return null;
  if (node.kind === "not") return { not: items.length === 1 ? items[0] : { and: items } };
  return items.length === 1 && node.kind === "and" ? items[0]! : { [node.kind]: items };
}

function value(condition: Condition, filter: Filter | undefined): unknown {
  if (condition.lookup === "isnull") return condition.text !== "false";
  const of = (text: string): unknown => {
    if (filter?.type === "boolean") return text === "true";
    if (filter && (NUMBERS.has(filter.type) || condition.lookup.startsWith("len")) && text !== "" && !Number.isNaN(Number(text))) return parse(text);
    if (filter?.type === "json") {
      try {
        return parse(text);
      } catch {
        return text;
      }
    }
    return text;
  };
  return LISTS.has(condition.lookup) ? condition.text.split(",").map(each => of(each.trim())) : of(condition.text);
}

interface Props {
  info: ListInfo;
  value: string;
  onChange(value: string): void;
}

/** The builder. Every change that makes a complete filter is applied at once. */
export function FilterBuilder({ info, value: text, onChange }: Props) {
  const [tree, set] = useState(() => read(text, info));
  const change = (next: Group) => {
    set(next);
    onChange(write(next, info));
  };
  return (
    <fieldset class="filters">
      <legend>Filters</legend>
      <GroupEditor group={tree} info={info} depth={0} onChange={change} />
    </fieldset>
  );
}

function first(info: ListInfo): Condition {
  const [field, filter] = Object.entries(info.filters)[0]!;
  return { kind: "condition", field, lookup: filter.lookups[0]!, text: starting(filter, filter.lookups[0]!) };
}

function starting(filter: Filter, lookup: string): string {
  if (lookup === "isnull" || filter.type === "boolean") return "true";
  return filter.choices && !LISTS.has(lookup) ? String(filter.choices[0]) : "";
}

function GroupEditor(props: { group: Group; info: ListInfo; depth: number; onChange(group: Group): void; onRemove?(): void }) {
  const { group, info, depth, onChange, onRemove } = props;
  const add = useRef<HTMLButtonElement>(null);
  const replace = (place: number, node: Node | null) => {
    const items = [...group.items];
    if (node) items[place] = node;
    else {
      items.splice(place, 1);
      refocus(() => add.current);
    }
    onChange({ ...group, items });
  };
  return (
    <div class="group" role="group" aria-label="Group of conditions">
      <label>
        <span class="hidden">How the conditions are joined</span>
        <select value={group.kind} onChange={event => onChange({ ...group, kind: event.currentTarget.value as Group["kind"] })}>
          <option value="and">all of</option>
          <option value="or">any of</option>
          <option value="not">not all of</option>
        </select>
      </label>
      {group.items.map((node, place) =>
        node.kind === "condition" ? (
          <ConditionEditor key={place} condition={node} info={info} onChange={each => replace(place, each)} onRemove={() => replace(place, null)} />
        ) : (
          <GroupEditor key={place} group={node} info={info} depth={depth + 1} onChange={each => replace(place, each)} onRemove={() => replace(place, null)} />
        ),
      )}
      <div class="row">
        <button type="button" ref={add} onClick={() => onChange({ ...group, items: [...group.items, first(info)] })}>Add condition</button>
        {depth < 4 && (
          <button type="button" onClick={() => onChange({ ...group, items: [...group.items, { kind: "or", items: [first(info)] }] })}>Add group</button>
        )}
        {onRemove && <button type="button" class="quiet" onClick={onRemove}>Remove group</button>}
      </div>
    </div>
  );
}

function ConditionEditor(props: { condition: Condition; info: ListInfo; onChange(condition: Condition): void; onRemove(): void }) {
  const { condition, info, onChange, onRemove } = props;
  const filter = info.filters[condition.field];
  const pick = (field: string, lookup?: string) => {
    const next = info.filters[field]!;
    const kept = lookup ?? (next.lookups.includes(condition.lookup) ? condition.lookup : next.lookups[0]!);
    onChange({ ...condition, field, lookup: kept, text: field === condition.field && lookup && kept !== "isnull" ? condition.text : starting(next, kept) });
  };
  return (
    <div class="row condition">
      <select aria-label="Field" value={condition.field} onChange={event => pick(event.currentTarget.value)}>
        {Object.keys(info.filters).map(name => <option key={name} value={name}>{name.replaceAll("__", " → ")}</option>)}
      </select>
      <select aria-label="Comparison" value={condition.lookup} onChange={event => pick(condition.field, event.currentTarget.value)}>
        {filter?.lookups.map(name => <option key={name} value={name}>{WORDS[name] ?? name.replaceAll("__", " ")}</option>)}
      </select>
      <ValueEditor condition={condition} filter={filter} onChange={text => onChange({ ...condition, text })} />
      <button type="button" class="quiet" aria-label="Remove this condition" onClick={onRemove}>×</button>
    </div>
  );
}

function ValueEditor({ condition, filter, onChange }: { condition: Condition; filter: Filter | undefined; onChange(text: string): void }) {
  const input = (event: { currentTarget: { value: string } }) => onChange(event.currentTarget.value);
  if (condition.lookup === "isnull" || filter?.type === "boolean") {
    return (
      <select aria-label="Value" value={condition.text} onChange={input}>
        <option value="true">yes</option>
        <option value="false">no</option>
      </select>
    );
  }
  if (filter?.choices && !LISTS.has(condition.lookup)) {
    return (
      <select aria-label="Value" value={condition.text} onChange={input}>
        {filter.choices.map(each => <option key={String(each)} value={String(each)}>{String(each)}</option>)}
      </select>
    );
  }
  if (filter?.to && PICKED.has(condition.lookup)) return <KeyEditor text={condition.text} to={filter.to} many={LISTS.has(condition.lookup)} onChange={onChange} />;
  const date = filter?.type === "date" && !LISTS.has(condition.lookup);
  const hint = LISTS.has(condition.lookup) ? "a, b" : filter?.type === "datetime" ? "2026-01-31T12:00:00Z" : "";
  return <input aria-label="Value" type={date ? "date" : "text"} value={condition.text} placeholder={hint} onChange={input} />;
}

/** The keys of rows of a resource: found by typing, or written where the resource has no list that the caller may read. */
function KeyEditor({ text, to, many, onChange }: { text: string; to: string; many: boolean; onChange(text: string): void }) {
  const id = useId();
  const about = useLoaded(() => describe(`/${to}/`), [to]);
  if (about.error || (about.value && about.value.list?.primary_key.length !== 1)) {
    return <input aria-label="Value" type="text" value={text} placeholder={many ? "a, b" : ""} onChange={event => onChange(event.currentTarget.value)} />;
  }
  if (!many) return <RowPicker id={id} resource={to} label="Value" value={text} onChange={key => onChange(key === null ? "" : String(key))} />;
  const keys = text.split(",").map(each => each.trim()).filter(Boolean);
  return <RowsPicker id={id} resource={to} label="Value" chosen="Chosen rows" value={keys} onChange={chosen => onChange([...new Set(chosen.map(String))].join(", "))} />;
}
