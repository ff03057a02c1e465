/** Which rows of a resource, and what of them: the parameters of its list and of its stream. */

import { stringify } from "./json";
import { type ListInfo, identityFields } from "./order";

export interface Selection {
  /** Conditions, as in `?filter=`: `{completed: false, or: [{priority: "high"}, {due__lt: "2026-01-01"}]}`. */
  filter?: Record<string, unknown>;
  search?: string;
  fields?: readonly string[];
  /** Relations whose rows are shown. */
  expand?: readonly string[];
  /** Further parameters of the list and of its stream. */
  params?: Record<string, string>;
}

/** The parameters of the stream; with `info` all that a list needs to recognise its rows. */
export function streamParams({ filter, search, fields, expand, params }: Selection, info?: ListInfo): Record<string, string> {
  const found: Record<string, string> = { ...params };
  if (expand || info) found.expand = (expand ?? []).join(","); // empty: rows are as the list shows them
  if (filter && Object.keys(filter).length) found.filter = stringify(filter);
  if (search) found.search = search;
  if (fields) {
    const needed = info ? [...(expand ?? []).map(path => path.split("__")[0]!), ...info.key, ...identityFields(info)] : [];
    found.fields = [...new Set([...fields, ...needed])].join(",");
  }
  return found;
}
