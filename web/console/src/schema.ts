/** The fields of a body that a schema of the OpenAPI document describes, for forms. */

import type { Field, Fields } from "./api";

type Schema = Record<string, any>;

const FORMATS: Record<string, string> = { date: "date", "date-time": "datetime", time: "time", duration: "duration", email: "email", uri: "url", decimal: "decimal" };
const TYPES: Record<string, string> = { integer: "big_integer", number: "float", boolean: "boolean", string: "string" };

/** The fields by name; `null` if the schema does not say which there are. */
export function bodyFields(schema: Schema | undefined, document: Schema): Fields | null {
  const { properties, required } = resolved(schema ?? {}, document);
  if (!properties || !Object.keys(properties).length) return null;
  return Object.fromEntries(Object.entries<Schema>(properties).map(([name, each]) => [name, field(name, resolved(each, document), required?.includes(name) ?? false)]));
}

function resolved(schema: Schema, document: Schema): Schema {
  const { $ref, ...own } = schema;
  if (typeof $ref !== "string") return schema;
  const found = $ref.replace(/^#\//, "").split("/").reduce((part: any, step) => part?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], document);
  return { ...resolved(found ?? {}, document), ...own };
}

function field(name: string, schema: Schema, required: boolean): Field {
  const branches: Schema[] = schema.anyOf ?? schema.oneOf ?? [];
  const others = branches.filter(each => each.type !== "null");
  const one = others.length === 1 && others[0]!.$ref === undefined ? { ...schema, ...others[0] } : schema;
  const types = [one.type].flat().filter(each => each && each !== "null");
  const choices = one.enum?.filter((each: unknown) => each !== null);
  const simple = types.length === 1 ? (TYPES[types[0]] && (FORMATS[one.format] ?? TYPES[types[0]])) : choices ? "string" : undefined;
  return {
    type: simple ?? "json",
    required,
    read_only: false,
    write_only: one.writeOnly === true && one.format === "password",
    null: [schema.type].flat().includes("null") || others.length < branches.length || schema.enum?.includes(null) === true,
    label: schema.title ?? name.replaceAll("_", " ").replace(/^./, first => first.toUpperCase()),
    ...(schema.description ? { help_text: schema.description } : {}),
    ...(choices ? { choices } : {}),
    ...("default" in schema ? { default: schema.default } : {}),
    ...(one.maxLength === undefined ? {} : { max_length: one.maxLength }),
  };
}
