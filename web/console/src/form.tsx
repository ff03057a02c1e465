/** The form of a row: create, change under If-Match, and choose between three versions after a conflict. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Abilities, type Description, Refused, type Field, type Fields, type Row, describe, forgetLabels, keyOf, request, stringify } from "./api";
import { ActionButtons } from "./actions";
import { Unreadable } from "./controls";
import { FieldRow, messages, starting, unreadable } from "./fields";
import { fail, notify, undoChange } from "./notices";
import { Panel, refocus } from "./panel";
import { Shown } from "./values";

interface Props {
  resource: string;
  about: Description;
  rowKey: string | null; // null: a new row
  /** The row as the table has it, if it is there. */
  live?: Row | undefined;
  abilities: Abilities;
  onClose(): void;
  onCreated(key: string): void;
}

interface Read {
  row: Row;
  etag: string | null;
  fields: Fields;
  writable: boolean;
  deletable: boolean;
}

interface Conflict {
  base: Row;
  theirs: Read;
}

export function RowForm({ resource, about, rowKey, live, abilities, onClose, onCreated }: Props) {
  const path = rowKey === null ? `/${resource}/` : `/${resource}/${rowKey}/`;
  const [read, setRead] = useState<Read | null>(null);
  const [values, setValues] = useState<Row>({});
  const [errors, setErrors] = useState<Record<string, string[]>>({});
  const [failure, setFailure] = useState<Refused | null>(null);
  const [busy, setBusy] = useState(false);
  const [conflict, setConflict] = useState<Conflict | null>(null);

  const load = async (): Promise<Read> => {
    if (rowKey === null) return { row: starting(about.actions["POST"]!), etag: null, fields: about.actions["POST"]!, writable: true, deletable: false };
    const description = await describe(path);
    const fields = description.actions["PATCH"] ?? about.list!.fields;
    const links = Object.keys(fields).filter(name => fields[name]!.type === "many_to_many");
    const expand = new URLSearchParams(links.length ? { expand: links.join(",") } : {});
    const [plain, expanded] = await Promise.all([
      request<Row>("GET", path),
      links.length ? request<Row>("GET", `${path}?${expand}`).catch(() => null) : null,
    ]);
    const row = { ...plain.data };
    for (const name of links) {
      const rows = expanded?.data[name] ?? row[name];
      if (Array.isArray(rows)) row[name] = await keys(fields[name]!, rows);
    }
    const may = (method: string) => abilities.operations.has(`${method} /${resource}/{}/`);
    return { row, etag: plain.headers.get("ETag"), fields, writable: "PATCH" in description.actions && may("PATCH"), deletable: may("DELETE") };
  };

  useEffect(() => {
    let current = true;
    setRead(null);
    setErrors({});
    setFailure(null);
    setConflict(null);
    load().then(found => {
      if (!current) return;
      setRead(found);
      setValues(found.row);
    }, error => current && setFailure(error instanceof Refused ? error : null));
    return () => {
      current = false;
    };
  }, [path]);

  const changed = useMemo(() => (read ? Object.keys(values).filter(name => !same(values[name], read.row[name])) : []), [values, read]);
  // Somebody else's change: shown at once, unless there is one's own; then saving is a choice.
  const shown = useRef(live);
  const [stale, setStale] = useState(false);
  useEffect(() => {
    const before = shown.current;
    shown.current = live;
    if (!read || rowKey === null || !before || before === live || busy) return;
    if (live && Object.entries(live).every(([name, value]) => !(name in read.row) || same(value, read.row[name]))) return;
    if (!live || changed.length) {
      setStale(true);
      return;
    }
    let current = true;
    load().then(next => {
      if (!current) return;
      setRead(next);
      setValues(mine => kept(mine, read.row, next.row));
    }, () => current && setStale(true));
    return () => {
      current = false;
    };
  }, [live]);
  useEffect(() => setStale(false), [read]);

  if (!read) {
    return (
      <Panel title={resource} close="Close the form" onClose={onClose}>
        {failure ? <p class="error" role="alert">{failure.message}</p> : <p>Loading…</p>}
      </Panel>
    );
  }

  const body = (): Row => {
    const names = rowKey === null ? Object.keys(values).filter(name => values[name] !== undefined && !read.fields[name]?.read_only) : changed;
    return Object.fromEntries(names.map(name => [name, values[name]]));
  };

  const save = async (etag = read.etag, sent = body(), base = read.row) => {
    const wrong = unreadable(sent);
    if (wrong) {
      setErrors(wrong);
      return;
    }
    setBusy(true);
    setErrors({});
    setFailure(null);
    try {
      if (rowKey === null) {
        const made = await request<Row>("POST", path, { body: sent });
        const key = keyOf(made.data, about.list?.key ?? ["id"]);
        const own = `/${resource}/${key}/`;
        const etag = made.headers.get("ETag");
        notify({
          text: "Created.",
          undo: async () => {
            await request("DELETE", own, { headers: etag ? { "If-Match": etag } : {} });
            notify({ text: "Undone." });
          },
        });
        onCreated(key);
        return;
      }
      const done = await request<Row>("PATCH", path, { body: sent, headers: etag ? { "If-Match": etag } : {} });
      forgetLabels(resource);
      const old = Object.fromEntries(Object.keys(sent).map(name => [name, base[name]]));
      const next = await load();
      setRead(next);
      setValues(next.row);
      setConflict(null);
      const undo = undoChange(path, old, done.headers.get("ETag") ?? next.etag, async () => {
        const undone = await load();
        setRead(undone);
        setValues(mine => kept(mine, next.row, undone.row));
      });
      notify({ text: "Saved.", undo });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.problem.status === 412 && rowKey !== null) {
        try {
          setConflict({ base: read.row, theirs: await load() });
        } catch (gone) {
          setFailure(gone instanceof Refused ? gone : error);
        }
      } else {
        const own = messages(error.problem.errors);
        setErrors(own);
        const unknown = Object.keys(own).some(name => !(name in read.fields));
        setFailure(error.problem.errors && !unknown ? null : error);
        requestAnimationFrame(() => document.querySelector<HTMLElement>(".panel [aria-invalid=true]")?.focus());
      }
    } finally {
      setBusy(false);
      refocus(() => document.querySelector<HTMLElement>(".panel h2"));
    }
  };

  const remove = async () => {
    if (!confirm(`Delete this row of ${resource}?`)) return;
    try {
      await request("DELETE", path, { headers: read.etag ? { "If-Match": read.etag } : {} });
      notify({ text: "Deleted.", ...undoDeletion(resource, path, about, read.row, abilities) });
      onClose();
    } catch (error) {
      if (error instanceof Refused && error.problem.status === 412) notify({ text: "The row has changed since you opened it. Look at it again before you delete it.", failed: true });
      else fail(error);
    }
  };

  if (conflict) {
    return (
      <Panel title="Two changes of this row" close="Close the form" onClose={onClose}>
        <ConflictForm conflict={conflict} mine={values} fields={read.fields} busy={busy} onSave={chosen => save(conflict.theirs.etag, chosen, conflict.theirs.row)}
          onDiscard={() => { setRead(conflict.theirs); setValues(conflict.theirs.row); setConflict(null); }} />
      </Panel>
    );
  }
  const own = abilities.actions.filter(each => each.resource === resource && each.detail && !(about.soft_delete && each.path.endsWith("/restore/"))); // the form is of rows that are there
  return (
    <Panel title={rowKey === null ? `New: ${about.name}` : about.name} close="Close the form" onClose={onClose}>
      {own.length > 0 && rowKey !== null && (
        <ActionButtons actions={own} rowKey={rowKey} onDone={async () => { const next = await load(); setRead(next); setValues(next.row); }} />
      )}
      <form noValidate onSubmit={event => { event.preventDefault(); void save(); }}>
        {stale && <p class="stale" role="status">{live ? "Somebody else has changed this row. When you save, you can choose." : "This row has left the table: it was deleted, or the filters exclude it now."}</p>}
        {failure && <p class="error" role="alert">{failure.message}{Object.entries(errors).filter(([name]) => !(name in read.fields)).map(([name, each]) => <span key={name}> {name === "non_field_errors" ? "" : `${name}: `}{each.join(" ")}</span>)}</p>}
        {Object.entries(read.fields).map(([name, field]) => (
          <FieldRow
            key={name} name={name} field={field} value={values[name]} errors={errors[name]} changed={rowKey !== null && changed.includes(name)}
            disabled={busy || !read.writable || field.read_only} onChange={value => setValues(current => ({ ...current, [name]: value }))}
          />
        ))}
        {(read.writable || read.deletable) && (
          <div class="row buttons">
            {read.writable && <button type="submit" class="primary" disabled={busy || (rowKey !== null && !changed.length)}>{rowKey === null ? "Create" : "Save"}</button>}
            {read.writable && rowKey !== null && <button type="button" disabled={busy || !changed.length} onClick={() => setValues(read.row)}>Reset</button>}
            {read.deletable && <button type="button" class="danger" disabled={busy} onClick={remove}>Delete</button>}
          </div>
        )}
      </form>
    </Panel>
  );
}

type Choice = "mine" | "theirs" | "base";

/** For each field that both have changed: the value as it was read, one's own, or that of somebody else. */
function ConflictForm({ conflict, mine, fields, busy, onSave, onDiscard }: { conflict: Conflict; mine: Row; fields: Fields; busy: boolean; onSave(values: Row): void; onDiscard(): void }) {
  const { base, theirs } = conflict;
  const own = Object.keys(mine).filter(name => !same(mine[name], base[name]));
  const both = own.filter(name => !same(theirs.row[name], base[name]) && !same(theirs.row[name], mine[name]));
  const [choices, set] = useState<Record<string, Choice>>({});
  const save = () => {
    const chosen: Row = {};
    for (const name of own) {
      const from = { mine, theirs: theirs.row, base }[choices[name] ?? "mine"];
      if (!same(from[name], theirs.row[name])) chosen[name] = from[name];
    }
    if (Object.keys(chosen).length) onSave(chosen);
    else onDiscard();
  };
  return (
    <form onSubmit={event => { event.preventDefault(); save(); }}>
      <p role="alert">Somebody has changed this row since you opened it. {both.length ? "Choose a value for each field that both of you have changed." : "Your fields are others than theirs, so both changes can stay."}</p>
      {own.map(name => {
        const labels: [Choice, string, unknown][] = [["mine", "yours", mine[name]], ["theirs", "theirs", theirs.row[name]], ["base", "before", base[name]]];
        const field = fields[name]!;
        return (
          <fieldset key={name} class="conflict" data-field={name}>
            <legend>{field.label}</legend>
            {labels.map(([choice, label, value]) => (
              <label key={choice}>
                <input type="radio" name={`conflict-${name}`} value={choice} checked={(choices[name] ?? "mine") === choice} onChange={() => set({ ...choices, [name]: choice })} />
                <strong>{label}</strong> <Shown value={value} field={field} />
              </label>
            ))}
          </fieldset>
        );
      })}
      <div class="row buttons">
        <button type="submit" class="primary" disabled={busy}>Save these values</button>
        <button type="button" disabled={busy} onClick={onDiscard}>Discard my changes</button>
      </div>
    </form>
  );
}

/** The keys of linked rows. */
async function keys(field: Field, rows: unknown[]): Promise<unknown[]> {
  const { list } = await describe(`/${field.to}/`);
  const name = list?.key[0] ?? "id";
  return rows.map(row => (row && typeof row === "object" ? (row as Row)[name] : row));
}

/** The values of a row that was read again, with what has been typed since it was read before. */
function kept(mine: Row, before: Row, next: Row): Row {
  return { ...next, ...Object.fromEntries(Object.entries(mine).filter(([name, value]) => !same(value, before[name]))) };
}

/** How to bring a deleted row back: a row that stays in its table is restored, any other is inserted again. */
function undoDeletion(resource: string, path: string, about: Description, row: Row, abilities: Abilities): { undo?: () => Promise<void> } {
  const fields = about.actions["POST"];
  let send: () => Promise<unknown>;
  if (about.soft_delete) {
    if (!abilities.operations.has(`POST /${resource}/{}/restore/`)) return {};
    send = () => request("POST", `${path}restore/`);
  } else {
    if (!fields || !abilities.operations.has(`POST /${resource}/`)) return {};
    const body = Object.fromEntries(Object.entries(row).filter(([name]) => fields[name] && !fields[name].read_only));
    send = () => request("POST", `/${resource}/`, { body });
  }
  return {
    undo: async () => {
      await send();
      notify({ text: "The row is there again." });
    },
  };
}

function same(one: unknown, other: unknown): boolean {
  if (one instanceof Unreadable || other instanceof Unreadable) return one === other;
  return one === other || stringify(one ?? null) === stringify(other ?? null);
}
