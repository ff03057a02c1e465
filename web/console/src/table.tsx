/** The table of a resource: rows of a live list, of which only those on the screen are in the document. */

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { ActionButtons } from "./actions";
import { type Abilities, type Description, type ListInfo, client } from "./api";
import { FilterBuilder } from "./filters";
import { RowForm } from "./form";
import { go, useStore } from "./hooks";
import { ImportPanel } from "./importing";
import { StreamInspector } from "./inspector";
import { fail } from "./notices";
import { useReturnedFocus } from "./panel";
import { TableRows } from "./rows";
import { Shown } from "./values";

const ROW_PIXELS = 34;
const MARGIN_ROWS = 15;
const DEFAULT_COLUMNS = 8;
const PARAMETERS = ["search", "filter", "ordering"];

interface Props {
  resource: string;
  about: Description;
  abilities: Abilities;
  query: URLSearchParams;
}

export function Table({ resource, about, abilities, query }: Props) {
  const info = about.list!;
  const asked = PARAMETERS.filter(name => query.get(name)).map(name => [name, query.get(name)!]);
  const key = JSON.stringify(asked);
  const streams = abilities.streams.has(resource);
  const list = useMemo(() => new TableRows(resource, info, Object.fromEntries(asked)), [resource, key]);
  useEffect(() => () => list.close(), [list]);
  const { rows, keys, count, status, problem, loaded, loading, more, changed } = useStore(list);
  const failure = problem && (streams || !loaded) ? problem : null; // a list without a stream is shown all the same
  const [filtering, setFiltering] = useState(query.has("filter"));

  const change = (changes: Record<string, string | null>, replace = false) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries(changes)) {
      if (value) next.set(name, value);
      else next.delete(name);
    }
    go([resource], next, replace);
  };
  const names = columnsOf(info, rows[0]);
  const columns = query.get("columns")?.split(",").filter(name => names.includes(name)) ?? defaultColumns(names, info);
  const ordering = query.get("ordering")?.split(",") ?? info.default_ordering;
  const sort = (name: string) => change({ ordering: ordering[0] === name ? `-${name}` : name });
  const creates = "POST" in about.actions && abilities.operations.has(`POST /${resource}/`);
  const open = query.get("row");
  const panel = query.get("panel");
  useReturnedFocus(open ?? panel, () => document.querySelector<HTMLElement>("tr[tabindex='0']"));

  return (
    <div class="view">
      <div class="main">
        <header class="bar">
          <h1>{about.name}</h1>
          <span class={`state ${status}`} role="status" title="Whether changes arrive">{STATES[status]}</span>
          <span class="count">{count === null ? `${rows.length}${more ? "+" : ""}` : count.toLocaleString()} rows</span>
          <Search info={info} value={query.get("search") ?? ""} onChange={search => change({ search }, true)} />
          {Object.keys(info.filters).length > 0 && <button type="button" aria-expanded={filtering} onClick={() => setFiltering(!filtering)}>Filters{query.has("filter") ? " ●" : ""}</button>}
          <Columns names={names} chosen={columns} info={info} onChange={chosen => change({ columns: chosen.join(",") }, true)} />
          {creates && <button type="button" class="primary" onClick={() => change({ row: null, panel: "new" })}>New</button>}
          {streams && <button type="button" onClick={() => change({ row: null, panel: "stream" })}>Stream</button>}
          {abilities.imports.has(resource) && <button type="button" onClick={() => change({ row: null, panel: "import" })}>Import</button>}
          {about.renders.includes("text/csv") && <Export resource={resource} query={new URLSearchParams(asked)} />}
        </header>
        {about.description && <p class="description">{about.description.split("\n")[0]}</p>}
        {abilities.actions.some(each => each.resource === resource && !each.detail) && <ActionButtons actions={abilities.actions.filter(each => each.resource === resource && !each.detail)} />}
        {filtering && <FilterBuilder key={resource} info={info} value={query.get("filter") ?? ""} onChange={filter => change({ filter }, true)} />}
        {failure && <p class="error" role="alert">{failure.detail ?? failure.title}{failure.type?.startsWith("/") && <> <a href={failure.type} target="_blank" rel="noreferrer">{failure.code}</a></>}</p>}
        <Grid
          info={info} rows={rows} keys={keys} columns={columns} changed={changed} count={count} open={open} ordering={ordering} loading={loading} more={more}
          onSort={sort} onOpen={row => change({ row, panel: null })} onEnd={() => list.more()} label={about.name}
        />
      </div>
      {open !== null && <RowForm key={`${resource}/${open}`} resource={resource} about={about} rowKey={open} live={rows[keys.indexOf(open)]} abilities={abilities} onClose={() => change({ row: null })} onCreated={row => change({ row, panel: null })} />}
      {open === null && panel === "new" && creates && <RowForm key="new" resource={resource} about={about} rowKey={null} abilities={abilities} onClose={() => change({ panel: null })} onCreated={row => change({ row, panel: null })} />}
      {open === null && panel === "stream" && <StreamInspector resource={resource} query={new URLSearchParams(asked)} onClose={() => change({ panel: null })} />}
      {open === null && panel === "import" && <ImportPanel resource={resource} onClose={() => change({ panel: null })} />}
    </div>
  );
}

const STATES = { loading: "connecting", live: "live", connecting: "reconnecting", paused: "paused", refused: "not live", closed: "closed" };

function columnsOf(info: ListInfo, row: Record<string, unknown> | undefined): string[] {
  const declared = Object.entries(info.fields).filter(([name, field]) => field.type !== "many_to_many" || (row && name in row)).map(([name]) => name);
  const computed = Object.keys(row ?? {}).filter(name => !declared.includes(name) && !Object.values(info.fields).some(field => field.type === "foreign_key" && name === field.label));
  return [...declared, ...computed];
}

/** The columns without a choice: those that say something in a line. */
function defaultColumns(names: string[], info: ListInfo): string[] {
  const hidden = (name: string) => ["uuid", "text", "json", "many_to_many"].includes(info.fields[name]?.type ?? "") || name === "created_at" || name === "updated_at";
  const shown = names.filter(name => !hidden(name));
  return (shown.length ? shown : names).slice(0, DEFAULT_COLUMNS);
}

function Search({ info, value, onChange }: { info: ListInfo; value: string; onChange(value: string): void }) {
  const [text, set] = useState(value);
  const timer = useRef(0);
  useEffect(() => set(value), [value]);
  if (!info.search) return null;
  return (
    <input
      type="search" class="search" aria-label="Search" placeholder="Search  /" value={text}
      onInput={event => {
        const written = event.currentTarget.value;
        set(written);
        clearTimeout(timer.current);
        timer.current = window.setTimeout(() => onChange(written), 250);
      }}
    />
  );
}

function Columns({ names, chosen, info, onChange }: { names: string[]; chosen: string[]; info: ListInfo; onChange(chosen: string[]): void }) {
  return (
    <Menu title="Columns">
      <div class="sheet" role="group" aria-label="Columns">
        {names.map(name => (
          <label key={name}>
            <input type="checkbox" checked={chosen.includes(name)} disabled={chosen.length === 1 && chosen[0] === name} onChange={event => onChange(names.filter(each => (each === name ? event.currentTarget.checked : chosen.includes(each))))} />{" "}
            {info.fields[name]?.label ?? name}
          </label>
        ))}
      </div>
    </Menu>
  );
}

function Export({ resource, query }: { resource: string; query: URLSearchParams }) {
  const save = async (type: string, extension: string) => {
    try {
      const response = await client.send("GET", `${resource}/?${query}`, { accept: type });
      const address = URL.createObjectURL(await response.blob());
      const link = document.createElement("a");
      link.href = address;
      link.download = `${resource}.${extension}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      fail(error);
    }
  };
  return (
    <Menu title="Export">
      <div class="sheet">
        <button type="button" onClick={() => save("text/csv", "csv")}>CSV</button>
        <button type="button" onClick={() => save("application/x-ndjson", "ndjson")}>NDJSON</button>
      </div>
    </Menu>
  );
}

/** A sheet below a button. Escape closes it, and so does the focus when it goes elsewhere. */
function Menu({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <details
      class="menu"
      onKeyDown={event => {
        if (event.key !== "Escape" || !event.currentTarget.open) return;
        event.currentTarget.open = false;
        event.currentTarget.querySelector("summary")!.focus();
      }}
      onFocusOut={event => {
        if (event.relatedTarget && !event.currentTarget.contains(event.relatedTarget as Node)) event.currentTarget.open = false;
      }}
    >
      <summary>{title}</summary>
      {children}
    </details>
  );
}

interface GridProps {
  info: ListInfo;
  label: string;
  rows: readonly Record<string, unknown>[];
  keys: string[];
  columns: string[];
  changed: ReadonlyMap<string, ReadonlySet<string>>;
  count: number | null;
  open: string | null;
  ordering: string[];
  loading: boolean;
  more: boolean;
  onSort(name: string): void;
  onOpen(key: string): void;
  onEnd(): void;
}

function Grid(props: GridProps) {
  const { info, rows, keys, columns, changed, count, open, ordering, loading, more } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [active, setActive] = useState(0);
  useLayoutEffect(() => {
    const element = scroller.current!;
    const measure = () => setHeight(element.clientHeight || 600);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top / ROW_PIXELS) - MARGIN_ROWS);
  const last = Math.min(rows.length, Math.ceil((top + height) / ROW_PIXELS) + MARGIN_ROWS);
  useEffect(() => {
    if (more && !loading && last >= rows.length - MARGIN_ROWS) props.onEnd();
  }, [last, rows.length, more, loading]);

  const focus = (place: number) => {
    const next = Math.max(0, Math.min(rows.length - 1, place));
    setActive(next);
    const element = scroller.current!;
    const [from, to] = [next * ROW_PIXELS, (next + 2) * ROW_PIXELS];
    if (from < element.scrollTop) element.scrollTop = from;
    else if (to > element.scrollTop + element.clientHeight) element.scrollTop = to - element.clientHeight;
    requestAnimationFrame(() => element.querySelector<HTMLElement>(`tr[data-place="${next}"]`)?.focus());
  };
  const keysPressed = (event: KeyboardEvent) => {
    const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 };
    if (event.key in steps) focus(active + steps[event.key]!);
    else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(rows.length - 1);
    else if (event.key === "Enter" && keys[active] !== undefined) props.onOpen(keys[active]!);
    else return;
    event.preventDefault();
  };

  return (
    <div class="scroller" ref={scroller} onScroll={event => setTop(event.currentTarget.scrollTop)} tabIndex={rows.length ? -1 : 0} role="region" aria-label={`Rows of ${props.label}`}>
      <table aria-rowcount={count ?? -1} aria-label={props.label} aria-busy={loading}>
        <thead>
          <tr>
            {columns.map(name => {
              const label = info.fields[name]?.label ?? name;
              const order = info.ordering.includes(name) ? name : name.replace(/_id$/, "");
              const sortable = info.ordering.includes(order);
              const step = ordering[0]?.replace("-", "") === order ? (ordering[0]!.startsWith("-") ? "descending" : "ascending") : undefined;
              return (
                <th key={name} scope="col" aria-sort={sortable ? (step ?? "none") : undefined}>
                  {sortable ? <button type="button" class="sort" onClick={() => props.onSort(order)}>{label}{step ? (step === "ascending" ? " ↑" : " ↓") : ""}</button> : label}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody onKeyDown={keysPressed}>
          {first > 0 && <tr aria-hidden="true" style={{ height: `${first * ROW_PIXELS}px` }}><td colSpan={columns.length} /></tr>}
          {rows.slice(first, last).map((row, place) => {
            const key = keys[first + place]!;
            const marks = changed.get(key);
            return (
              <tr
                key={key} data-place={first + place} data-key={key} aria-rowindex={first + place + 2} tabIndex={first + place === Math.min(active, rows.length - 1) ? 0 : -1}
                class={`${marks?.has("*") ? "new" : ""} ${open === key ? "open" : ""}`} aria-selected={open === key}
                onClick={() => { setActive(first + place); props.onOpen(key); }} onFocus={() => setActive(first + place)}
              >
                {columns.map(name => (
                  <td key={name} class={marks?.has(name) ? "fresh" : undefined}><Shown value={row[name]} field={info.fields[name]} /></td>
                ))}
              </tr>
            );
          })}
          {last < rows.length && <tr aria-hidden="true" style={{ height: `${(rows.length - last) * ROW_PIXELS}px` }}><td colSpan={columns.length} /></tr>}
        </tbody>
      </table>
      {!rows.length && <p class="empty">{loading ? "Loading…" : "There are no rows here."}</p>}
    </div>
  );
}
