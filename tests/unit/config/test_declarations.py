"""One resource file: the options of each type, their effects, and their mistakes."""

from __future__ import annotations

import doctest
from textwrap import indent
from typing import Any

import pytest

from rowcast.configuration import model_names
from rowcast.configuration.declarations import FIELD_OPTIONS, options_of
from rowcast.configuration.model_names import model_name
from rowcast.resources.fields import MISSING, Field
from rowcast.resources.lossless_json import encode
from rowcast.resources.types import FIELD_TYPES, make_field

from .conftest import Load, Problems

OPTIONS = """primary_key required null blank default unique index choices order generated min max min_length max_length pattern
json max_digits decimal_places as zone of paths to on_delete related_name through any_key read_only write_only auto_now auto_now_add column
renamed_from label
help_text"""
TYPES = """string text email url slug uuid integer big_integer float decimal boolean date time datetime duration json
array foreign_key many_to_many smallint real citext bytea native"""

VALUES: dict[str, dict[str, str]] = {
    "text": {"default": "abc", "choices": "[abc, abd]", "blank": "true", "min_length": "1", "max_length": "9",
             "pattern": "'^a'"},
    "email": {"default": "a@example.com", "choices": "[a@example.com]", "pattern": "'@'"},
    "url": {"default": "'https://example.com'", "choices": "['https://example.com']", "pattern": "'^https:'",
            "max_length": "50"},
    "uuid": {"default": "01890a5d-ac96-774b-bcce-b302099a8057", "choices": "[01890a5d-ac96-774b-bcce-b302099a8057]"},
    "number": {"default": "1", "choices": "[1, 2]", "min": "0", "max": "5", "max_digits": "5", "decimal_places": "2"},
    "boolean": {"default": "true", "choices": "[true]"},
    "date": {"default": "2026-01-31", "choices": "[2026-01-31]", "min": "2025-01-01", "max": "2027-01-01"},
    "time": {"default": "'12:00:00'", "choices": "['12:00:00']", "min": "'00:00'", "max": "'23:59'"},
    "datetime": {"default": "2026-01-31T12:00:00Z", "choices": "[2026-01-31T12:00:00Z]", "min": "2025-01-01T00:00:00Z",
                 "max": "2027-01-01T00:00:00Z"},
    "duration": {"default": "P1D", "choices": "[P1D, PT1H]", "min": "PT0S", "max": "P9D"},
    "json": {"default": "{a: [1]}", "choices": "[{a: [1]}, 2]", "paths": "{a__b: integer}"},
    "bytea": {"default": "AP8="},
    "array": {"default": "[1]", "choices": "[1, 2]", "min": "0", "max": "5", "of": "decimal", "max_digits": "5",
              "decimal_places": "2", "min_length": "0", "max_length": "9"},
}  # fmt: skip
FLAGS = (
    "required",
    "null",
    "unique",
    "index",
    "any_key",
    "read_only",
    "write_only",
    "auto_now",
    "auto_now_add",
    "primary_key",
)
OTHERS = {
    "order": "choices",
    "generated": "\"'b'\"",
    "json": "string",
    "as": "inet",
    "zone": "Europe/Berlin",
    "to": "things",
    "on_delete": "restrict",
    "related_name": "back",
    "column": "Legacy",
    "through": "{table: x.y, near: a, far: b}",
    "renamed_from": "before",
    "label": "L",
    "help_text": "H",
}
SAME = {"string": "text", "slug": "text", "integer": "number", "big_integer": "number", "float": "number",
        "decimal": "number", "smallint": "number", "real": "number"}  # fmt: skip


def things(*fields: str, rest: str = "") -> dict[str, str]:
    """A resource file with these fields."""
    return {"things.yaml": "fields:\n" + indent("\n".join(fields), "  ") + "\n" + rest}


def field(read: Load, declared: str) -> Field:
    return read(things(f"a: {{{declared}}}")).resources["things"].fields["a"]


def test_the_types_and_options_are_those_of_the_documentation() -> None:
    """The code has the same types and options as the lists above."""
    assert list(FIELD_TYPES) == TYPES.split()
    assert [name for name in FIELD_OPTIONS if name != "type"] == OPTIONS.split()


@pytest.mark.parametrize(
    ("type_", "option"),
    [(type_, option) for type_ in FIELD_TYPES for option in sorted(options_of(type_)) if option != "type"],
)
def test_every_option_is_accepted_by_every_type_that_it_applies_to(read: Load, type_: str, option: str) -> None:
    """Together with the other options that it needs."""
    written = {"type": type_, option: "false" if option in FLAGS else "L"}
    values: dict[str, Any] = {**OTHERS, **VALUES["text"], **VALUES.get(SAME.get(type_, type_), {})}
    written |= {name: values[name] for name in ("to", "of", "as") if name in options_of(type_)}
    if option in ("max_digits", "decimal_places"):
        written |= {name: values[name] for name in ("max_digits", "decimal_places")}
    if option == "order":
        written["choices"] = values["choices"]
    if option == "required":
        written["required"] = "true"
    elif option not in FLAGS:
        written[option] = '""' if (type_, option) == ("foreign_key", "default") else values[option]
    if (type_, option) == ("foreign_key", "default"):
        written["default"] = VALUES["uuid"]["default"]
    found = field(read, ", ".join(f"{name}: {value}" for name, value in written.items()))
    assert found.type == type_


@pytest.mark.parametrize("type_", sorted(FIELD_TYPES))
def test_an_option_that_does_not_apply_is_reported_with_those_that_do(problems: Problems, type_: str) -> None:
    """Every type refuses all other options, at the place of their keys."""
    needs = {
        "array": ", of: integer",
        "foreign_key": ", to: things",
        "many_to_many": ", to: things",
        "native": ", as: inet",
    }.get(type_, "")
    for option in FIELD_OPTIONS.keys() - options_of(type_):
        start = f"a: {{type: {type_}{needs}, "
        [line] = problems(things(f"{start}{option}: {'[1]' if option == 'choices' else 'true'}}}"))[:1]
        if "does not apply" in line:
            assert line.startswith(
                f"things.yaml:2:{len(start) + 3}: {option!r} does not apply to {type_}, which takes "
            )


@pytest.mark.parametrize(
    ("type_", "right"),
    [("inet", True), ("numeric(10, 2)[]", True), ("public.geometry(Point,4326)", True), ('"My Type"', True),
     ("timestamp(3) with time zone", True), ("double precision", True), ("int; DROP TABLE x", False), ("", False),
     ("int)", False), ("a--b", False)],
)  # fmt: skip
def test_as_is_the_name_of_a_type(problems: Problems, type_: str, right: bool) -> None:
    """Nothing else, since it is part of statements."""
    lines = problems(things(f"a: {{type: native, as: '{type_}'}}"))
    assert lines == [] if right else "must be the name of a PostgreSQL type" in lines[0]


def test_a_zone_that_does_not_exist_is_reported(problems: Problems) -> None:
    """With the nearest name."""
    lines = problems(things("a: {type: datetime, zone: Europe/Berlim}"))
    assert lines == ["things.yaml:2:29: zone: there is no time zone 'Europe/Berlim'; did you mean Europe/Berlin?"]


# --- what follows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "required"),
    [
        ("type: string", True),
        ("type: string, default: x", False),
        ("type: string, null: true", False),
        ("type: string, null: true, required: true", True),
        ("type: string, default: x, required: true", True),
        ("type: string, default: x, required: false", False),
        ("type: string, read_only: true", False),
        ("type: datetime, auto_now: true", False),
        ("type: date, auto_now_add: true", False),
        ("type: foreign_key, to: things", True),
        ("type: many_to_many, to: things", False),
        ("type: many_to_many, to: things, required: true", True),
        ("type: uuid, primary_key: true", False),
        ("type: integer, primary_key: true", False),
        ("type: big_integer, primary_key: true", False),
        ("type: slug, primary_key: true", True),
        ("type: boolean", True),
    ],
)
def test_what_is_required_on_create(read: Load, declared: str, required: bool) -> None:
    """A field without default that may not be null and is not set by the service."""
    assert field(read, declared).required is required


@pytest.mark.parametrize(
    ("declared", "blank"),
    [("", False), (", default: x", False), (', default: ""', True), (", blank: true", True), (", blank: false", False)],
)
def test_blank_is_allowed_only_by_itself_or_an_empty_default(read: Load, declared: str, blank: bool) -> None:
    """Otherwise a string must have a character."""
    assert field(read, f"type: text{declared}").blank is blank


@pytest.mark.parametrize(
    ("declared", "default"),
    [
        ("type: string", MISSING),
        ("type: string, null: true, default: null", None),
        ("type: string, default: no", "no"),
        ("type: decimal, default: 1.5", "1.5"),
        ("type: decimal, default: 99999999999999.9999", "99999999999999.9999"),
        ("type: decimal, default: .12345678901234567890", "0.12345678901234567890"),
        ("type: decimal, default: 1e-400", f"0.{'0' * 399}1"),
        ("type: array, of: decimal, default: [9007199254740993.0]", ["9007199254740993.0"]),
        ("type: float, default: 0.12345678901234567890", 0.12345678901234568),
        ("type: date, default: 2026-01-31", "2026-01-31"),
        ("type: datetime, default: 2026-01-31 12:00:00+02:00", "2026-01-31T10:00:00+00:00"),
        ("type: array, of: datetime, default: [2026-01-31 12:00:00Z]", ["2026-01-31T12:00:00+00:00"]),
        ("type: duration, default: P1W", "P7D"),
        ("type: uuid, default: 01890A5D-AC96-774B-BCCE-B302099A8057", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ("type: array, of: string, default: []", []),
        ("type: json, default: {a: null}", {"a": None}),
        ("type: json, null: true, default: null", None),
        ("type: boolean, default: false", False),
        ("type: integer, default: '${env:N:-5}'", 5),
    ],
)
def test_defaults_are_kept_in_their_json_form(read: Load, declared: str, default: object) -> None:
    """As in a response, regardless of how they are written in the file."""
    assert field(read, declared).default == default


@pytest.mark.parametrize("pattern", [r"^\\\\b$", r"^\(?x", "^(?:a|b)(?=c)$", r"^[a-z]{2,3}\d+$", r"(?<!a)b"])
def test_patterns_that_mean_the_same_to_both_are_accepted(read: Load, pattern: str) -> None:
    """They mean the same to Python and to PostgreSQL."""
    assert field(read, f"type: string, pattern: '{pattern}'").pattern == pattern


def test_numbers_in_json_keep_their_digits(read: Load) -> None:
    """As in the body of a request."""
    found = field(read, "type: json, default: {a: 0.12345678901234567890, b: [123456789012345678901234567890, 1.50]}")
    assert encode(found.default) == b'{"a":0.12345678901234567890,"b":[123456789012345678901234567890,1.5]}'


def test_choices_and_limits_are_kept_in_their_json_form(read: Load) -> None:
    """Those of an array apply to its items."""
    found = field(
        read, "type: array, of: decimal, max_digits: 5, decimal_places: 2, choices: [1, '2.50'], min: 0, max: 9"
    )
    assert (found.choices, found.min, found.max) == (("1", "2.50"), "0", "9")
    limits = "min: 0.12345678901234567, max: 99999999999999.9999, choices: [99999999999999.9998, 1.5]"
    found = field(read, f"type: decimal, {limits}")
    assert (found.min, found.max) == ("0.12345678901234567", "99999999999999.9999")
    assert found.choices == ("99999999999999.9998", "1.5")


def test_a_resource_without_a_key_gets_one(read: Load) -> None:
    """``id``, a UUID, before every other field."""
    fields = read(things("a: {type: string}")).resources["things"].fields
    assert list(fields) == ["id", "a"]
    assert fields["id"] == make_field("id", "uuid", primary_key=True, required=False)


def test_a_resource_with_a_key_gets_no_other(read: Load) -> None:
    """A natural key is enough."""
    resource = read(things("code: {type: string, primary_key: true}")).resources["things"]
    assert (list(resource.fields), resource.key.name) == (["code"], "code")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tasks", "Task"), ("categories", "Category"), ("boxes", "Box"), ("statuses", "Status"), ("news", "News"),
        ("addresses", "Address"), ("blog-posts", "BlogPost"), ("user_profiles", "UserProfile"), ("people", "Person"),
        ("branches", "Branch"), ("dishes", "Dish"), ("cases", "Case"), ("houses", "House"), ("prizes", "Prize"),
        ("analysis", "Analysis"), ("status", "Status"), ("aliases", "Alias"), ("data", "Data"), ("tags", "Tag"),
        ("s", "S"), ("v2s", "V2"),
    ],
)  # fmt: skip
def test_a_model_is_named_in_the_singular(name: str, model: str) -> None:
    """A few endings are known. ``model`` in the config overrides the result."""
    assert model_name(name) == model


def test_the_examples_of_the_docstrings_hold() -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(model_names).failed == 0


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ("type: strng", "2:13: type: 'strng' is unknown; did you mean string?"),
        ("max_length: 5", "2:3: type: is required"),
        ("type: string, requierd: true", "2:21: unknown key 'requierd'; did you mean required?"),
        ("type: string, required: no", "2:31: required: must be true or false"),
        ("type: string, max_length: 2.5", "2:33: max_length: must be an integer"),
        ("type: string, max_length: 0", "2:33: max_length: must be at least 1"),
        ("type: boolean, default: maybe", "2:31: default: Not a valid boolean: use true or false."),
        ("type: boolean, default: no", "2:31: default: Not a valid boolean: use true or false."),
        ("type: integer, default: '1'", "2:31: default: Not a valid integer."),
        ("type: integer, default: 3000000000", "2:31: default: Must be between -2147483648 and 2147483647."),
        ("type: integer, max: 3, default: 4", "2:39: default: Must be less than or equal to 3."),
        ("type: string, order: choices", "2:21: 'order' also needs 'choices'"),
        ("type: string, choices: [a], order: backwards", "2:42: order: 'backwards' is unknown; valid here: value, choices"),
        ("type: integer, choices: [1], default: 4", "2:45: default: 4 is not one of the choices; valid here: 1"),
        ("type: integer, choices: [1, a]", "2:35: choices[1]: Not a valid integer."),
        ("type: integer, choices: [1, 1]", "2:35: choices[1]: 1 is listed twice"),
        ("type: integer, choices: []", "2:31: choices: may not be empty"),
        ("type: integer, max: 1, choices: [2]", "2:40: choices[0]: Must be less than or equal to 1."),
        ("type: integer, min: 2, max: 1", "2:27: min: may not be larger than max (1)"),
        ("type: duration, min: 5", "2:28: min: Not a valid duration: use ISO 8601 with weeks, days, hours, minutes, "
         "seconds, as in P1DT2H30M."),
        ("type: string, max_length: 2, default: abc", "2:45: default: Longer than maximum length 2."),
        ("type: string, max_length: 2, choices: [abc]", "2:46: choices[0]: Longer than maximum length 2."),
        ("type: string, choices: ['']", "2:31: choices[0]: May not be blank."),
        ("type: string, blank: false, default: ''", "2:44: default: May not be blank."),
        ("type: email, default: nobody", "2:29: default: Not a valid email address."),
        ("type: string, pattern: '^a', default: b", "2:45: default: Must match the pattern ^a."),
        ("type: string, pattern: '('", "2:30: pattern: is not a regular expression: missing ), unterminated subpattern at "
         "position 0"),
        ("type: string, pattern: '\\bx'", "2:30: pattern: '\\\\b' has another meaning in PostgreSQL, which "
         "also checks the pattern; write it in another way"),
        ("type: string, pattern: '(?P<a>x)'", "2:30: pattern: '(?' has another meaning in PostgreSQL, which "
         "also checks the pattern; write it in another way"),
        ("type: string, min_length: 3, max_length: 2", "2:33: min_length: may not be larger than max_length (2)"),
        ("type: decimal, max_digits: 2, decimal_places: 3",
         "2:53: decimal_places: may not be larger than max_digits (2)"),
        ("type: decimal, max_digits: 2", "2:22: 'max_digits' also needs 'decimal_places'"),
        ("type: decimal, max_digits: 3, decimal_places: 1, default: '1.55'",
         "2:65: default: Must have at most 1 decimal places."),
        ("type: array", "2:3: a field of type array needs 'of'"),
        ("type: array, of: array", "2:24: of: 'array' is unknown; valid here: big_integer, boolean, citext, date, "
         "datetime, decimal, duration, email, float, integer, json, real, slug, smallint, string, text, time, url, uuid"),
        ("type: array, of: string, min: 5", "2:32: 'min' does not apply to an array of string"),
        ("type: array, of: integer, default: [1, x]", "2:42: default: Item 1: Not a valid integer."),
        ("type: array, of: integer, choices: [1], default: [2]",
         "2:56: default: 2 is not one of the choices; valid here: 1"),
        ("type: foreign_key", "2:3: a field of type foreign_key needs 'to'"),
        ("type: foreign_key, to: thing", "2:30: to: there is no resource 'thing'; did you mean things?"),
        ("type: many_to_many, to: thing", "2:31: to: there is no resource 'thing'; did you mean things?"),
        ("type: foreign_key, to: things, on_delete: set_nul", "2:49: on_delete: 'set_nul' is unknown; did you mean "
         "set_null?"),
        ("type: foreign_key, to: things, on_delete: set_null", "2:49: on_delete: set_null needs null: true"),
        ("type: foreign_key, to: things, default: x", "2:47: default: Not a valid UUID."),
        ("type: string, required: false", "2:31: required: false needs a default, or null: true"),
        ("type: slug, primary_key: true, required: false", "2:48: required: false needs a default, or null: true"),
        ("type: string, default: null", "2:30: default: null needs null: true"),
        ("type: uuid, primary_key: true, null: true", "2:38: 'null' contradicts 'primary_key': a primary key is never "
         "null"),
        ("type: uuid, primary_key: true, write_only: true", "2:38: 'write_only' contradicts 'primary_key': the key of a "
         "row is always visible, at least in its URL"),
        ("type: string, read_only: true, write_only: true",
         "2:38: 'write_only' contradicts 'read_only': no client could use the field"),
        ("type: string, read_only: true, required: true",
         "2:38: 'required' contradicts 'read_only': clients cannot send the field"),
        ("type: date, auto_now: true, default: 2026-01-01", "2:19: 'auto_now' contradicts 'default': the service sets "
         "the field"),
        ("type: date, auto_now_add: true, required: true", "2:19: 'auto_now_add' contradicts 'required': the service "
         "sets the field"),
        ("type: date, auto_now_add: true, auto_now: true", "2:19: 'auto_now_add' contradicts 'auto_now': auto_now also "
         "sets the field when a row is added"),
        ("type: string, label: 5", "2:28: label: must be a string; quote it"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_reported_with_its_place(problems: Problems, declared: str, problem: str) -> None:
    """The place is that of the option's value, or of its key if the option does not belong there."""
    assert problems(things(f"a: {{{declared}}}")) == [f"things.yaml:{problem}"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (["Title: {type: string}"], "2:3: 'Title' is not a name of a field: use lower-case letters, digits and single "
         "underscores within"),
        (["a__b: {type: string}"], "2:3: 'a__b' is not a name of a field: use lower-case letters, digits and single "
         "underscores within"),
        (["a_: {type: string}"], "2:3: 'a_' is not a name of a field: use lower-case letters, digits and single "
         "underscores within"),
        (["xmin: {type: string}"], "2:3: 'xmin' is a column that every PostgreSQL table has; choose another name"),
        ([f"{'a' * 64}: {{type: string}}"],
         f"2:3: '{'a' * 64}' is too long: a column's name has at most 63 characters"),
        ([f"{'a' * 61}: {{type: foreign_key, to: things}}"],
         f"2:3: '{'a' * 61}' is too long: a column's name has at most 63 characters"),
        (["a: {type: foreign_key, to: things}", "a_id: {type: uuid}"],
         "3:3: 'a_id' needs the name 'a_id', which field 'a' already has"),
        (["a_id: {type: uuid}", "a: {type: foreign_key, to: things}"],
         "3:3: 'a' needs the name 'a_id', which field 'a_id' already has"),
        (["a: {type: uuid, primary_key: true}", "b: {type: uuid, primary_key: true}"],
         "3:19: the primary key is already 'a'"),
        (["id: {type: integer}"], "2:3: no field is the primary key; give 'id' primary_key: true"),
        (["a:"], "2:3: a: must be a mapping"),
        (["a: string"], "2:6: a: must be a mapping"),
    ],
)  # fmt: skip
def test_wrong_fields_are_reported_with_their_places(problems: Problems, fields: list[str], problem: str) -> None:
    """Names that cannot be columns or parameters, and fields that conflict with each other."""
    assert problems(things(*fields)) == [f"things.yaml:{problem}"]


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("unique: [[a, x]]", "5:14: unique[0][1]: there is no field 'x'; valid here: id, a, b"),
        ("unique: [[a, b], [a, b]]", "5:18: unique[1]: [a, b] is declared already"),
        ("unique: [[a, a]]", "5:14: unique[0][1]: 'a' is listed twice"),
        ("unique: [[m]]", "5:11: unique[0][0]: 'm' has no column: it is a many_to_many"),
        ("unique: [[b]]", "5:10: unique[0]: [b] is declared already"),
        ("unique: [[id]]", "5:10: unique[0]: [id] is declared already"),
        ("unique: [a]", "5:10: unique[0]: must be a list, or a mapping"),
        ("unique: [[]]", "5:10: unique[0]: may not be empty"),
        ("indexes: [[m, a]]", "5:12: indexes[0][0]: 'm' has no column: it is a many_to_many"),
        ("indexes: [[a, -a]]", "5:15: indexes[0][1]: 'a' is listed twice"),
        ("indexes: [[-c]]", "5:12: indexes[0][0]: there is no field 'c'; valid here: id, a, b"),
        ("unique: [[-a]]", "5:11: unique[0][0]: there is no field '-a'; did you mean a?"),
        ("indexes: {}", "5:10: indexes: must be a list"),
        ("table: a.b.c", "5:8: table: must be a name such as tasks, or sales.Orders with its schema"),
        ("model: thing", "5:8: model: must be a name such as Task"),
        ("name: Things", "5:7: name: must be a lower-case name such as tasks or blog-posts"),
        ("name: health", "5:7: name: 'health' is a route of the service itself; choose another name"),
        ("name: metrics", "5:7: name: 'metrics' is a route of the service itself; choose another name"),
        ("name: stream", "5:7: name: 'stream' is a route of the service itself; choose another name"),
        (f"table: {'a' * 64}", "5:8: table: may have at most 63 characters"),
        ("feilds: {}", "5:1: unknown key 'feilds'; did you mean fields?"),
        ("viewset: {class: 'a b'}", "5:18: class: 'a b' must be the name of a class, such as TaskViewSet or "
         "viewsets:TaskViewSet"),
        ("viewset: 'a b'", "5:1: class: 'a b' must be the name of a class, such as TaskViewSet or viewsets:TaskViewSet"),
        ("viewset: 5", "5:1: class: must be the name of a class"),
        ("viewset: [a]", "5:10: viewset: must be a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_resource_is_reported_with_its_place(problems: Problems, rest: str, problem: str) -> None:
    """Its name, constraints and indexes."""
    fields = ("a: {type: string}", "b: {type: string, unique: true}", "m: {type: many_to_many, to: things}")
    assert f"things.yaml:{problem}" in problems(things(*fields, rest=rest))


def test_every_mistake_of_a_file_is_reported_in_one_run(problems: Problems) -> None:
    """One does not hide another, not even in the same field."""
    files = things(
        "a: {type: string, requierd: true, max_length: x, default: 5}",
        "b: {type: strng}",
        "c: {type: boolean, default: maybe}",
        rest="unique: [[a, cc]]\nviewset: {ordering: [-aa], page_size: 0}",
    )
    assert [line.split(": ")[0] for line in problems(files)] == [
        "things.yaml:2:21", "things.yaml:2:49", "things.yaml:2:61", "things.yaml:3:13", "things.yaml:4:31",
        "things.yaml:5:14", "things.yaml:6:22", "things.yaml:6:39",
    ]  # fmt: skip
