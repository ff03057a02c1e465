"""Resource files in YAML, a line a field, with comments about what is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rowcast.adoption.drafts import ResourceDraft, description, key_option, model_option
from rowcast.configuration.yaml import YAML_SUFFIXES

_PLAIN: Final = re.compile(r"-?[A-Za-z_/][A-Za-z0-9_./()-]*(?: [A-Za-z0-9_./()-]+)*")
_WORDS: Final = frozenset({"null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE"})
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_OWNED: Final = "Rowcast adds the triggers of its streams, and changes nothing else"
_REMARKS: Final = {
    "permission_classes": "closed until you open it",
    "stream_enabled": "row-level security does not apply to streams, so that one needs a scope",
}


def resource_file(draft: ResourceDraft, schema: str | None = None) -> str:
    """The text of a resource's file. Its first line names the JSON Schema that editors use, if there is one."""
    header = [f"# yaml-language-server: $schema={schema}"] if schema else []
    return "\n".join([*header, *_lines(draft)]) + "\n"


def editor_schema(directory: Path) -> str | None:
    """The address of the JSON Schema of resource files, if it is where ``rowcast init`` puts it beside a directory of files."""
    path = Path("..", "schema", "resource.schema.json")
    return path.as_posix() if (directory / path).exists() else None


def existing_file(directory: Path, name: str) -> Path | None:
    """The file of a resource with this name in a directory, whatever its suffix."""
    paths = (directory / f"{name}{suffix}" for suffix in (*YAML_SUFFIXES, ".json"))
    return next((path for path in paths if path.exists()), None)


def _lines(draft: ResourceDraft) -> Iterator[str]:
    table = draft.table
    yield f"table: {scalar(str(table))}"
    if model := model_option(draft):
        yield f"model: {model}"
    yield "view: true" if table.is_view else f"managed: false # {_OWNED}"
    if text := description(table):
        yield f"description: {scalar(text)}"
    yield from _notes(draft.notes)
    yield "fields:"
    yield from _fields(draft)
    if key := key_option(draft):
        yield f"primary_key: {flow(key)}"
    if draft.unique:
        yield "unique:"
        yield from (f"  - {flow(rule)}" for rule in draft.unique)
    if draft.checks:
        yield "check:"
        yield from (f"  - {flow(rule)}" for rule in draft.checks)
    yield from _notes(draft.rule_remarks)
    yield "viewset:"
    yield from _viewset(draft.viewset)


def _fields(draft: ResourceDraft) -> Iterator[str]:
    """A line for each column, in the order of the table, and then one for each many_to_many field."""
    for column in dict.fromkeys([*draft.table.columns, *draft.fields]):
        if column in draft.left_out:
            yield from _notes([f"{column}: left out, because it {draft.left_out[column]}"], indent="  ")
        elif column in draft.fields:
            each = draft.fields[column]
            remark = f" # {'; '.join(each.notes)}" if each.notes else ""
            yield f"  {each.name}: {flow(each.options)}{remark}"


def _viewset(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        remark = f" # {_REMARKS[name]}" if name in _REMARKS else ""
        if isinstance(value, Mapping):
            yield f"  {name}:"
            yield from (f"    {key}: {flow(inner)}" for key, inner in value.items())
        else:
            yield f"  {name}: {flow(value)}{remark}"


def _notes(notes: list[str], indent: str = "") -> Iterator[str]:
    return (f"{indent}# {_UNPRINTABLE.sub('?', ' '.join(note.split()))}" for note in notes)


def flow(value: Any) -> str:
    """A value on one line, as YAML has it: mappings and lists in braces and brackets."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{name}: {flow(inner)}" for name, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(flow, value)) + "]"
        case _:
            return scalar(value)


def scalar(value: object) -> str:
    """A scalar in YAML 1.2: a string without quotes where it stays one.

    >>> scalar("film"), scalar("true"), scalar("a: b"), scalar(""), scalar("-x"), scalar("- x"), scalar(True), scalar(3)
    ('film', '"true"', '"a: b"', '""', '-x', '"- x"', 'true', '3')
    """
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value not in _WORDS:
        return value
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
