/** The actions that Python of the service adds, as buttons, with a form for their body. */

import { useEffect, useRef, useState } from "preact/hooks";
import { type Action, type Fields, Refused, type Row, parse, request, stringify } from "./api";
import { FieldRow, messages, starting, unreadable } from "./fields";
import { fail, notify } from "./notices";
import { refocus } from "./panel";

export function ActionButtons({ actions, rowKey, onDone }: { actions: Action[]; rowKey?: string; onDone?(): void }) {
  const [busy, setBusy] = useState("");
  const [result, setResult] = useState<{ label: string; text: string } | null>(null);
  const [asking, setAsking] = useState<Action | null>(null);
  const [refused, setRefused] = useState<Refused | null>(null);
  const opener = useRef<HTMLButtonElement | null>(null);
  const run = async (action: Action, body?: unknown) => {
    setBusy(action.id);
    setResult(null);
    setRefused(null);
    try {
      const path = action.path.replace(/\{\w+\}/, rowKey ?? "");
      const { data } = await request(action.method, path, action.body ? { body: body ?? {} } : {});
      if (data !== null) setResult({ label: action.label, text: typeof data === "string" ? data : stringify(data, 2) });
      notify({ text: `${action.label}: done.` });
      close();
      onDone?.();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (asking) setRefused(error);
      else fail(error);
    } finally {
      setBusy("");
      refocus(() => opener.current);
    }
  };
  const ask = (action: Action) => {
    setRefused(null);
    setAsking(action);
  };
  const close = () => {
    setAsking(null);
    refocus(() => opener.current);
  };
  return (
    <div class="actions">
      <div class="row">
        {actions.map(action => (
          <span key={action.id}>
            <button type="button" title={action.description} disabled={busy !== ""} aria-expanded={action.fields ? asking === action : undefined} onClick={event => { opener.current = event.currentTarget; void (action.fields ? ask(action) : run(action)); }}>
              {action.label}
            </button>
            {action.body && !action.fields && (
              <button type="button" class="quiet" disabled={busy !== ""} aria-label={`${action.label}, with a body`} title="Send a body, as JSON" onClick={event => { opener.current = event.currentTarget; ask(action); }}>{"{…}"}</button>
            )}
          </span>
        ))}
      </div>
      {asking && <BodyForm key={asking.id} action={asking} busy={busy !== ""} refused={refused} onSend={body => run(asking, body)} onCancel={close} />}
      {result && (
        <details open>
          <summary>{result.label}</summary>
          <pre tabIndex={0}>{result.text}</pre>
        </details>
      )}
    </div>
  );
}

interface BodyProps {
  action: Action;
  busy: boolean;
  refused: Refused | null;
  onSend(body: unknown): void;
  onCancel(): void;
}

/** The body of an action: a control for each field, or JSON where the document does not say which there are. */
function BodyForm({ action, busy, refused, onSend, onCancel }: BodyProps) {
  const fields: Fields = action.fields ?? {};
  const [values, setValues] = useState<Row>(() => starting(fields));
  const [text, setText] = useState("{}");
  const [wrong, setWrong] = useState<Record<string, string[]> | null>(null);
  const errors: Record<string, string[]> = wrong ?? messages(refused?.problem.errors);
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => form.current?.querySelector<HTMLElement>("input, select, textarea")?.focus(), []);
  const others = Object.entries(errors).filter(([name]) => !(name in fields));
  const send = () => {
    if (action.fields) {
      const found = unreadable(values);
      setWrong(found);
      if (!found) onSend(Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)));
      return;
    }
    let body: unknown;
    try {
      body = parse(text);
    } catch {
      setWrong({ body: ["This is not valid JSON."] });
      return;
    }
    setWrong(null);
    onSend(body);
  };
  return (
    <form class="body" ref={form} noValidate aria-label={action.label} onSubmit={event => { event.preventDefault(); send(); }} onKeyDown={event => { if (event.key === "Escape") { event.stopPropagation(); onCancel(); } }}>
      {(refused || others.length > 0) && (
        <p class="error" role="alert">{refused?.message}{others.map(([name, each]) => <span key={name}> {["body", "non_field_errors"].includes(name) ? "" : `${name}: `}{each.join(" ")}</span>)}</p>
      )}
      {Object.entries(fields).map(([name, field]) => (
        <FieldRow key={name} prefix="action" name={name} field={field} value={values[name]} errors={errors[name]} changed={false} disabled={busy} onChange={value => setValues(current => ({ ...current, [name]: value }))} />
      ))}
      {!action.fields && (
        <div class="field">
          <label for="action-body">Body of {action.label}, as JSON</label>
          <textarea id="action-body" class="code" rows={4} spellcheck={false} value={text} onInput={event => setText(event.currentTarget.value)} />
        </div>
      )}
      <div class="row buttons">
        <button type="submit" class="primary" disabled={busy}>Send</button>
        <button type="button" onClick={onCancel}>Cancel</button>
      </div>
    </form>
  );
}
