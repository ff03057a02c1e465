// The client against a service in memory: what is shown after each kind of event, and after what goes wrong.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { FakeService } from "./fake.js";

const { Refused, parse, rowcast, stringify } = await import(process.env.ROWCAST_CLIENT ?? "../../../service/rowcast/assets/client.js");

let service;
let client;
let open;

beforeEach(() => {
  service = new FakeService();
  for (let id = 1; id <= 5; id++) service.put({ id, title: `t${id}`, rank: id * 10 });
  open = [];
  const made = rowcast("http://service/", { fetch: service.fetch });
  client = { live: (...args) => (open.push(made.live(...args)), open.at(-1)) };
});
afterEach(() => open.forEach(live => live.close()));

/** Wait until a list has these ids, in this order. */
async function shows(live, ids) {
  await until(() => live.getSnapshot().map(row => row.id).join() === ids.join(), () => `${live.getSnapshot().map(row => row.id)} is not ${ids}`);
}

async function until(condition, message = () => String(condition)) {
  const end = Date.now() + 5000;
  while (!condition()) {
    assert.ok(Date.now() < end, message());
    await new Promise(resolve => setTimeout(resolve, 2));
  }
}

async function live(...args) {
  const list = client.live("things", ...args);
  await until(() => list.status === "live", () => list.status);
  return list;
}

test("first the list, then every change, in the list's order", async () => {
  const list = await live({});
  const seen = [];
  list.subscribe(rows => seen.push(rows.map(row => row.id).join()));
  await shows(list, [1, 2, 3, 4, 5]);
  service.put({ id: 6, title: "new", rank: 25 });
  await shows(list, [1, 2, 6, 3, 4, 5]);
  service.put({ id: 1, title: "moved", rank: 45 });
  await shows(list, [2, 6, 3, 4, 1, 5]);
  service.delete(3);
  await shows(list, [2, 6, 4, 1, 5]);
  service.put({ id: 2, title: "same place", rank: 20 });
  await until(() => list.getSnapshot()[0].title === "same place");
  assert.equal(seen[0], "1,2,3,4,5");
  assert.equal(service.requests.filter(each => each.startsWith("GET")).length, 1);
});

test("a snapshot is the same array until something changes", async () => {
  const list = await live({});
  const before = list.getSnapshot();
  assert.equal(list.getSnapshot(), before);
  service.put({ id: 9, title: "x", rank: 1 });
  await shows(list, [9, 1, 2, 3, 4, 5]);
  assert.notEqual(list.getSnapshot(), before);
  assert.throws(() => list.getSnapshot().push({}));
});

test("rows enter and leave a filter, and nulls are last, or first in descending order", async () => {
  const list = await live({ filter: { title: "a" } });
  await shows(list, []);
  service.put({ id: 1, title: "a", rank: null });
  service.put({ id: 2, title: "a", rank: 7 });
  await shows(list, [2, 1]);
  service.put({ id: 2, title: "b", rank: 7 });
  await shows(list, [1]);
  const descending = await live({ ordering: "-rank", limit: 3 });
  await shows(descending, [1, 5, 4]);
  service.put({ id: 8, title: "b", rank: null });
  await shows(descending, [1, 8, 5]);
});

test("a limited list is filled up again", async () => {
  for (let id = 100; id < 150; id++) service.put({ id, title: "more", rank: id });
  const list = await live({ limit: 4 });
  await shows(list, [1, 2, 3, 4]);
  for (let id = 1; id <= 5; id++) service.delete(id);
  await shows(list, [100, 101, 102, 103]);
  for (let id = 100; id < 130; id++) service.delete(id); // more than is kept beyond the limit
  await shows(list, [130, 131, 132, 133]);
  service.put({ id: 140, title: "first", rank: 0 });
  await shows(list, [140, 130, 131, 132]);
  service.put({ id: 140, title: "last", rank: 500 });
  await shows(list, [130, 131, 132, 133]);
});

test("a limited list shows more, in one snapshot, and of a large table no more than that", async () => {
  for (let id = 100; id < 2000; id++) service.put({ id, title: "more", rank: id });
  const list = await live({ limit: 2 });
  await shows(list, [1, 2]);
  assert.deepEqual([list.hasMore, list.count, list.loading, list.loaded], [true, 1905, false, true]);
  list.more(2); // these are here already
  await shows(list, [1, 2, 3, 4]);
  assert.equal(service.requests.filter(each => each.startsWith("GET")).length, 1);
  list.more(300);
  assert.equal(list.loading, true);
  await until(() => list.getSnapshot().length === 304 && !list.loading);
  assert.equal(list.getSnapshot()[303].id, 398);
  assert.ok(service.exported < 400, String(service.exported));
  assert.equal(list.count, 1905);
  service.delete(1);
  service.put({ id: 3000, title: "far away", rank: 3000 });
  service.put({ id: 3001, title: "near", rank: 1 });
  await until(() => list.count === 1906 && list.getSnapshot()[0].id === 3001);
  list.more(5000);
  await until(() => !list.hasMore);
  assert.deepEqual([list.getSnapshot().length, list.count], [1906, 1906]);
});

test("each change comes with the row before it, and the count follows", async () => {
  const list = await live({ filter: { title: "t1" } });
  const changes = [];
  const end = list.changes(({ action, id, data, before }) => changes.push([action, id, data?.rank, before?.rank]));
  service.put({ id: 1, title: "t1", rank: 11 });
  service.put({ id: 2, title: "t1", rank: 5 });
  service.put({ id: 1, title: "gone", rank: 11 });
  await shows(list, [2]);
  assert.deepEqual(changes, [["UPDATE", 1, 11, 10], ["INSERT", 2, 5, undefined], ["DELETE", 1, undefined, 11]]);
  assert.equal(list.count, 1);
  end();
  service.delete(2);
  await shows(list, []);
  assert.equal(changes.length, 3);
});

test("rows that addresses name by another field than events do", async () => {
  service.key = ["title"];
  const list = await live({ fields: ["rank"] });
  service.put({ id: 1, title: "renamed", rank: 45 });
  await shows(list, [2, 3, 4, 1, 5]);
  service.delete(3);
  await shows(list, [2, 4, 1, 5]);
  const updating = list.update("t2", { rank: 100 });
  await until(() => list.getSnapshot().find(row => row.id === 2).rank === 100);
  await updating;
  await shows(list, [4, 1, 5, 2]);
  await list.delete("t2");
  await shows(list, [4, 1, 5]);
});

test("large integers keep their digits, if that is wanted", { skip: !JSON.rawJSON && "this Node has no source of numbers" }, async () => {
  const text = '{"id":9007199254740993,"small":1,"text":"9007199254740993","list":[-9007199254740993]}';
  assert.deepEqual(parse(text), { id: 9007199254740993n, small: 1, text: "9007199254740993", list: [-9007199254740993n] });
  assert.equal(stringify(parse(text)), text);
  service.put({ id: 9007199254740993n, title: "large", rank: 1 });
  const made = rowcast("http://service/", { fetch: service.fetch, bigint: true });
  const list = made.live("things");
  open.push(list);
  await shows(list, [9007199254740993n, 1, 2, 3, 4, 5]);
  await until(() => list.status === "live");
  service.put({ id: 9007199254740993n, title: "changed", rank: 1 });
  await until(() => list.getSnapshot()[0].title === "changed");
});

test("events of a resource, as they come, and from a position", async () => {
  const made = rowcast("http://service/", { fetch: service.fetch });
  const seen = [];
  const follow = options => made.watch("things", options, message => message.type === "event" && seen.push([message.event, message.data.id, message.position]));
  follow({ filter: { title: "x" }, position: "5" });
  await until(() => seen.length === 1);
  service.put({ id: 8, title: "x", rank: 1 });
  service.put({ id: 9, title: "y", rank: 1 });
  service.put({ id: 10, title: "x", rank: 1 });
  await until(() => seen.length === 3);
  assert.deepEqual(seen.slice(1), [["", 8, "6"], ["", 10, "8"]]);
  const end = follow({ position: "7" });
  await until(() => seen.length === 6);
  assert.deepEqual(seen.at(-1), ["", 10, "8"]);
  end();
  made.close();
  await until(() => service.streams.size === 0);
});

test("more than a hundred queries have several connections", async () => {
  const made = rowcast("http://service/", { fetch: service.fetch });
  let live = 0;
  for (let n = 0; n < 150; n++) made.watch("things", { position: "5" }, message => message.type === "state" && message.state === "live" && live++);
  await until(() => live >= 150 && service.streams.size === 2);
  assert.deepEqual([...service.streams].map(each => Object.keys(each.queries).length).sort(), [100, 50]);
  made.close();
  await until(() => service.streams.size === 0);
});

test("a page that is hidden has no connection, and resumes when it is seen", async context => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  context.after(() => delete globalThis.document);
  const turn = async (state, milliseconds) => {
    document.visibilityState = state;
    document.dispatchEvent(new Event("visibilitychange"));
    context.mock.timers.tick(milliseconds);
  };
  const step = async condition => {
    for (let n = 0; n < 2000 && !condition(); n++) {
      context.mock.timers.tick(10);
      await new Promise(resolve => setImmediate(resolve));
    }
    assert.ok(condition(), String(condition));
  };
  const list = rowcast("http://service/", { fetch: service.fetch, pauseHidden: true }).live("things");
  open.push(list);
  await step(() => list.status === "live");
  await turn("hidden", 1000);
  await turn("visible", 5000);
  assert.equal(list.status, "live"); // it was hidden for too short a time
  await turn("hidden", 3000);
  assert.equal(list.status, "paused");
  await step(() => service.streams.size === 0);
  service.put({ id: 6, title: "meanwhile", rank: 60 });
  await turn("visible", 0);
  await step(() => list.status === "live" && list.getSnapshot().length === 6);
  assert.equal(service.requests.filter(each => each.startsWith("GET")).length, 1);
});

test("requests have the client's credentials, and bodies of any kind", async () => {
  service.token = "right";
  const made = rowcast("http://service/", { fetch: service.fetch, token: "right" });
  const response = await made.send("POST", "/things/", { body: { id: 7n, title: "sent" } });
  assert.equal((await response.json()).title, "sent");
  await made.send("POST", "things/", { body: new Blob(['{"id": 8, "title": "as it is"}']), headers: { "Content-Type": "text/csv" } });
  assert.equal(service.sent["Content-Type"], "text/csv");
  assert.equal(service.rows.get(8).title, "as it is");
  assert.deepEqual((await made.describe("/things/")).list.key, ["id"]);
  await made.describe("things/");
  assert.equal(service.requests.filter(each => each.startsWith("OPTIONS")).length, 1);
  service.token = "another";
  await assert.rejects(made.send("GET", "things/"), error => error instanceof Refused && error.status === 401);
});

test("texts are placed by the service, which knows the collation", async () => {
  const list = await live({ ordering: "title", limit: 3 });
  await shows(list, [1, 2, 3]);
  service.put({ id: 7, title: "t15", rank: 1 });
  await shows(list, [1, 7, 2]);
  service.put({ id: 2, title: "t0", rank: 1 });
  await shows(list, [2, 1, 7]);
});

test("a lost connection resumes where it was", async () => {
  const list = await live({});
  service.down = true;
  service.cut();
  await until(() => list.status === "connecting");
  service.put({ id: 6, title: "meanwhile", rank: 60 });
  service.delete(1);
  service.down = false;
  await shows(list, [2, 3, 4, 5, 6]);
  await until(() => list.status === "live");
  assert.equal(service.requests.filter(each => each.startsWith("GET")).length, 1);
});

test("a reset loads the list again", async () => {
  const list = await live({});
  await shows(list, [1, 2, 3, 4, 5]);
  service.down = true;
  service.cut();
  await until(() => list.status === "connecting");
  service.delete(2);
  service.oldest = service.log.length;
  service.down = false;
  await shows(list, [1, 3, 4, 5]);
  service.delete(1);
  await shows(list, [3, 4, 5]);
});

test("all queries share one connection", async () => {
  const lists = [await live({}), await live({ filter: { title: "t1" } }), await live({ limit: 2 })];
  await until(() => service.streams.size === 1 && Object.keys([...service.streams][0].queries).length === 3);
  service.put({ id: 6, title: "t1", rank: 5 });
  await shows(lists[0], [6, 1, 2, 3, 4, 5]);
  await shows(lists[1], [6, 1]);
  await shows(lists[2], [6, 1]);
  lists.forEach(list => list.close());
  await until(() => service.streams.size === 0);
});

test("changed related rows load the list again, if they are shown", async () => {
  service.put({ id: 1, title: "t1", rank: 10, category: { id: 5, name: "old" } });
  const list = await live({ expand: ["category"] });
  await shows(list, [1, 2, 3, 4, 5]);
  const lists = () => service.requests.filter(each => each.startsWith("GET")).length;
  const before = lists();
  service.announce("stale", { path: "category", ids: [6] });
  service.put({ id: 2, title: "marker", rank: 20 });
  await until(() => list.getSnapshot()[1].title === "marker");
  assert.equal(lists(), before);
  service.rows.get(1).category = { id: 5, name: "new" };
  service.announce("stale", { path: "category", ids: [5] });
  await until(() => list.getSnapshot()[0].category.name === "new");
});

test("one's own changes are shown at once and confirmed by their transaction", async () => {
  const list = await live({});
  await shows(list, [1, 2, 3, 4, 5]);
  let release;
  service.hold = new Promise(resolve => (release = resolve)); // the event comes before the response
  const creating = list.create({ title: "mine", rank: 35 });
  await until(() => service.log.length === 6);
  await shows(list, [1, 2, 3, undefined, 4, 5]); // once
  release();
  service.hold = null;
  const row = await creating;
  await shows(list, [1, 2, 3, row.id, 4, 5]);
  const updating = list.update(2, { title: "changed" });
  await until(() => list.getSnapshot()[1].title === "changed");
  await updating;
  service.put({ id: 2, title: "by somebody else", rank: 20 });
  await until(() => list.getSnapshot()[1].title === "by somebody else");
  const deleting = list.delete(1);
  await shows(list, [2, 3, row.id, 4, 5]);
  await deleting;
  service.put({ id: 1, title: "back", rank: 10 });
  await shows(list, [1, 2, 3, row.id, 4, 5]);
});

test("a change that is refused is rolled back", async () => {
  const list = await live({});
  await shows(list, [1, 2, 3, 4, 5]);
  service.refuse = 409;
  for (const change of [() => list.create({ title: "x" }), () => list.update(1, { title: "x" }), () => list.delete(1)]) {
    await assert.rejects(change, error => error instanceof Refused && error.status === 409);
    await shows(list, [1, 2, 3, 4, 5]);
    assert.equal(list.getSnapshot()[0].title, "t1");
  }
});

test("expired credentials are renewed", async () => {
  service.token = "one";
  const asked = [];
  const made = rowcast("http://service/", {
    fetch: service.fetch,
    credentials: expired => (asked.push(expired), `Bearer ${expired ? (service.token ?? "") : (asked.includes(true) ? service.token : "one")}`),
  });
  const list = made.live("things");
  open.push(list);
  await until(() => list.status === "live");
  service.token = "two";
  service.cut();
  service.put({ id: 6, title: "x", rank: 60 });
  await shows(list, [1, 2, 3, 4, 5, 6]);
  assert.ok(asked.includes(true));
});

test("what the service refuses is said, and not asked for again and again", async () => {
  service.token = "right";
  const list = client.live("things", {});
  await until(() => list.status === "refused");
  assert.equal(list.problem.status, 401);
  const before = service.requests.length;
  await new Promise(resolve => setTimeout(resolve, 50));
  assert.equal(service.requests.length, before);
});

test("after a random run a list is the table", async () => {
  const lists = [await live({}), await live({ limit: 5, ordering: "-rank" }), await live({ ordering: "title", limit: 7 }), await live({ filter: { title: "t1" } })];
  let seed = 7;
  const random = most => (seed = (seed * 48271) % 2147483647) % most;
  for (let n = 0; n < 600; n++) {
    const id = 1 + random(40);
    const row = { id, title: `t${random(9)}`, rank: random(10) ? random(30) : null };
    if (random(3)) service.put(row);
    else if (service.rows.has(id)) service.delete(id);
    if (random(60) === 0) service.cut();
    if (random(100) === 0) [service.oldest] = [service.log.length, service.cut()];
    if (random(8) === 0) await new Promise(resolve => setTimeout(resolve, random(4)));
  }
  const listed = async query => {
    const response = service.list(new URL(`http://service/things/?page_size=1000&${query}`), "application/json");
    return (await response.json()).results;
  };
  const expected = [
    await listed("ordering=rank"),
    (await listed("ordering=-rank")).slice(0, 5),
    (await listed("ordering=title")).slice(0, 7),
    await listed(`filter=${encodeURIComponent('{"title":"t1"}')}`),
  ];
  for (const [place, list] of lists.entries()) {
    await until(() => JSON.stringify(list.getSnapshot()) === JSON.stringify(expected[place]), () => `list ${place}`);
  }
});
