// Compiled, never run: rows have the types of an OpenAPI document, as openapi-typescript writes it.

import { type Row, rowcast } from "../src/client";

interface Task {
  id: number;
  title: string;
  completed: boolean;
}
interface paths {
  "/tasks/": { get: { responses: { 200: { content: { "application/json": { count: number; results: Task[] } } } } } };
}

const tasks = rowcast<paths>("/", { token: "rc_x" }).live("tasks", { filter: { completed: false }, expand: ["category"], limit: 10 });
tasks.subscribe(rows => rows.map(row => row.title.toUpperCase()));
const created: Promise<Task> = tasks.create({ title: "x" });
const changed: Promise<Task> = tasks.update(1, { completed: true });
const gone: Promise<void> = tasks.delete(1);
// @ts-expect-error: a number is no title
void tasks.update(1, { title: 5 });
// @ts-expect-error: `limit` is a number
rowcast("/").live("tasks", { limit: "10" });
const anything: readonly Row[] = rowcast("/").live("anything").getSnapshot();
export { anything, changed, created, gone };
