"""The marshmallow fields of columns and of many_to_many fields, which serializers have for a resource."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import marshmallow as ma

from rowcast.orm.state import Row, state_of
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.validators import NULL, REQUIRED, validators

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class ColumnField(ma.fields.Field[Any]):
    """A column in a schema. Its row in ``FIELD_TYPES`` loads and dumps its values."""

    default_error_messages = {"required": REQUIRED, "null": NULL}  # noqa: RUF012, as marshmallow declares it

    def __init__(self, declared: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.values = values
        super().__init__(validate=list(validators(declared, values)), **kwargs)

    def with_arguments(self, arguments: Mapping[str, Any]) -> ColumnField:
        """The same field with other marshmallow arguments; their validators are added to its own."""
        own = {name: getattr(self, name) for name in ("required", "allow_none", "load_only", "dump_only")}
        others = {name: value for name, value in arguments.items() if name != "validate"}
        field = ColumnField(self.declared, self.values, **(own | others))
        added = arguments.get("validate", ())
        field.validators += [added] if callable(added) else list(added)
        return field

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if value is None:
            return None
        exact = state_of(obj).exact if isinstance(obj, Row) else _NOTHING
        if exact and (name := self.attribute or self.declared.column_name) in exact and value is getattr(obj, name):
            return exact[name]  # the row's attribute is only the nearest Python value
        return self.values.field_type.dump(self.values, value)

    def value_of(self, value: Any) -> Any:
        """The Python value of one from JSON that is not null; ``ValueError`` or ``ma.ValidationError`` if it is not valid."""
        value = self.values.field_type.load(self.values, value)
        for validator in self.validators:
            validator(value)
        return value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return self.values.field_type.load(self.values, value)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from None

    def _validate(self, value: Any) -> None:
        try:
            for validator in self.validators:
                validator(value)
        except ma.ValidationError:
            super()._validate(value)  # collects the messages of all validators
            raise


class RelatedKeysField(ma.fields.Field[Any]):
    """A many_to_many field in a body: a list of the keys of the rows to link, or of objects that contain the keys."""

    default_error_messages = {"null": NULL, "list": "Not a valid list of keys."}  # noqa: RUF012

    def __init__(self, declared: Field, key: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.key = key
        self.values = values
        super().__init__(**kwargs)

    def with_arguments(self, arguments: Mapping[str, Any]) -> RelatedKeysField:
        """The same field with other marshmallow arguments."""
        return RelatedKeysField(self.declared, self.key, self.values, **{"load_only": True, **arguments})

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("list")
        keys: dict[Any, None] = {}
        problems: list[str] = []
        for position, item in enumerate(value):
            if isinstance(item, dict):
                item = item.get(self.key.column_name)
            try:
                keys[self.values.field_type.load(self.values, item)] = None
            except ValueError as error:
                problems.append(f"Item {position}: {error}")
        if problems:
            raise ma.ValidationError(problems)
        return list(keys)


def generated_fields(
    resources: Resources, resource: Resource
) -> tuple[dict[str, ColumnField | RelatedKeysField], set[str]]:
    """The schema fields of a resource in the order of declaration, and the names of those that a body cannot set."""
    fields: dict[str, ColumnField | RelatedKeysField] = {}
    ignored: set[str] = set()
    for name, declared in resource.columns.items():
        values = resources.key_of(declared)
        if declared.read_only or declared.auto_now or declared.auto_now_add or declared.is_counted:
            ignored.add(name)
        fields[name] = ColumnField(
            declared,
            values,
            required=declared.required,
            allow_none=declared.null,
            load_only=declared.write_only,
            dump_only=name in ignored,
        )
    for name, declared in resource.links.items():
        assert declared.to is not None
        key = resources[declared.to].key
        if declared.read_only:
            ignored.add(name)
        else:
            fields[name] = RelatedKeysField(declared, key, resources.key_of(key), load_only=True)
    return fields, ignored
