"""Rows of resources: a test names the fields that it is about, and the rest is made up."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rowcast.errors import did_you_mean
from rowcast.orm.model import Model, model
from rowcast.query.store import STORE
from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource
from rowcast.resources.samples import needs_value, sample
from rowcast.rest.plan import Service


class Factory:
    """Makes rows of resources: ``product = await make("products", price="3.50")``.

    A field that a row cannot do without gets a valid value, which differs from row to row; a foreign key gets a new row of
    its target. All others get their default, or stay empty. A row is inserted as ``model("products")(…).save()`` does:
    permissions and viewsets have no say, and the database checks its constraints.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts: Counter[str] = Counter()

    async def __call__(self, resource: str, /, **values: Any) -> Model:
        """A new row of a resource.

        Args:
            resource: The resource's name.
            values: The values of fields, as Python or JSON has them: ``category=row``, ``category_id=1``, ``tags=[1, 2]``.

        Returns:
            The row: its attributes are its columns.

        Raises:
            LookupError: There is no such resource or field.
            ValueError: A field needs a value that cannot be made up.
        """
        return await self._make(resource, values, ())

    async def many(self, resource: str, count: int, /, **values: Any) -> list[Model]:
        """``count`` new rows of a resource, each as ``make`` makes it."""
        return [await self(resource, **values) for _ in range(count)]

    async def _make(self, name: str, values: dict[str, Any], way: tuple[str, ...]) -> Model:
        resources = self._service.resources
        if name not in resources:
            raise LookupError(f"there is no resource {name!r}; {did_you_mean(name, resources)}")
        resource = resources[name]
        if resource.view:
            raise LookupError(f"{name} is a view: make rows of the tables that it reads")
        valid = {*resource.fields, *resource.columns}
        for given in values.keys() - valid:
            raise LookupError(f"{name} has no field {given!r}; {did_you_mean(given, valid)}")
        self._counts[name] += 1
        made = dict(values)
        for field in resource.fields.values():
            if field.name not in values and field.column_name not in values and needs_value(field):
                made[field.name] = await self._value(resource, field, (*way, name))
        token = STORE.set(self._service.store)
        try:
            return await model(name)(**made).save()
        finally:
            STORE.reset(token)

    async def _value(self, resource: Resource, field: Field, way: tuple[str, ...]) -> Any:
        if field.field_type.kind is Kind.RELATION:
            assert field.to is not None
            if field.to in way:
                path = " → ".join((*way, field.to))
                raise ValueError(f"{resource.name} needs a row that needs it ({path}): name {field.name}")
            return await self._make(field.to, {}, way)
        try:
            return sample(field, self._counts[resource.name])
        except ValueError as error:
            raise ValueError(f"{resource.name}.{field.name} needs a value of yours: {error}") from None
