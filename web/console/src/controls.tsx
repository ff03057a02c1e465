/** The control of a field, by its type. */

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { type Field, type Row, describe, keyOf, labelByKey, labelOf, parse, request, stringify } from "./api";
import { refocus } from "./panel";
import { LOCAL_ZONE, moment, wallClock, zones } from "./times";

export interface ControlProps {
  id: string;
  field: Field;
  value: unknown;
  disabled: boolean;
  describedBy: string | undefined;
  invalid: boolean;
  onChange(value: unknown): void;
}

const NUMERIC = new Set(["integer", "smallint", "big_integer", "float", "real", "decimal"]);
const LONG = new Set(["text"]);
const INPUTS: Record<string, string> = { email: "email", url: "url", date: "date" };

/** A value that is not valid JSON; it is not sent. */
export class Unreadable {
  constructor(readonly text: string) {}
}

/** An input for a field. An empty one is null where the field allows it. */
export function Control(props: ControlProps) {
  const { field, value, onChange } = props;
  const shared = {
    id: props.id,
    disabled: props.disabled,
    "aria-describedby": props.describedBy,
    "aria-invalid": props.invalid,
    required: field.required,
  };
  const empty = field.null ? null : "";
  if (field.type === "boolean" && !field.null) {
    return <input {...shared} required={false} type="checkbox" checked={value === true} onChange={event => onChange(event.currentTarget.checked)} />;
  }
  if (field.type === "boolean") {
    const shown = value === null || value === undefined ? "" : String(value);
    return (
      <select {...shared} value={shown} onChange={event => onChange(event.currentTarget.value === "" ? null : event.currentTarget.value === "true")}>
        <option value="">unknown</option>
        <option value="true">yes</option>
        <option value="false">no</option>
      </select>
    );
  }
  if (field.type === "array" && field.choices) return <Choices {...props} />;
  if (field.choices) {
    const place = field.choices.findIndex(each => each === value);
    return (
      <select {...shared} value={String(place)} onChange={event => onChange(event.currentTarget.value === "-1" ? empty : field.choices![Number(event.currentTarget.value)])}>
        {(field.null || place < 0) && <option value="-1">—</option>}
        {field.choices.map((each, number) => <option key={number} value={String(number)}>{String(each)}</option>)}
      </select>
    );
  }
  if (field.type === "foreign_key") return <Relation {...props} />;
  if (field.type === "many_to_many") return <Relations {...props} />;
  if (field.type === "datetime") return <Moment {...props} />;
  if (field.type === "json" || field.type === "array") return <Json {...props} />;
  const text = value === null || value === undefined ? "" : String(value);
  if (LONG.has(field.type)) {
    return <textarea {...shared} rows={4} maxLength={field.max_length} value={text} onInput={event => onChange(event.currentTarget.value === "" ? empty : event.currentTarget.value)} />;
  }
  const change = (event: { currentTarget: HTMLInputElement }) => {
    const written = event.currentTarget.value;
    onChange(written === "" ? empty : NUMERIC.has(field.type) && field.type !== "decimal" ? number(written) : written);
  };
  return (
    <input
      {...shared}
      type={field.write_only ? "password" : (INPUTS[field.type] ?? (field.type === "time" ? "time" : "text"))}
      step={field.type === "time" ? 1 : undefined}
      inputMode={NUMERIC.has(field.type) ? "decimal" : undefined}
      autocomplete="off"
      maxLength={field.max_length}
      placeholder={field.type === "duration" ? "PT1H30M" : undefined}
      value={text}
      onInput={change}
    />
  );
}

function number(text: string): unknown {
  if (!/^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text.trim())) return text; // the service says what is wrong with it
  return parse(text.trim());
}

function Choices({ id, field, value, disabled, describedBy, onChange }: ControlProps) {
  const chosen = Array.isArray(value) ? value : [];
  return (
    <div class="chips" role="group" id={id} aria-describedby={describedBy} aria-label={field.label}>
      {field.choices!.map(each => (
        <label key={String(each)}>
          <input
            type="checkbox" disabled={disabled} checked={chosen.includes(each)}
            onChange={event => onChange(event.currentTarget.checked ? [...chosen, each] : chosen.filter(other => other !== each))}
          />{" "}
          {String(each)}
        </label>
      ))}
    </div>
  );
}

function Json({ id, field, value, disabled, describedBy, invalid, onChange }: ControlProps) {
  const [text, set] = useState(() => (value === undefined ? "" : stringify(value, 2)));
  const shown = useRef(value);
  useEffect(() => {
    if (!(value instanceof Unreadable) && stringify(value ?? null) !== stringify(shown.current ?? null)) set(value === undefined ? "" : stringify(value, 2));
    shown.current = value;
  }, [value]);
  const change = (event: { currentTarget: HTMLTextAreaElement }) => {
    const written = event.currentTarget.value;
    set(written);
    let next: unknown = undefined;
    try {
      next = written.trim() === "" ? (field.null ? null : undefined) : parse(written);
    } catch {
      next = new Unreadable(written);
    }
    shown.current = next;
    onChange(next);
  };
  return (
    <>
      <textarea id={id} class="code" rows={4} spellcheck={false} disabled={disabled} aria-describedby={describedBy} aria-invalid={invalid || value instanceof Unreadable} value={text} onInput={change} />
      {value instanceof Unreadable && <small class="error">This is not valid JSON yet.</small>}
    </>
  );
}

function Moment({ id, field, value, disabled, describedBy, invalid, onChange }: ControlProps) {
  const [zone, setZone] = useState(field.zone ?? LOCAL_ZONE);
  const wall = typeof value === "string" ? wallClock(value, zone) : "";
  return (
    <div class="row">
      <input
        id={id} type="datetime-local" step={1} disabled={disabled} aria-describedby={describedBy} aria-invalid={invalid} value={wall}
        onChange={event => onChange(event.currentTarget.value ? moment(event.currentTarget.value, zone) : field.null ? null : "")}
      />
      <select aria-label={`Time zone of ${field.label}`} disabled={disabled} value={zone} onChange={event => setZone(event.currentTarget.value)}>
        {zones().map(each => <option key={each} value={each}>{each}</option>)}
      </select>
    </div>
  );
}

interface Option {
  key: unknown;
  label: string;
}

const SUGGESTIONS = 10;

/** The rows of a resource that fit what somebody types. */
async function suggestions(resource: string, text: string, signal: AbortSignal): Promise<Option[]> {
  const { list } = await describe(`/${resource}/`);
  if (!list) return [];
  const query = new URLSearchParams();
  if (list.pagination === "page" || list.pagination === "cursor") query.set("page_size", String(SUGGESTIONS));
  if (list.pagination === "offset") query.set("limit", String(SUGGESTIONS));
  const contains = Object.entries(list.filters).find(([, filter]) => filter.lookups.includes("icontains"));
  if (text && list.search) query.set("search", text);
  else if (text && contains) query.set(`${contains[0]}__icontains`, text);
  const { data } = await request<any>("GET", `/${resource}/?${query}`, { signal });
  const rows: Row[] = Array.isArray(data) ? data : data.results;
  const options = rows.map(row => ({ key: list.primary_key.length === 1 ? row[list.primary_key[0]!] : keyOf(row, list.primary_key), label: labelOf(row, list) }));
  const wanted = text.toLowerCase();
  return options.filter(each => list.search || contains || !text || each.label.toLowerCase().includes(wanted)).slice(0, SUGGESTIONS);
}

/** A text field that suggests rows: https://www.w3.org/WAI/ARIA/apg/patterns/combobox/ */
function TypeAhead(props: { id: string; resource: string; label: string; text: string; disabled: boolean; describedBy: string | undefined; invalid?: boolean; clears?: boolean; onPick(option: Option | null): void }) {
  const [text, setText] = useState(props.text);
  const [options, setOptions] = useState<Option[] | null>(null);
  const [active, setActive] = useState(-1); // of the options; none until somebody has typed or gone to one
  const abort = useRef<AbortController | null>(null);
  const leaving = useRef(0);
  const list = useId();
  useEffect(() => setText(props.text), [props.text]);

  const search = (written: string) => {
    abort.current?.abort();
    abort.current = new AbortController();
    const { signal } = abort.current;
    suggestions(props.resource, written, signal).then(found => {
      if (signal.aborted) return;
      setOptions(found);
      setActive(written ? 0 : -1);
    }, () => signal.aborted || setOptions([]));
  };
  const close = () => {
    abort.current?.abort();
    setOptions(null);
  };
  const pick = (option: Option) => {
    close();
    setText(props.clears ? "" : option.label);
    props.onPick(option);
  };
  const keys = (event: KeyboardEvent) => {
    if (event.key === "Escape" && options) {
      event.stopPropagation();
      close();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!options) search(text);
      else if (options.length) setActive(event.key === "ArrowDown" ? (active + 1) % options.length : (active > 0 ? active : options.length) - 1);
    } else if (event.key === "Enter" && options?.[active]) {
      event.preventDefault();
      pick(options[active]);
    }
  };
  return (
    <div class="combobox">
      <input
        id={props.id} type="text" role="combobox" autocomplete="off" aria-autocomplete="list" aria-expanded={options !== null} aria-controls={list}
        aria-activedescendant={options?.[active] ? `${list}-${active}` : undefined} aria-describedby={props.describedBy} aria-invalid={props.invalid ?? false}
        disabled={props.disabled} value={text} placeholder={`Search ${props.resource}`} aria-label={props.label || undefined}
        onFocus={() => { clearTimeout(leaving.current); search(""); }} onKeyDown={keys}
        onBlur={() => { leaving.current = window.setTimeout(() => { close(); setText(current => (current === "" ? "" : props.text)); }, 150); }}
        onInput={event => {
          setText(event.currentTarget.value);
          if (event.currentTarget.value === "") props.onPick(null);
          search(event.currentTarget.value);
        }}
      />
      <ul id={list} role="listbox" aria-label={`Rows of ${props.resource}`} hidden={!options}>
        {options?.map((option, place) => (
          <li key={String(option.key)} id={`${list}-${place}`} role="option" aria-selected={place === active} onMouseDown={event => { event.preventDefault(); pick(option); }}>
            {option.label}
          </li>
        ))}
        {options?.length === 0 && <li role="option" aria-selected={false} aria-disabled="true">No rows</li>}
      </ul>
    </div>
  );
}

function useLabel(resource: string, key: unknown): string {
  const [label, set] = useState("");
  useEffect(() => {
    let current = true;
    set("");
    if (key !== null && key !== undefined && key !== "") labelByKey(resource, key).then(found => current && set(found));
    return () => {
      current = false;
    };
  }, [resource, key]);
  return label;
}

function Relation({ id, field, value, ...others }: ControlProps) {
  return <RowPicker id={id} resource={field.to!} label="" value={value} {...others} />;
}

function Relations({ id, field, value, ...others }: ControlProps) {
  return <RowsPicker id={id} resource={field.to!} label="" chosen={`Chosen ${field.label}`} value={Array.isArray(value) ? value : []} {...others} />;
}

interface PickerProps<Value> {
  id: string;
  resource: string;
  /** The name of the input, where no `<label>` has it. */
  label: string;
  value: Value;
  disabled?: boolean;
  describedBy?: string | undefined;
  invalid?: boolean;
  onChange(value: Value): void;
}

/** The key of a row, which is found by typing; `null` for none. */
export function RowPicker({ id, resource, label, value, disabled = false, describedBy, invalid = false, onChange }: PickerProps<unknown>) {
  const text = useLabel(resource, value);
  return <TypeAhead id={id} resource={resource} label={label} text={text} disabled={disabled} describedBy={describedBy} invalid={invalid} onPick={option => onChange(option ? option.key : null)} />;
}

/** The keys of rows, which are found by typing. */
export function RowsPicker({ id, resource, label, chosen, value: keys, disabled = false, describedBy, onChange }: PickerProps<unknown[]> & { chosen: string }) {
  const remove = (key: unknown) => {
    onChange(keys.filter(each => each !== key));
    refocus(() => document.getElementById(id));
  };
  return (
    <div>
      <ul class="chips" aria-label={chosen}>
        {keys.map(key => <Chip key={String(key)} resource={resource} value={key} disabled={disabled} onRemove={() => remove(key)} />)}
      </ul>
      <TypeAhead
        id={id} resource={resource} label={label} text="" disabled={disabled} describedBy={describedBy} clears
        onPick={option => option && !keys.includes(option.key) && onChange([...keys, option.key])}
      />
    </div>
  );
}

function Chip({ resource, value, disabled, onRemove }: { resource: string; value: unknown; disabled: boolean; onRemove(): void }) {
  const label = useLabel(resource, value);
  return (
    <li>
      {label || String(value)}
      {!disabled && <button type="button" class="quiet" aria-label={`Remove ${label}`} onClick={onRemove}>×</button>}
    </li>
  );
}
