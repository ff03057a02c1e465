// What reads name with X-Read-After: what the client has written, read, and got as events, for as long as a replica may lack it.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

const { rowcast } = await import(process.env.ROWCAST_CLIENT ?? "../../../service/rowcast/assets/client.js");

let requests; // what has been sent: [method, what it names]
let position; // of the next read
let lag; // of the replicas, if there are any
let held; // a promise for which the next response waits

async function answer(address, { method = "GET", headers = {}, signal } = {}) {
  const path = new URL(address).pathname;
  if (path === "/stream/") return stream(signal);
  requests.push([method, headers["X-Read-After"]]);
  const found = method === "GET" ? { "X-Stream-Position": position } : { "X-Transaction": path.split("/")[1] };
  if (method === "GET" && lag !== null) found["X-Replica-Max-Lag"] = String(lag);
  await held;
  return new Response("{}", { headers: found });
}

let events; // sends an event with a position

function stream(signal) {
  const body = new ReadableStream({
    start(controller) {
      const send = text => controller.enqueue(new TextEncoder().encode(text));
      events = at => send(`event: query\ndata: {"query": "1"}\n\nid: ${at}\ndata: {"id": 1}\n\n`);
      signal.addEventListener("abort", () => controller.error(signal.reason));
    },
  });
  return new Response(body);
}

beforeEach(() => {
  [requests, position, lag, held] = [[], "1-1-0~9:9:", 5, undefined];
});
afterEach(() => delete globalThis.location);

const client = (options = {}) => rowcast("http://service/", { fetch: answer, ...options });
const reads = async made => (await made.send("GET", "things/"), requests.at(-1)[1]);

test("a read names the write before it, and the next one that read", async () => {
  const made = client();
  assert.equal(await reads(made), undefined);
  await made.send("POST", "812/");
  assert.deepEqual(requests.at(-1), ["POST", undefined]); // which is made on the primary
  position = "1-2-0~10:20:10,14";
  assert.equal(await reads(made), "812");
  assert.equal(await reads(made), "1-2-0~10:20:10,14");
  assert.equal(await reads(client()), undefined);
});

test("requests that overlap are all named", async () => {
  const made = client();
  let release;
  held = new Promise(resolve => (release = resolve));
  const writing = made.send("POST", "812/");
  const other = made.send("POST", "811/");
  const reading = made.send("GET", "things/");
  release();
  await Promise.all([writing, other, reading]);
  position = "1-5-0";
  assert.equal(await reads(made), "812 811 1-1-0~9:9:");
  assert.equal(await reads(made), "1-5-0");
});

test("what cannot be named in one header is read from the primary", async () => {
  const made = client();
  let release;
  held = new Promise(resolve => (release = resolve));
  const all = Array.from({ length: 20 }, (_, number) => made.send("POST", `${number + 100}/`));
  release();
  await Promise.all(all);
  assert.equal(await reads(made), "now");
  position = `1-1-0~1000:6000:${Array.from({ length: 810 }, (_, number) => number + 1000)}`;
  await reads(made);
  assert.equal(await reads(made), "now");
});

test("nothing is named when every replica has it", async context => {
  context.mock.timers.enable({ apis: ["Date"] });
  const made = client();
  lag = 2;
  await reads(made);
  await made.send("POST", "812/");
  context.mock.timers.tick(1900);
  assert.equal(await reads(made), "812");
  context.mock.timers.tick(1999);
  assert.equal(await reads(made), "1-1-0~9:9:");
  context.mock.timers.tick(2001);
  assert.equal(await reads(made), undefined);
});

test("the newest event is named, whatever another connection sends later", async () => {
  const made = client();
  let seen = 0;
  const end = made.watch("things", {}, message => message.type === "event" && seen++);
  const event = async at => {
    const before = seen;
    while (!events) await new Promise(resolve => setTimeout(resolve, 2));
    events(at);
    while (seen === before) await new Promise(resolve => setTimeout(resolve, 2));
  };
  await event("1-9-2");
  assert.equal(await reads(made), "1-9-2");
  await event("1-10-1");
  await event("1-9-3");
  assert.equal(await reads(made), "1-1-0~9:9: 1-10-1");
  await event("2-1-0~10:10:");
  assert.equal(await reads(made), "1-1-0~9:9: 2-1-0");
  end();
});

test("without replicas writes are named, which another process may not have in its memory yet", async () => {
  lag = null;
  const made = client();
  await reads(made);
  assert.equal(await reads(made), undefined);
  await made.send("POST", "811/");
  await made.send("POST", "812/");
  assert.equal(await reads(made), "812");
  assert.equal(await reads(made), "812");
});

test("on another origin nothing is named that would cost a request, unless there are replicas", async () => {
  globalThis.location = new URL("http://page/");
  lag = null;
  const made = client();
  await made.send("POST", "811/");
  assert.equal(await reads(made), "811"); // nobody has said yet that there are none
  await made.send("POST", "812/");
  assert.equal(await reads(made), undefined);
  lag = 5;
  assert.equal(await reads(made), undefined); // which says that there are
  assert.equal(await reads(made), "812 1-1-0~9:9:");
  lag = null;
  const known = client({ token: "secret" }); // for which browsers ask first anyway
  await reads(known);
  await known.send("POST", "812/");
  assert.equal(await reads(known), "812");
});
