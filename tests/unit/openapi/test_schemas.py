"""Fields as JSON Schema: every type and every option, in bodies and in responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import marshmallow as ma
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from rowcast.configuration.load import load
from rowcast.openapi.document import document
from rowcast.openapi.schemas import Schemas
from rowcast.resources.types import FIELD_TYPES
from rowcast.rest.plan import SERVICE
from rowcast.server.app import create_app

from .sample import DOCUMENT, FILES, RESOURCES, SCHEMAS, VIEWS, plans_of, properties, routes_of, service_of

REGISTRY = Registry().with_resource("urn:api", DRAFT202012.create_resource(DOCUMENT))


def fits(schema: str, value: Any) -> bool:
    """Whether a value fits a schema of the document; formats are not checked."""
    return Draft202012Validator({"$ref": f"urn:api#/components/schemas/{schema}"}, registry=REGISTRY).is_valid(value)


def test_every_field_type_is_in_the_sample() -> None:
    """The tests of this module cover every type."""
    assert {field.type for resource in RESOURCES.values() for field in resource.fields.values()} == set(FIELD_TYPES)
    assert set(FILES) == set(VIEWS)


GOOD_AND_BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "string": (["ab", "a" * 40], ["a", "a" * 41, "a\0b", None, 1]),
    "coded": (["AB1", None], ["ab1", "AB1 and more", "AB1\0", ""]),
    "text": (["", "x"], ["\0", None]),
    "initials": (["", "ab", None], ["a"]),
    "chosen": (["low"], ["lowest", None]),
    "rated": ([1, None], [4, "1"]),
    "url": (["https://a.example/x?y", "http://localhost:80", None], ["mailto:x", "https://a b", ""]),
    "slug": (["a-B_1"], ["a b", ""]),
    "integer": ([0, 100], [-1, 101, "1", 1.5]),
    "big": ([2**63 - 1], [2**63]),
    "float": ([1, 1.5, None], ["1"]),
    "bounded": ([-1.5], [1.6]),
    "decimal": (["1.25", "-999999.99", 7, 1.25], ["1.234", "1000000", "x", 1.255, 1_000_000, None]),
    "price": (["0.00", 1], ["-1", -1]),
    "exact": (["123456789.123456789", 0.001, None], ["x"]),
    "whole": (["1234"], ["12345", "1.5", 1.5]),
    "part": (["0.123", "0.5"], ["1.5"]),
    "boolean": ([True], [1, "true", None]),
    "date": (["2026-01-31", "0001-01-01", None], ["0000-01-01", "2026-13-01", "2026-1-1"]),
    "time": (["12:30", "12:30:15.123456", "12:30:15.1234567"], ["24:00", "12:30:15Z", "12:30:15."]),
    "datetime": (
        ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00.500000001+02:00"],
        ["2026-01-31T12:00Z", "0000-01-01T00:00:00Z"],
    ),
    "duration": (["P1DT2H30M", "PT0.5S", "P-1DT-2H", "P2W"], ["P1Y", "P", "PT", "1h", "P1DT"]),
    "json": ([None, {"a": [1, "b", None]}], [{"a": "\0"}, {"\0": 1}, ["\0"]]),
    "document": ([{}, 0], [None]),
    "numbers": ([[], [9, 0]], [[10], [1] * 6, [None], "1", ["1"]]),
    "words": ([["", "a"]], [[], ["\0"]]),
    "colours": ([["red", "green"]], [["blue"], "red"]),
    "prices": ([["1.5"]], [["1.55"]]),
    "bags": ([[1, {"a": None}]], [[None]]),
    "box_id": ([1, None], ["1", 2**31]),
    "marks": ([["a"], [{"code": "a", "more": 1}], []], ["a", [1], [{"id": "a"}]]),
    "secret": (["s", None], [""]),
    "small": ([-32768, None], [32768, "1"]),
    "single": ([1.5, None], [1e39, "1"]),
    "mail": (["A", None], ["", 1]),
    "data": (["", "AP8=", "QQ==", None], ["AP8", "A-==", 1]),
    "ip": (["10.0.0.1", None], [1]),
    "views": ([1, "anything"], []),
    "box": ([None, {"id": 1}], [1]),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_bodies_take_what_fits_the_field(name: str) -> None:
    """A body may contain exactly the values that the field accepts."""
    good, bad = GOOD_AND_BAD[name]
    assert [value for value in good if not fits("ThingPatch", {name: value})] == []
    assert [value for value in bad if fits("ThingPatch", {name: value})] == []


def test_bodies_have_no_other_fields() -> None:
    """An unknown key does not fit; the read-only fields of a response do, since they are ignored."""
    assert not fits("ThingPatch", {"colour": "red"})
    assert fits("ThingPatch", {"id": "…", "created": 1, "updated": None, "views": 2, "box": {}})
    assert not fits("ThingPatch", {"box": 1})


def test_required_fields_are_those_without_a_default() -> None:
    """POST and PUT need the fields that nothing else fills; PATCH needs none."""
    needed = ["string", "email", "slug", "integer", "decimal", "document", "words"]
    assert SCHEMAS["ThingCreate"]["required"] == needed
    assert SCHEMAS["ThingUpdate"] == {"allOf": [{"$ref": "#/components/schemas/ThingPatch"}], "required": needed}
    assert "required" not in SCHEMAS["ThingPatch"]


def test_only_new_rows_have_defaults() -> None:
    """A field that the body leaves out gets its default in a new row, and keeps its value in an existing one."""
    assert properties("ThingCreate")["chosen"]["x-default"] == "normal"
    assert properties("ThingCreate")["chosen"]["description"] == 'Default: `"normal"`.'
    assert not {"x-default", "default", "description"} & properties("ThingPatch")["chosen"].keys()


def test_string_keys_are_sent_with_a_new_row() -> None:
    """A key that is not generated is part of the body of POST only."""
    service = service_of(RESOURCES)
    plans = plans_of(service, {"marks": (VIEWS["boxes"][0], {})})
    schemas = document(service, routes_of(plans), version="1")["components"]["schemas"]
    assert schemas["MarkCreate"]["required"] == ["code"]
    assert "required" not in schemas["MarkUpdate"]
    assert "type" not in schemas["MarkPatch"]["properties"]["code"]


def test_responses_have_what_can_be_read() -> None:
    """A row has every column except write-only ones, and its relations where they are expanded."""
    shown = properties("ThingPart")
    assert "secret" not in shown
    assert SCHEMAS["Thing"]["required"] == [name for name in shown if name not in ("box", "marks")]
    assert shown["box"]["anyOf"] == [{"$ref": "#/components/schemas/Box"}, {"type": "null"}]
    assert shown["marks"]["items"] == {"$ref": "#/components/schemas/Mark"}
    assert properties("Box_Part")["things"]["items"] == {"$ref": "#/components/schemas/Thing"}
    assert "owner" not in properties("Box_Part")


def test_always_expanded_relations_are_required_in_whole_rows() -> None:
    """The relations in ``select_related`` are in the response to a write."""
    content = DOCUMENT["paths"]["/things/"]["post"]["responses"]["201"]["content"]
    row, rows = content["application/json"]["schema"]["anyOf"]
    assert row["required"] == rows["items"]["required"] == ["box"]


def test_read_only_and_write_only_are_marked() -> None:
    """Fields that the service sets are read-only in responses, and secrets are write-only in bodies."""
    assert {name for name, field in properties("ThingPart").items() if field.get("readOnly")} == {
        "views", "created", "updated",
    }  # fmt: skip
    assert [name for name, field in properties("ThingPatch").items() if field.get("writeOnly")] == ["secret"]


def test_labels_help_and_limits_are_described() -> None:
    """A field's label is its title. Its help text is its description, with the limits that a schema cannot express."""
    assert properties("ThingPart")["string"]["title"] == "A string"
    assert properties("ThingPart")["string"]["description"] == "Short."
    assert properties("LogLinePatch")["since"]["description"] == "Not less than 2020-01-01."


def test_decimals_are_returned_as_strings() -> None:
    """A decimal may be sent as a string or a number, and is returned as a string."""
    assert properties("ThingPart")["decimal"]["type"] == "string"
    assert set(properties("ThingPatch")["decimal"]["type"]) == {"string", "number"}


def test_events_have_rows_with_relations_as_keys() -> None:
    """The data of an event is a row without expansions, or null."""
    event = {"action": "UPDATE", "resource": "things", "id": "0191d7a2-0000-7000-8000-000000000000",
             "data": {"string": "ab", "box_id": 1, "marks": ["a"]}, "changed": ["string"],
             "at": "2026-01-31T12:00:00+00:00", "seq": 1, "tx": "742"}  # fmt: skip
    assert fits("ThingEvent", event)
    assert fits("ThingEvent", event | {"action": "DELETE", "data": None})
    assert not fits("ThingEvent", event | {"data": {"box": {"id": 1}}})
    assert not fits("ThingEvent", event | {"data": {"secret": "s"}})


def test_fields_that_a_serializer_adds_are_described() -> None:
    """apispec describes a plain marshmallow field that a serializer adds."""
    service = service_of(RESOURCES)
    plan = plans_of(service, {"log-lines": VIEWS["log-lines"]})["log-lines"]
    serializer = plan.serializer
    added = ma.Schema.from_dict({"length": ma.fields.Integer(dump_only=True, allow_none=True)})
    longer = type("Longer", (type(serializer), added), {})()
    service.plans["log-lines"] = replace(plan, serializer=longer)
    schemas = document(service, routes_of(service.plans), version="1")["components"]["schemas"]
    assert schemas["LogLinePart"]["properties"]["length"] == {"type": ["integer", "null"], "readOnly": True}
    assert "length" not in schemas["LogLineCreate"]["properties"]


def test_long_chains_of_relations_are_described(tmp_path: Path) -> None:
    """Three hundred resources, each of which refers to the next one, and the last to the first."""
    (tmp_path / "resources").mkdir()
    for n in range(300):
        fields = f"{{next: {{type: foreign_key, to: r{(n + 1) % 300}}}}}"
        (tmp_path / f"resources/r{n}.yaml").write_text(f"fields: {fields}\n")
    service = create_app(load(tmp_path, environ={}), "postgresql://127.0.0.1/nothing")[SERVICE]
    schemas = Schemas(service)
    schemas.row(service.resources["r0"])
    assert {f"R{n}" for n in range(300)} <= schemas.components.keys()
    assert all(schemas.components.values())
