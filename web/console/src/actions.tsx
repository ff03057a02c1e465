/** The actions that Python of the service adds, as buttons. */

import { useState } from "preact/hooks";
import { type Action, Refused, parse, request, stringify } from "./api";
import { fail, notify } from "./notices";

export function ActionButtons({ actions, rowKey, onDone }: { actions: Action[]; rowKey?: string; onDone?(): void }) {
  const [busy, setBusy] = useState("");
  const [result, setResult] = useState<{ label: string; text: string } | null>(null);
  const [asking, setAsking] = useState<Action | null>(null);
  const run = async (action: Action, body?: unknown) => {
    setBusy(action.id);
    setResult(null);
    try {
      const path = action.path.replace(/\{\w+\}/, rowKey ?? "");
      const { data } = await request("GET" === action.method ? "GET" : action.method, path, action.method === "GET" ? {} : { body: body ?? {} });
      if (data !== null) setResult({ label: action.label, text: typeof data === "string" ? data : stringify(data, 2) });
      notify({ text: `${action.label}: done.` });
      setAsking(null);
      onDone?.();
    } catch (error) {
      if (error instanceof Refused) fail(error);
      else throw error;
    } finally {
      setBusy("");
    }
  };
  return (
    <div class="actions">
      <div class="row">
        {actions.map(action => (
          <button key={action.id} type="button" title={action.description} disabled={busy !== ""} onClick={() => (action.body ? setAsking(action) : run(action))}>
            {action.label}
          </button>
        ))}
      </div>
      {asking && <BodyForm action={asking} onSend={body => run(asking, body)} onCancel={() => setAsking(null)} />}
      {result && (
        <details open>
          <summary>{result.label}</summary>
          <pre tabIndex={0}>{result.text}</pre>
        </details>
      )}
    </div>
  );
}

function BodyForm({ action, onSend, onCancel }: { action: Action; onSend(body: unknown): void; onCancel(): void }) {
  const [text, set] = useState("{}");
  const send = () => {
    try {
      onSend(parse(text));
    } catch {
      notify({ text: "This is not valid JSON.", failed: true });
    }
  };
  return (
    <form onSubmit={event => { event.preventDefault(); send(); }}>
      <label for="action-body">Body of {action.label}, as JSON</label>
      <textarea id="action-body" class="code" rows={4} value={text} onInput={event => set(event.currentTarget.value)} />
      <div class="row">
        <button type="submit" class="primary">Send</button>
        <button type="button" onClick={onCancel}>Cancel</button>
      </div>
    </form>
  );
}
