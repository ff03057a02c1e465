/** Import: a CSV or NDJSON file, tried first, with its errors by line. */

import { useState } from "preact/hooks";
import { Refused, request } from "./api";
import { fail, notify } from "./notices";
import { Panel } from "./panel";

interface Report {
  created: number;
  updated: number;
  failed: number;
  errors: { line: number; errors: Record<string, unknown> }[];
}

export function ImportPanel({ resource, onClose }: { resource: string; onClose(): void }) {
  const [file, setFile] = useState<File | null>(null);
  const [on, setOn] = useState("");
  const [skip, setSkip] = useState(false);
  const [busy, setBusy] = useState(false);
  const [report, setReport] = useState<{ dry: boolean; report: Report } | null>(null);
  const [over, setOver] = useState(false);

  const send = async (chosen: File, dry: boolean) => {
    setBusy(true);
    setReport(null);
    const query = new URLSearchParams();
    if (on) query.set("on", on);
    if (dry) query.set("dry_run", "true");
    if (skip) query.set("errors", "skip");
    const type = /\.(nd)?jsonl?$/i.test(chosen.name) ? "application/x-ndjson" : "text/csv";
    try {
      const { data } = await request<Report>("POST", `/${resource}/import/?${query}`, { body: chosen, headers: { "Content-Type": type } });
      setReport({ dry, report: data });
      if (!dry) notify({ text: `${data.created} rows created, ${data.updated} updated.` });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const errors = Object.entries(error.problem.errors ?? {}).filter(([line]) => /^\d+$/.test(line));
      if (errors.length) setReport({ dry, report: { created: 0, updated: 0, failed: errors.length, errors: errors.map(([line, each]) => ({ line: Number(line), errors: each as Record<string, unknown> })) } });
      else fail(error);
    } finally {
      setBusy(false);
    }
  };
  const choose = (chosen: File | undefined) => {
    if (!chosen) return;
    setFile(chosen);
    void send(chosen, true);
  };
  return (
    <Panel title={`Import into ${resource}`} close="Close the import" onClose={onClose}>
      <label
        class={over ? "drop over" : "drop"}
        onDragOver={event => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)}
        onDrop={event => { event.preventDefault(); setOver(false); choose(event.dataTransfer?.files[0]); }}
      >
        Drop a CSV or NDJSON file here, or choose one
        <input type="file" accept=".csv,.ndjson,.jsonl,text/csv" onChange={event => choose(event.currentTarget.files?.[0])} />
      </label>
      <div class="field">
        <label for="import-on">Update rows with the same (names of a unique rule; empty: only insert)</label>
        <input id="import-on" value={on} onChange={event => setOn(event.currentTarget.value)} />
      </div>
      <label><input type="checkbox" checked={skip} onChange={event => setSkip(event.currentTarget.checked)} /> Leave out lines with errors (otherwise all or nothing)</label>
      <div class="row buttons">
        <button type="button" disabled={!file || busy} onClick={() => send(file!, true)}>Try again</button>
        <button type="button" class="primary" disabled={!file || busy || !report || (report.report.failed > 0 && !skip)} onClick={() => send(file!, false)}>Import</button>
      </div>
      {busy && <p role="status">Reading {file?.name}…</p>}
      {report && (
        <div role="status">
          <p><strong>{report.dry ? "Trial" : "Done"}:</strong> {report.report.created} to create, {report.report.updated} to update, {report.report.failed} with errors.</p>
          {report.report.errors.length > 0 && (
            <table class="errors">
              <thead><tr><th scope="col">Line</th><th scope="col">Field</th><th scope="col">Message</th></tr></thead>
              <tbody>
                {report.report.errors.flatMap(({ line, errors }) => Object.entries(errors).map(([field, messages]) => <tr key={`${line}${field}`}><td>{line}</td><td>{field}</td><td>{([] as unknown[]).concat(messages).join(" ")}</td></tr>))}
              </tbody>
            </table>
          )}
        </div>
      )}
    </Panel>
  );
}
