/** The fields of a form: a label, a control, and the service's messages. */

import type { Field, Fields, Row } from "./api";
import { Control, Unreadable } from "./controls";
import { Shown } from "./values";

export function FieldRow(props: { name: string; field: Field; value: unknown; errors: string[] | undefined; changed: boolean; disabled: boolean; prefix?: string; onChange(value: unknown): void }) {
  const { name, field, value, errors, disabled } = props;
  const id = `${props.prefix ?? "field"}-${name}`;
  const described = [field.help_text && `${id}-help`, errors && `${id}-errors`].filter(Boolean).join(" ") || undefined;
  return (
    <div class={`field${props.changed ? " changed" : ""}`} data-field={name}>
      <label for={id}>{field.label}{field.required && <span class="required" title="required"> *</span>}</label>
      {field.read_only ? <output id={id}><Shown value={value} field={field} /></output> : <Control id={id} field={field} value={value} disabled={disabled} describedBy={described} invalid={Boolean(errors)} onChange={props.onChange} />}
      {field.help_text && <small id={`${id}-help`}>{field.help_text}</small>}
      {errors && <small class="error" id={`${id}-errors`} role="alert">{errors.join(" ")}</small>}
    </div>
  );
}

/** The values of an empty form: defaults, where there are some, and what a box shows that nobody has ticked. */
export function starting(fields: Fields): Row {
  const found: Row = {};
  for (const [name, field] of Object.entries(fields)) {
    if (field.read_only) continue;
    if (field.default !== undefined) found[name] = field.default;
    else if (field.type === "boolean" && field.required && !field.null) found[name] = false;
  }
  return found;
}

/** The messages about values that cannot be sent; `null` if there are none. */
export function unreadable(values: Row): Record<string, string[]> | null {
  const names = Object.keys(values).filter(name => values[name] instanceof Unreadable);
  return names.length ? Object.fromEntries(names.map(name => [name, ["This is not valid JSON."]])) : null;
}

/** The messages of a problem by field, however they are nested. */
export function messages(errors: Record<string, unknown> | undefined): Record<string, string[]> {
  const flat = (value: unknown): string[] => (Array.isArray(value) ? value.flatMap(flat) : value && typeof value === "object" ? Object.entries(value).flatMap(([name, each]) => flat(each).map(text => `${name}: ${text}`)) : [String(value)]);
  return Object.fromEntries(Object.entries(errors ?? {}).map(([name, value]) => [name, flat(value)]));
}
