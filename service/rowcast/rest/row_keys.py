"""How a request about many rows names each: by the columns of the key, or that of ``lookup_field``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rowcast.errors import ApiError, ValidationError
from rowcast.query.many import Key, at_places
from rowcast.resources.fields import Field
from rowcast.resources.validators import REQUIRED
from rowcast.rest.plan import ModelPlan

NOT_AN_OBJECT: Final = "The body must be a JSON object."


def key_path(plan: ModelPlan) -> str:
    """The path of the field whose value names a row."""
    return plan.lookup_field or plan.resource.key.name


def key_parameter(plan: ModelPlan) -> str:
    """The parameter that names rows: ``id__in``; ``pk__in`` for keys of several fields."""
    return "pk__in" if plan.key.parts else f"{key_path(plan)}__in"


def key_names(plan: ModelPlan) -> tuple[str, ...]:
    """The columns whose values name a row."""
    return plan.resource.key_columns if plan.key.parts else (plan.key_column,)


def key_fields(plan: ModelPlan) -> list[tuple[str, Field]]:
    """The same columns with the fields of their values."""
    return list(zip(key_names(plan), plan.key.parts or (plan.key,), strict=True))


def read_keys(plan: ModelPlan, names: Sequence[str], body: Sequence[Any]) -> list[Key]:
    """The keys of the objects of an array; ``ValidationError`` for one that is missing, not valid, or there twice."""
    wrong: dict[int, ApiError] = {}
    places: dict[Key, int] = {}
    for place, item in enumerate(body):
        if not isinstance(item, dict):
            wrong[place] = ValidationError(NOT_AN_OBJECT)
            continue
        errors, key = {}, []
        for name, field in key_fields(plan):
            try:
                if item.get(name) is None:
                    raise ValueError(REQUIRED)
                key.append(field.field_type.load(field, item[name]))
            except ValueError as error:
                errors[name] = [str(error)]
        if not errors and (first := places.setdefault(tuple(key), place)) != place:
            errors = {name: [f"The same key as at {first}."] for name in names}
        if errors:
            wrong[place] = ValidationError(errors)
    if wrong:
        raise at_places(wrong)
    return list(places)
