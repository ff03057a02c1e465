/** The console: the resources of a service with counts that stay current, and the view of one. */

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Refused, abilities, base, client, describe, request, resources, session } from "./api";
import { hash, useLoaded, usePlace } from "./hooks";
import { Notices } from "./notices";
import { refocus } from "./panel";
import { Table } from "./table";

const COUNTED_RESOURCES = 200; // more would need more connections than a browser has
const COUNT_MILLISECONDS = 100;
const COUNTED_PAGES = ["page", "cursor", "offset"];

function useToken(): number {
  const [round, turn] = useState(0);
  useEffect(() => session.subscribe(() => turn(n => n + 1)), []);
  return round;
}

/** The number of rows of each resource, as its list has it now. */
function useCounts(names: string[], round: number): Record<string, string> {
  const [counts, set] = useState<Record<string, string>>({});
  useEffect(() => {
    const found: Record<string, string> = {};
    let timer = 0;
    let current = true;
    const show = (name: string, text: string) => {
      found[name] = text;
      timer ||= window.setTimeout(() => {
        timer = 0;
        set({ ...found });
      }, COUNT_MILLISECONDS);
    };
    const locked = ({ status }: { status: number }) => ([401, 403].includes(status) ? "🔒" : "");
    const ends = new Set<() => void>();
    for (const name of names.slice(0, COUNTED_RESOURCES)) {
      describe(`/${name}/`).then(
        ({ list }) => {
          if (!current || !list || !COUNTED_PAGES.includes(list.pagination)) return;
          const live = client.live(name, { limit: 1, fields: [] });
          ends.add(() => live.close());
          live.subscribe(() => {
            if (live.loaded) show(name, live.count === null ? "" : live.count.toLocaleString());
            else if (live.problem) show(name, locked(live.problem));
          });
        },
        error => current && show(name, error instanceof Refused ? locked(error) : ""),
      );
    }
    return () => {
      current = false;
      clearTimeout(timer);
      for (const end of ends) end();
    };
  }, [names.join(), round]);
  return counts;
}

function SignIn() {
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const [error, setError] = useState("");
  const round = useToken();
  const signedIn = session.token !== null;
  const input = useRef<HTMLInputElement>(null);
  const wasOpen = useRef(false);
  useEffect(() => {
    if (open) input.current?.focus();
    else if (wasOpen.current) refocus(() => document.querySelector<HTMLElement>(".signin button"));
    wasOpen.current = open;
  }, [open]);
  const enter = async () => {
    const before = session.token;
    session.set(text.trim().replace(/^(Bearer|Token)\s+/i, ""));
    try {
      await request("GET", "/openapi.json?as=me"); // wrong credentials are refused
      setOpen(false);
      setText("");
      setError("");
    } catch (failure) {
      session.set(before);
      setError(failure instanceof Refused ? failure.message : String(failure));
    }
  };
  if (signedIn && !open) return <div class="signin" key={round}><span>{who(session.token!)}</span> <button type="button" onClick={() => session.set(null)}>Sign out</button></div>;
  if (!open) return <div class="signin"><button type="button" onClick={() => setOpen(true)}>Sign in</button></div>;
  return (
    <form class="signin" onSubmit={event => { event.preventDefault(); void enter(); }} onKeyDown={event => event.key === "Escape" && setOpen(false)}>
      <label for="token">Token or JWT</label>
      <input id="token" ref={input} type="password" autocomplete="off" required value={text} aria-describedby="token-error" aria-invalid={error !== ""} onInput={event => setText(event.currentTarget.value)} />
      <button type="submit" class="primary">Sign in</button>
      <button type="button" onClick={() => setOpen(false)}>Cancel</button>
      <small id="token-error" class="error" role="alert">{error}</small>
    </form>
  );
}

/** The subject of a JWT, for the header; nothing is decided by it. */
function who(token: string): string {
  const payload = token.split(".")[1];
  if (!payload || token.split(".").length !== 3) return "signed in";
  try {
    return String(JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/"))).sub ?? "signed in");
  } catch {
    return "signed in";
  }
}

function Console({ title }: { title: string }) {
  const round = useToken();
  const place = usePlace();
  const names = useLoaded(resources, [round]);
  const able = useLoaded(abilities, [round]);
  const all = names.value ?? [];
  const counts = useCounts(all, round);
  const chosen = place.path[0] ?? all[0];
  const known = chosen !== undefined && (all.includes(chosen) || !names.value);
  useEffect(() => {
    document.title = chosen ? `${chosen} – ${title}` : title;
  }, [chosen]);
  useEffect(() => {
    const keys = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.key === "/" && !event.ctrlKey && !["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName)) {
        event.preventDefault();
        document.querySelector<HTMLElement>("input[type=search]")?.focus();
      }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  return (
    <div class="app">
      <a class="skip" href="#content" onClick={event => { event.preventDefault(); document.getElementById("content")?.focus(); }}>To the rows</a>
      <header class="top">
        <strong>{title}</strong>
        <a href={new URL("docs/", base).href}>Reference</a>
        <SignIn />
      </header>
      <nav aria-label="Resources">
        <ul>
          {all.map(name => (
            <li key={name}>
              <a href={hash([name])} aria-current={name === chosen ? "page" : undefined}><span>{name}</span> <span class="count">{counts[name]}</span></a>
            </li>
          ))}
        </ul>
        {names.error && <p class="error" role="alert">{names.error.message}</p>}
      </nav>
      <main id="content" tabIndex={-1}>
        {known && chosen !== undefined && able.value && <View key={`${chosen}${round}`} resource={chosen} query={place.query} able={able.value} />}
        {!known && names.value && (chosen === undefined ? <p class="empty">The service has no resources.</p> : <p class="error" role="alert">There is no resource {chosen}.</p>)}
        {able.error && !names.error && <p class="error" role="alert">{able.error.message}</p>}
      </main>
      <Notices />
    </div>
  );
}

function View({ resource, query, able }: { resource: string; query: URLSearchParams; able: import("./api").Abilities }) {
  const about = useLoaded(() => describe(`/${resource}/`), [resource]);
  if (about.error) {
    const locked = about.error instanceof Refused && [401, 403].includes(about.error.problem.status);
    return <p class="error" role="alert">{about.error.message}{locked && !session.token && " Sign in to see these rows."}</p>;
  }
  if (!about.value) return <p class="empty">Loading…</p>;
  if (!about.value.list) return <p class="empty">{resource} has no list that the console can show.</p>;
  return <Table resource={resource} about={about.value} abilities={able} query={query} />;
}

const root = document.getElementById("console")!;
render(<Console title={root.dataset["title"] ?? "Rowcast"} />, root);
