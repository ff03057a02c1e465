"""The quick ways through parsing and loading a body give what the general ways give."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import marshmallow as ma
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.configuration.load import load
from rowcast.resources.lossless_json import parse_body
from rowcast.rest.body_loading import load_by_fields
from rowcast.rest.serializers import Serializer

NAMES = ("a", "b", 'c"', "d:", " ")
SPACES = st.sampled_from(("", " ", "\n", "\t "))


@given(
    members=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(("", "x", "x:y", '":', '" ', "\\", None)))),
    spaces=st.lists(SPACES, min_size=4, max_size=4),
)
def test_key_that_is_twice_is_found_whatever_strings_and_space_look_like(
    members: list[tuple[str, str | None]], spaces: list[str]
) -> None:
    """A flat object with colons and quotes in its strings, and space anywhere, is refused exactly if a key is there twice."""
    before, after_key, after_colon, after_value = spaces
    text = ",".join(
        f"{before}{json.dumps(name)}{after_key}:{after_colon}{json.dumps(value)}{after_value}"
        for name, value in members
    )
    body = f"{{{text}}}".encode()
    if len({name for name, _ in members}) == len(members):
        assert parse_body(body) == dict(members)
    else:
        with pytest.raises(ValueError, match="is there twice"):
            parse_body(body)


RESOURCE = """
name: things
fields:
  name: {type: string, max_length: 3, required: true}
  size: {type: integer, min: 0, default: 7}
  kind: {type: string, choices: [x, y], null: true}
  day: {type: date, read_only: true}
"""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Serializer:
    """The serializer of a resource that has a column of each kind: required, with a default, nullable, read-only."""
    directory = tmp_path_factory.mktemp("config")
    (directory / "resources").mkdir()
    (directory / "resources/things.yaml").write_text(RESOURCE)
    resources = load(directory, environ={}).resources

    class Things(Serializer):  # type: ignore[metaclass]
        class Meta:
            fields = ("id", "name", "size", "kind", "day")

    bound: Serializer = Things.bind(resources, resources["things"])()
    return bound


VALUES: st.SearchStrategy[Any] = st.sampled_from(("x", "y", "long", "", 1, -1, None, True, [], {}, "2026-01-02"))


@given(
    body=st.dictionaries(st.sampled_from(("name", "size", "kind", "day", "other")), VALUES),
    absent=st.sampled_from((False, True, ("name",))),
)
def test_valid_body_is_loaded_as_marshmallow_loads_it(
    schema: Serializer, body: dict[str, Any], absent: bool | tuple[str, ...]
) -> None:
    """Field by field or by the whole schema, the values are the same; ``None`` stands for a body with a message."""
    expected: dict[str, Any] | None = None
    with contextlib.suppress(ma.ValidationError):
        expected = dict(schema.load(body, partial=absent))
    assert load_by_fields(schema, body, absent) == expected
