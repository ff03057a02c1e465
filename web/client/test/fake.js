// A service in memory, as `fetch` sees it: one resource, lists with an order and pages, and QUERY /stream/ with positions.

const { parse, stringify } = await import(process.env.ROWCAST_CLIENT ?? "../../../service/rowcast/assets/client.js");

export class FakeService {
  rows = new Map();
  log = []; // every change: {position, change}
  streams = new Set();
  requests = [];
  token = null; // if set, the only one that is accepted
  pageSize = 100;
  transactions = 100;
  refuse = null; // the status with which changes are refused
  key = ["id"]; // what addresses name a row by
  oldest = 0; // positions before it get a reset

  fields = {
    id: { type: "integer" },
    title: { type: "string" },
    rank: { type: "integer", null: true },
    category_id: { type: "foreign_key" },
  };

  fetch = async (address, { method = "GET", headers = {}, body, signal } = {}) => {
    const url = new URL(address);
    this.requests.push(`${method} ${url.pathname}${url.search}`);
    if (this.down) throw new TypeError("fetch failed");
    if (this.token !== null && headers.Authorization !== `Bearer ${this.token}`) return problem(401, "Wrong token.");
    this.sent = headers;
    const text = body instanceof Blob ? await body.text() : body;
    const parsed = text === undefined ? undefined : parse(text);
    if (method === "QUERY") return this.stream(parsed.queries, signal);
    if (method === "OPTIONS") return json({ list: this.description() });
    const named = decodeURIComponent(url.pathname.split("/")[2]);
    const key = [...this.rows.values()].find(row => String(row[this.key[0]]) === named)?.id;
    if (method === "GET") return this.list(url, headers.Accept);
    if (this.refuse) return problem(this.refuse, "Refused.");
    const tx = String(++this.transactions);
    if (method === "DELETE") {
      this.delete(key, tx);
      return new Response(null, { status: 204, headers: { "X-Transaction": tx } });
    }
    const row = method === "POST" ? { title: "", rank: null, id: this.rows.size + 1000, ...parsed } : { ...this.rows.get(key), ...parsed };
    const held = this.hold;
    this.put(row, tx);
    if (held) await held;
    return json(row, method === "POST" ? 201 : 200, { "X-Transaction": tx });
  };

  description() {
    return {
      key: this.key, primary_key: ["id"], fields: this.fields, default_ordering: ["rank"], pagination: "page", max_page_size: this.pageSize,
    };
  }

  list(url, accept) {
    const [name] = (url.searchParams.get("ordering") ?? "rank").split(",");
    const rows = [...this.rows.values()].filter(row => this.matches(row, url.searchParams.get("filter")));
    const field = name.replace("-", "");
    const sign = name.startsWith("-") ? -1 : 1;
    rows.sort((a, b) => sign * ((a[field] === null) - (b[field] === null) || (a[field] > b[field]) - (a[field] < b[field])) || a.id - b.id);
    const position = { "X-Stream-Position": String(this.log.length) };
    if (accept === "application/x-ndjson") {
      this.exported = 0;
      const lines = rows.values();
      const body = new ReadableStream({
        pull: controller => {
          const { value, done } = lines.next();
          if (done) return controller.close();
          this.exported++;
          controller.enqueue(new TextEncoder().encode(stringify(value) + "\n"));
        },
      });
      return new Response(body, { headers: position });
    }
    const size = Number(url.searchParams.get("page_size") ?? 20);
    const page = Number(url.searchParams.get("page") ?? 1);
    const next = new URL(url);
    next.searchParams.set("page", String(page + 1));
    const results = rows.slice((page - 1) * size, page * size);
    return json({ count: rows.length, results, next: rows.length > page * size ? next.href : null }, 200, position);
  }

  matches(row, filter) {
    return row && Object.entries(JSON.parse(filter ?? "{}")).every(([name, value]) => row[name] === value);
  }

  // --- changes

  put(row, tx = String(++this.transactions)) {
    const before = this.rows.get(row.id);
    this.rows.set(row.id, row);
    this.write({ before, after: row, tx });
  }

  delete(id, tx = String(++this.transactions)) {
    const before = this.rows.get(id);
    this.rows.delete(id);
    this.write({ before, after: undefined, tx });
  }

  write(change) {
    this.log.push(change);
    for (const stream of this.streams) stream.send(this.log.length);
  }

  announce(event, data) {
    for (const stream of this.streams) stream.all(event, data);
  }

  // --- streams

  stream(queries, signal) {
    const service = this;
    const encoder = new TextEncoder();
    const starts = Object.fromEntries(
      Object.entries(queries).map(([name, { last_event_id }]) => [name, Number(last_event_id ?? service.log.length)]),
    );
    let send;
    const body = new ReadableStream({
      start(controller) {
        const write = text => controller.enqueue(encoder.encode(text));
        const marked = (name, text) => write(`event: query\ndata: ${stringify({ query: name })}\n\n${text}`);
        send = {
          queries,
          send(n) {
            const { before, after, tx } = service.log[n - 1];
            for (const [name, { params }] of Object.entries(queries)) {
              if (n <= starts[name]) continue;
              const [was, is] = [before, after].map(row => service.matches(row, params.filter));
              if (!was && !is) continue;
              const change = {
                action: was ? (is ? "UPDATE" : "DELETE") : "INSERT", id: (after ?? before).id, data: is ? after : null, tx,
              };
              marked(name, `id: ${n}\ndata: ${stringify(change)}\n\n`);
            }
          },
          all: (event, data) => Object.keys(queries).forEach(name => marked(name, `event: ${event}\nid: ${service.log.length}\ndata: ${stringify(data)}\n\n`)),
          end: () => (service.streams.delete(send), controller.close()),
        };
        write("retry: 5\n\n");
        const from = Math.min(...Object.values(starts));
        if (from < service.oldest) send.all("reset", { reason: "expired" });
        send.all("ready", {});
        for (let n = from + 1; n <= service.log.length; n++) send.send(n);
        service.streams.add(send);
        signal.addEventListener("abort", () => {
          if (service.streams.delete(send)) controller.error(signal.reason);
        });
      },
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  /** Cut every connection, as a restart does. */
  cut() {
    for (const stream of [...this.streams]) stream.end();
  }
}

function json(body, status = 200, headers = {}) {
  return new Response(stringify(body), { status, headers: { "Content-Type": "application/json", ...headers } });
}

function problem(status, detail) {
  return json({ status, title: "Problem", detail, code: "problem" }, status);
}
