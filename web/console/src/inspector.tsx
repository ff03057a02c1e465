/** The stream inspector: what a stream sends, from where it resumes, and how to open it elsewhere. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { State } from "@rowcast/client";
import { base, client, session, stringify } from "./api";
import { notify } from "./notices";
import { Panel } from "./panel";

const KEPT_EVENTS = 200;

interface StreamEvent {
  event: string; // "" for a change
  data: any;
  position: string | null;
}

export function StreamInspector({ resource, query, onClose }: { resource: string; query: URLSearchParams; onClose(): void }) {
  const [parameters, setParameters] = useState(() => {
    const next = new URLSearchParams(query);
    next.delete("ordering");
    return next.toString();
  });
  const [from, setFrom] = useState("");
  const [position, setPosition] = useState("");
  const [state, setState] = useState<State | "closed">("closed");
  const [refused, setRefused] = useState("");
  const [events, setEvents] = useState<StreamEvent[]>([]);
  const stop = useRef<(() => void) | null>(null);
  const address = `/${resource}/stream/${parameters ? `?${parameters}` : ""}`;

  const close = () => {
    stop.current?.();
    stop.current = null;
  };
  const open = (start: string | null) => {
    close();
    setRefused("");
    setState("connecting");
    const params = Object.fromEntries(new URLSearchParams(parameters));
    stop.current = client.watch(resource, { params, position: start }, message => {
      if (message.type === "state") {
        setState(message.state);
        if (message.problem) setRefused(message.problem.detail ?? message.problem.title);
        return;
      }
      if (message.position) setPosition(message.position);
      if (message.type === "event") setEvents(current => [message, ...current].slice(0, KEPT_EVENTS));
    });
  };
  useEffect(() => {
    open(null);
    return close;
  }, []);

  const url = new URL(address.slice(1), base).href;
  const curl = `curl -N ${session.token ? "-H \"Authorization: Bearer $TOKEN\" " : ""}${position ? `-H 'Last-Event-ID: ${position}' ` : ""}'${url.replaceAll("'", "%27")}'`;
  const script = `const stream = new EventSource(${JSON.stringify(url)});\nstream.onmessage = event => console.log(JSON.parse(event.data));\nstream.addEventListener("reset", () => console.log("load the list again"));`;
  const copy = (text: string, what: string) =>
    navigator.clipboard.writeText(text).then(() => notify({ text: `${what} is on the clipboard.` }), () => notify({ text, failed: true }));

  return (
    <Panel title={`Stream of ${resource}`} close="Close the inspector" onClose={onClose}>
      <form onSubmit={event => { event.preventDefault(); open(from || null); }}>
        <label for="stream-query">Parameters</label>
        <input id="stream-query" class="code" value={parameters} placeholder="completed=false&fields=id,title" onInput={event => setParameters(event.currentTarget.value)} />
        <label for="stream-from">Resume from the position</label>
        <input id="stream-from" class="code" value={from} placeholder="now" onInput={event => setFrom(event.currentTarget.value)} />
        <div class="row buttons">
          <button type="submit" class="primary">Open</button>
          <button type="button" onClick={() => { close(); setState("closed"); }}>Close</button>
          <button type="button" disabled={!position} onClick={() => open(position)}>Resume</button>
          <button type="button" onClick={() => setEvents([])}>Clear</button>
          <button type="button" onClick={() => copy(curl, "The command")}>Copy as curl</button>
          <button type="button" onClick={() => copy(script, "The script")}>Copy as JavaScript</button>
        </div>
      </form>
      <p role="status"><span class={`state ${state}`}>{state}</span>{position && <> at <code>{position}</code></>}</p>
      {refused && <p class="error" role="alert">{refused}</p>}
      <ol class="events" reversed>
        {events.map((event, place) => (
          <li key={events.length - place} class={event.event}>
            <strong>{event.event || event.data?.action || "message"}</strong> {event.position && <button type="button" class="quiet code" title="Resume after this event" onClick={() => { setFrom(event.position!); open(event.position); }}>{event.position}</button>}
            <pre tabIndex={0}>{stringify(event.data, 2)}</pre>
          </li>
        ))}
      </ol>
    </Panel>
  );
}
