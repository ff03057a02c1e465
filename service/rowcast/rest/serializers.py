"""Serializers: marshmallow schemas that know their resource, and the projections that plain ones amount to.

A serializer says what a body may hold and what a response shows. When all it shows are columns and relations it is
*plain*: its output is a ``Projection``, which ``query`` turns into SQL, so that PostgreSQL makes the JSON. Any other
serializer dumps Python values. Both give the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self
from weakref import WeakKeyDictionary

import marshmallow as ma

from rowcast.errors import ConfigurationError, Messages, ValidationError, did_you_mean
from rowcast.orm.bridge import wait
from rowcast.orm.state import Row, state_of
from rowcast.query.projection import Projection, projection_of
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.resource import Relation, Resource, Resources
from rowcast.resources.validators import (
    NULL,
    REQUIRED,
    validators,
)

CONTEXT: ContextVar[Callable[[], dict[str, Any]]] = ContextVar("context", default=dict)  # of the request at hand
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Value(ma.fields.Field[Any]):
    """A declared field in a schema: types and JSON forms are those of its row in ``FIELD_TYPES``."""

    default_error_messages = {"required": REQUIRED, "null": NULL}  # noqa: RUF012, as marshmallow declares it

    def __init__(self, declared: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.values = values
        super().__init__(validate=list(validators(declared, values)), **kwargs)

    def changed(self, options: Mapping[str, Any]) -> Value:
        """The same field with other marshmallow arguments; validators are added to its own."""
        rules = options.get("validate", ())
        own = {"required": self.required, "allow_none": self.allow_none}
        own |= {"load_only": self.load_only, "dump_only": self.dump_only}
        given = {name: value for name, value in options.items() if name != "validate"}
        made = Value(self.declared, self.values, **{**own, **given})
        made.validators += [rules] if callable(rules) else list(rules)
        return made

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if value is None:
            return None
        exact = state_of(obj).exact if isinstance(obj, Row) else _NOTHING
        if exact and (name := self.attribute or self.declared.column_name) in exact and value is getattr(obj, name):
            return exact[name]  # Python has only the nearest value
        return self.values.field_type.dump(self.values, value)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return self.values.field_type.load(self.values, value)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from None


class RelatedKeysField(ma.fields.Field[Any]):
    """A many_to_many field in a body: the keys of the rows to link, each alone or within its row's object."""

    default_error_messages = {"null": NULL, "list": "Not a valid list of keys."}  # noqa: RUF012

    def __init__(self, declared: Field, key: Field, values: Field, **kwargs: Any) -> None:
        self.declared = declared
        self.key = key
        self.values = values
        super().__init__(**kwargs)

    def changed(self, options: Mapping[str, Any]) -> RelatedKeysField:
        """The same field with other marshmallow arguments."""
        return RelatedKeysField(self.declared, self.key, self.values, **{"load_only": True, **options})

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


class _Options(ma.SchemaOpts):
    """The ``Meta`` of a serializer: marshmallow's options, and which model's fields it takes in."""

    def __init__(self, meta: Any, ordered: bool = False) -> None:
        if getattr(meta, "fields", None) == "__all__":
            meta = type("Meta", (), {name: value for name, value in _members(meta).items() if name != "fields"})
        self.model = getattr(meta, "model", None)
        self.read_only_fields: tuple[str, ...] = tuple(getattr(meta, "read_only_fields", ()))
        self.extra: Mapping[str, Mapping[str, Any]] = getattr(meta, "extra", {})
        super().__init__(meta)
        self.unknown = getattr(meta, "unknown", ma.RAISE)
        self.named = tuple(self.fields or ())
        self.hidden = tuple(self.exclude or ())
        self.fields, self.exclude = (), ()  # ``bind`` follows them, since it knows the model's fields


def _members(meta: type) -> dict[str, Any]:
    return {name: getattr(meta, name) for name in dir(meta) if not name.startswith("__")}


class Serializer(ma.Schema):
    """A marshmallow schema of a resource's fields, with Django REST framework's calls.

    A subclass names a model and which of its fields it has::

        class TaskSerializer(Serializer):
            days_left = fields.Method("get_days_left")

            class Meta:
                model = Task
                fields = ("id", "title", "days_left")   # or exclude = (…); all of them without either
                read_only_fields = ("id",)
                extra = {"title": {"required": False}}  # arguments of marshmallow's field, by name

    ``Serializer(rows, many=True).data`` shows rows, ``Serializer(data=body)`` takes a body: ``is_valid()``, then
    ``validated_data`` or ``errors``, then ``await save()``. Without a model it is a schema of the fields it declares.
    """

    OPTIONS_CLASS = _Options

    resource: ClassVar[Resource | None] = None
    resources: ClassVar[Resources]
    relations: ClassVar[Mapping[str, Relation]] = {}
    shown: ClassVar[Projection]
    ignored: ClassVar[frozenset[str]] = frozenset()  # keys of a body that responses have and requests cannot set
    related: ClassVar[tuple[str, ...] | None] = None  # relations that Meta.fields names; without it the viewset's
    plain: ClassVar[bool] = False  # whether all that it shows is its projection
    _bindings: ClassVar[WeakKeyDictionary[Resources, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls.resource is None and (model := cls.opts.model) is not None:
            return super().__new__(cls.bound_to(model.resources(), model.resource()))
        return super().__new__(cls)

    def __init__(
        self,
        instance: Any = None,
        data: Any = MISSING,
        *,
        many: bool = False,
        partial: bool = False,
        context: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.instance = instance
        self.initial_data = data
        self._context: dict[str, Any] | None = dict(context or {})
        self._validated: Any = MISSING
        self._errors: Messages = {}
        super().__init__(many=many, partial=partial, **options)

    @classmethod
    def shared(cls) -> Self:
        """An instance for many requests at once, whose context is that of the request at hand."""
        made = cls()
        made._context = None
        return made

    @property
    def context(self) -> dict[str, Any]:
        """What the viewset tells the code of the serializer: the request and the view."""
        return CONTEXT.get()() if self._context is None else self._context

    @classmethod
    def bound_to(cls, resources: Resources, resource: Resource) -> type[Self]:
        """``bind``, once for each configuration."""
        if "_bindings" not in vars(cls):
            cls._bindings = WeakKeyDictionary()
        known = cls._bindings.setdefault(resources, {})
        if resource.name not in known:
            known[resource.name] = cls.bind(resources, resource)
        bound: type[Self] = known[resource.name]
        return bound

    @classmethod
    def bind(cls, resources: Resources, resource: Resource) -> type[Self]:
        """This serializer with the fields of a resource that ``Meta`` asks for; without a model with none of them."""
        options: _Options = cls.opts
        generated, ignored = generated_fields(resources, resource)
        if options.model is None:
            generated, ignored = {}, set()
        relations = resources.relations(resource.name)
        wanted = [*generated, *cls._declared_fields, *relations]
        for name in (*options.named, *options.hidden, *options.read_only_fields, *options.extra):
            if name not in wanted:
                hint = "set Meta.model to have a model's" if options.model is None else did_you_mean(name, wanted)
                raise ConfigurationError(f"{cls.__name__}: there is no field {name!r}; {hint}")
        members: dict[str, Any] = {}
        for name, field in generated.items():
            if name in cls._declared_fields or (options.named and name not in options.named) or name in options.hidden:
                continue
            if name in options.read_only_fields:
                ignored.add(name)
                field.dump_only, field.load_only = True, False
            members[name] = field.changed(options.extra[name]) if name in options.extra else field
        own = projection_of(resource)
        bound: type[Self] = type(
            cls.__name__, (cls,), {**members, "__module__": cls.__module__, "__doc__": cls.__doc__}
        )
        bound.resource, bound.resources = resource, resources
        bound.relations = relations
        nested = [name for name in cls._declared_fields if name in relations]
        if options.named:
            bound.related = tuple(name for name in options.named if name in relations)
        elif nested:
            bound.related = tuple(nested)
        bound.ignored = frozenset(ignored - set(cls._declared_fields))
        names = options.named or (*own.columns, *cls._declared_fields)
        bound.shown = Projection(
            resource.name,
            tuple(name for name in names if name in own.columns and name in members and not members[name].load_only),
        )
        bound.plain = not cls._declared_fields and options.model is not None and not has_hooks(cls)
        return bound

    # --- bodies

    def validate_body(self, body: Any, *, partial: bool = False, updating: bool = False) -> dict[str, Any]:
        """The values of a body by column or many_to_many field; ``ValidationError`` has every field's messages.

        ``partial`` lets required fields be absent. When ``updating``, the key is ignored: it is the URL's.
        """
        if not isinstance(body, dict):
            raise ValidationError("The body must be a JSON object.")
        key = self.resource.key.column_name if self.resource else ""
        given = {
            name: value
            for name, value in body.items()
            if name not in self.ignored and not (updating and name == key) and not self._is_expansion(name, value)
        }
        absent: bool | tuple[str, ...] = partial or ((key,) if updating and key else False)
        try:
            return dict(self.load(given, partial=absent, many=False))
        except ma.ValidationError as error:
            messages = dict(error.messages_dict)
            if "_schema" in messages:
                messages["non_field_errors"] = messages.pop("_schema")
            names = [name for name, field in self.fields.items() if not field.dump_only]
            for name, told in messages.items():
                if name not in self.fields and told == ["Unknown field."]:
                    messages[name] = [f"Unknown field; {did_you_mean(name, names)}"]
            raise ValidationError(messages) from None

    def _is_expansion(self, name: str, value: Any) -> bool:
        """Whether this is a related row as a response shows it, which a body that was read carries along."""
        relation = self.relations.get(name)
        if relation is None or name in self.fields:
            return False
        return isinstance(value, list if relation.many else dict | None)

    def is_valid(self, *, raise_exception: bool = False) -> bool:
        """Whether ``data`` is valid; then ``validated_data`` has it, otherwise ``errors`` says what is not."""
        if self.initial_data is MISSING:
            raise TypeError("is_valid() needs the serializer to be made with data=…")
        updating = self.instance is not None
        try:
            if self.many:
                if not isinstance(self.initial_data, list):
                    raise ValidationError("The body must be a JSON array.")
                self._validated = [self.validate_body(item) for item in self.initial_data]
            else:
                partial = bool(self.partial)
                self._validated = self.validate_body(self.initial_data, partial=partial, updating=updating)
        except ValidationError as error:
            if raise_exception:
                raise
            self._errors = error.errors or {}
            return False
        return True

    @property
    def validated_data(self) -> Any:
        """The values of a valid body."""
        if self._validated is MISSING:
            raise AttributeError("validated_data is there once is_valid() has returned True")
        return self._validated

    @property
    def errors(self) -> Messages:
        """The messages of each field of a body that is not valid."""
        return self._errors

    @property
    def data(self) -> Any:
        """The rows as JSON shows them. A query set is read first, which waits inside a handler."""
        rows = self.instance
        if rows is None:
            return self.dump(self._validated) if self._validated is not MISSING else dict(self.errors)
        if hasattr(rows, "__await__"):
            rows = wait(rows)
        return self.dump(list(rows) if self.many else rows, many=self.many)

    async def save(self, **extra: Any) -> Any:
        """Create or change the row that the body is about, with ``extra`` values on top; the row."""
        if self.many:
            self.instance = [await self.create({**item, **extra}) for item in self.validated_data]
        elif self.instance is None:
            self.instance = await self.create({**self.validated_data, **extra})
        else:
            self.instance = await self.update(self.instance, {**self.validated_data, **extra})
        return self.instance

    async def create(self, validated_data: dict[str, Any]) -> Any:
        """Insert a row; to be overridden."""
        return await self._model().objects.create(**validated_data)

    async def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """Change a row; to be overridden."""
        for name, value in validated_data.items():
            setattr(instance, name, value)
        await instance.save()
        return instance

    def _model(self) -> Any:
        model = self.opts.model
        if model is None:
            raise TypeError(f"{type(self).__name__} has no Meta.model to save to: override create() and update()")
        return model


def generated_fields(resources: Resources, resource: Resource) -> tuple[dict[str, Value | RelatedKeysField], set[str]]:
    """The schema fields of a resource by name, in the order of declaration, and which of them a body cannot set."""
    made: dict[str, Value | RelatedKeysField] = {}
    ignored: set[str] = set()
    for name, declared in resource.columns.items():
        values = resources.key_of(declared)
        identity = declared.primary_key and values.field_type.kind is Kind.NUMBER and declared.default is MISSING
        if declared.read_only or declared.auto_now or declared.auto_now_add or identity:
            ignored.add(name)
        made[name] = Value(
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
            made[name] = RelatedKeysField(declared, key, resources.key_of(key), load_only=True)
    return made, ignored


def serializer_for(resources: Resources, resource: Resource, model: Any) -> type[Serializer]:
    """The plain serializer of a resource and its model: every field, in the order of declaration."""
    named: Any = type(f"{resource.model}Serializer", (Serializer,), {"Meta": type("Meta", (), {"model": model})})
    bound: type[Serializer] = named.bind(resources, resource)
    return bound


def has_hooks(cls: type[Serializer]) -> bool:
    """Whether Python of its own has a say in what a serializer shows."""
    return (
        any(cls._hooks.get(hook) for hook in ("pre_dump", "post_dump"))
        or cls.get_attribute is not ma.Schema.get_attribute
    )
