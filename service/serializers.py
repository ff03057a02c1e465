"""Serializers: marshmallow schemas that know their resource, and the projections that plain ones amount to.

A serializer says what a body may hold and what a response shows. When all it shows are columns and relations it is
*plain*: its output is a ``Projection``, which ``query`` turns into SQL, so that PostgreSQL makes the JSON. Any other
serializer dumps Python values. Both give the same document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import marshmallow as ma
from marshmallow import validate

from service.errors import ParseError, ValidationError, choices
from service.fields import MISSING, Field, Kind
from service.resources import Relation, Resource, Resources

REQUIRED: Final = "This field is required."
NULL: Final = "May not be null."
BLANK: Final = "May not be blank."


@dataclass(frozen=True, slots=True)
class Projection:
    """What of a row is shown, in order: columns by name, then related rows by relation, each with its own projection.

    ``keys`` are many_to_many fields shown as lists of keys rather than as rows.
    """

    resource: str
    columns: tuple[str, ...]
    related: tuple[tuple[str, Projection], ...] = ()

    def only(self, names: Sequence[str]) -> Projection:
        """The part of this projection that has the names given; ``ParseError`` for one that it does not have."""
        shown = {*self.columns, *(name for name, _ in self.related)}
        for name in names:
            if name not in shown:
                raise ParseError(f"fields: there is no field {name!r} here; {choices(name, sorted(shown))}")
        return Projection(
            self.resource,
            tuple(name for name in self.columns if name in names),
            tuple((name, inner) for name, inner in self.related if name in names),
        )


class Value(ma.fields.Field[Any]):
    """A declared field in a schema: types and JSON forms are those of its row in ``FIELD_TYPES``."""

    default_error_messages = {"required": REQUIRED, "null": NULL}  # noqa: RUF012, as marshmallow declares it

    def __init__(self, declared: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.values = values
        super().__init__(validate=list(validators(declared, values)), **kwargs)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is None else self.values.facts.dump(self.values, value)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return self.values.facts.load(self.values, value)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from None


class Keys(ma.fields.Field[Any]):
    """A many_to_many field in a body: the keys of the rows to link, each alone or within its row's object."""

    default_error_messages = {"null": NULL, "list": "Not a valid list of keys."}  # noqa: RUF012

    def __init__(self, declared: Field, key: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.key = key
        self.values = values
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("list")
        keys: dict[Any, None] = {}
        problems: dict[int, list[str]] = {}
        for position, item in enumerate(value):
            if isinstance(item, dict):
                item = item.get(self.key.column_name)
            try:
                keys[self.values.facts.load(self.values, item)] = None
            except ValueError as error:
                problems[position] = [str(error)]
        if problems:
            raise ma.ValidationError(problems)
        return list(keys)


def validators(declared: Field, values: Field) -> list[Any]:
    """The rules of a field beyond its type, as marshmallow validators of Python values."""
    rules: list[Any] = []
    array = values.facts.kind is Kind.ARRAY
    element = values.element if array else values
    each = (lambda rule: _Each(rule)) if array else (lambda rule: rule)
    if values.facts.kind is Kind.TEXT and declared.to is None:
        if not values.blank:
            rules.append(validate.Length(min=1, error=BLANK))
        if values.pattern is not None:
            rules.append(_Matches(values.pattern))
        if values.type in TYPE_VALIDATORS:
            rules.append(TYPE_VALIDATORS[values.type])
    if values.min_length is not None or values.max_length is not None or values.type == "email":
        longest = values.max_length or (254 if values.type == "email" else None)
        rules.append(validate.Length(min=values.min_length, max=longest))
    if element.min is not None or element.max is not None:
        low, high = (None if x is None else element.facts.load(element, x) for x in (element.min, element.max))
        rules.append(each(validate.Range(min=low, max=high)))
    if element.choices:
        loaded = [element.facts.load(element, choice) for choice in element.choices]
        rules.append(each(validate.OneOf(loaded, error=f"Must be one of: {', '.join(map(str, element.choices))}.")))
    if values.blank:
        rules = [_UnlessBlank(rule) for rule in rules]
    return rules


class _Each(validate.Validator):
    """A rule for every item of a list."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, value: list[Any]) -> list[Any]:
        for item in value:
            self.rule(item)
        return value


class _UnlessBlank(_Each):
    """A rule from which the empty text is free, since the field may be blank."""

    def __call__(self, value: Any) -> Any:
        return value if value == "" else self.rule(value)


class _Matches(validate.Validator):
    """A pattern found anywhere in the text, as in JSON Schema and as PostgreSQL's ``~`` has it."""

    def __init__(self, pattern: str) -> None:
        self.regex = re.compile(pattern)

    def __call__(self, value: str) -> str:
        if not self.regex.search(value):
            raise ma.ValidationError(f"Must match the pattern {self.regex.pattern}.")
        return value


TYPE_VALIDATORS: Final[Mapping[str, Any]] = {
    "email": validate.Email(),
    "url": validate.URL(require_tld=False),
    "slug": validate.Regexp(r"[-a-zA-Z0-9_]+\Z", error="Use letters, digits, hyphens and underscores only."),
}


class Serializer(ma.Schema):
    """A marshmallow schema of a resource's fields; ``serializer_for`` makes the plain one."""

    class Meta:
        unknown = ma.RAISE

    resource: ClassVar[Resource]
    relations: ClassVar[Mapping[str, Relation]]
    shown: ClassVar[Projection]
    ignored: ClassVar[frozenset[str]]  # keys of a body that responses have and requests cannot set

    def validate_body(self, body: Any, *, partial: bool = False, updating: bool = False) -> dict[str, Any]:
        """The values of a body by column or many_to_many field; ``ValidationError`` has every field's messages.

        ``partial`` lets required fields be absent. When ``updating``, the key is ignored: it is the URL's.
        """
        if not isinstance(body, dict):
            raise ValidationError("The body must be a JSON object.")
        key = self.resource.key.column_name
        given = {
            name: value
            for name, value in body.items()
            if name not in self.ignored and not (updating and name == key) and not self._is_expansion(name, value)
        }
        absent: bool | tuple[str, ...] = partial or ((key,) if updating else False)
        try:
            return dict(self.load(given, partial=absent))
        except ma.ValidationError as error:
            messages = dict(error.messages_dict)
            names = [name for name, field in self.fields.items() if not field.dump_only]
            for name, told in messages.items():
                if name not in self.fields and told == ["Unknown field."]:
                    messages[name] = [f"Unknown field; {choices(name, names)}"]
            raise ValidationError(messages) from None

    def _is_expansion(self, name: str, value: Any) -> bool:
        """Whether this is a related row as a response shows it, which a body that was read carries along."""
        relation = self.relations.get(name)
        if relation is None or name in self.fields:
            return False
        return isinstance(value, list if relation.many else dict | None)


def serializer_for(resources: Resources, resource: Resource) -> type[Serializer]:
    """The plain serializer of a resource: every field, in the order of declaration."""
    members: dict[str, Any] = {}
    ignored: set[str] = set()
    for name, declared in resource.columns.items():
        values = resources.key_of(declared)
        generated = declared.primary_key and values.facts.kind is Kind.NUMBER and declared.default is MISSING
        if declared.read_only or declared.auto_now or declared.auto_now_add or generated:
            ignored.add(name)
        members[name] = Value(
            declared,
            values,
            required=declared.required,
            allow_none=declared.null,
            load_only=declared.write_only,
            dump_only=name in ignored,
            metadata={"declared": declared},
        )
    for name, declared in resource.links.items():
        assert declared.to is not None
        key = resources[declared.to].key
        members[name] = Keys(declared, key, resources.key_of(key), load_only=True, dump_only=False)
        if declared.read_only:
            ignored.add(name)
            del members[name]
    members |= {
        "resource": resource,
        "relations": resources.relations(resource.name),
        "shown": projection_of(resource),
        "ignored": frozenset(ignored),
    }
    return type(f"{resource.model}Serializer", (Serializer,), members)


def projection_of(resource: Resource) -> Projection:
    """All that is shown of a row of a resource without expansions."""
    return Projection(resource.name, tuple(name for name, field in resource.columns.items() if not field.write_only))


def expanded(resources: Resources, shown: Projection, paths: tuple[str, ...]) -> Projection:
    """A projection with related rows added: ``("category", "tags", "category__parent")``.

    ``ParseError`` names a path that leads nowhere and what would.
    """
    nested: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition("__")
        relations = resources.relations(shown.resource)
        if name not in relations:
            raise ParseError(f"expand: {shown.resource} has no relation {name!r}; {choices(name, sorted(relations))}")
        nested.setdefault(name, [])
        if rest:
            nested[name].append(rest)
    related = dict(shown.related)
    for name, deeper in nested.items():
        target = resources[resources.relations(shown.resource)[name].target]
        related[name] = expanded(resources, related.get(name, projection_of(target)), tuple(deeper))
    return Projection(shown.resource, shown.columns, tuple(related.items()))
