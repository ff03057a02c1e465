"""Serializers: marshmallow schemas with the fields of a resource.

A serializer defines the fields of request bodies and of responses. It is *plain* if its responses contain only columns and
relations: then its output is a ``Projection``, which ``query`` compiles to SQL, and PostgreSQL makes the JSON. Any other
serializer dumps Python values. Both make the same JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self
from weakref import WeakKeyDictionary

import marshmallow as ma

from rowcast.errors import MAX_MESSAGES, ConfigurationError, Messages, ValidationError, did_you_mean
from rowcast.orm.awaiting import must_be_awaited
from rowcast.orm.bridge import wait
from rowcast.orm.model import Model, RelatedRows
from rowcast.orm.model import model as model_named
from rowcast.orm.queryset import load_missing
from rowcast.orm.state import Row
from rowcast.query.projection import Projection, projection_of
from rowcast.resources.fields import MISSING
from rowcast.resources.resource import Relation, Resource, Resources
from rowcast.rest.body_loading import has_methods, load_by_fields, loads_by_fields
from rowcast.rest.serializer_fields import ColumnField, RelatedKeysField, generated_fields
from rowcast.rest.serializer_options import UNSUPPORTED, UNSUPPORTED_META, SerializerOptions
from rowcast.traces import recorded

CONTEXT: ContextVar[Callable[[], dict[str, Any]]] = ContextVar("context", default=dict)  # of the current request
NO_VALUES: Final[Mapping[str, Any]] = MappingProxyType({})
_OPAQUE: Final[Any] = object.__repr__  # of values that have no text of their own
HINTS: Final = 10  # unknown keys of a body whose messages name the nearest field


class _Settled(type(ma.Schema)):  # type: ignore[misc]
    """Makes instances and lets them settle, once their own ``__init__`` has had its say."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.settle()
        return made


class Serializer(ma.Schema, metaclass=_Settled):
    """A marshmallow schema of a resource's fields, with Django REST framework's calls.

    A subclass names a model and which of its fields it has::

        class TaskSerializer(Serializer):
            days_left = fields.Method("get_days_left")

            class Meta:
                model = Task
                fields = ("id", "title", "days_left")   # or exclude = (…); all fields by default
                read_only_fields = ("id",)
                extra = {"title": {"required": False}}  # arguments of marshmallow's fields

    ``Serializer(rows, many=True).data`` dumps rows. ``Serializer(data=body)`` loads a body: call ``is_valid()``, then read
    ``validated_data`` or ``errors``, then ``await save()``. Without a model it is a schema of the fields that it declares.

    Args:
        instance: The row, or the rows, to dump or to change.
        data: The body to load.
        many: Whether ``instance`` or ``data`` is a list.
        partial: Whether a body may leave out required fields.
        context: Values for the serializer's own code, such as the request and the view.
        **options: Those of ``marshmallow.Schema``.
    """

    OPTIONS_CLASS = SerializerOptions

    resource: ClassVar[Resource | None] = None
    resources: ClassVar[Resources]
    relations: ClassVar[Mapping[str, Relation]] = {}
    shown: Projection
    readable: frozenset[str] = frozenset()  # the columns and links that it shows: their relations are visible
    ignored: ClassVar[frozenset[str]] = frozenset()  # response fields that a body may repeat but cannot set
    related: ClassVar[tuple[str, ...] | None] = None  # relations of its responses; None for the viewset's
    guard: Callable[..., Awaitable[Any]] | None = None  # the viewset's, which checks what is saved: ``save_in_scope``
    nested: ClassVar[tuple[str, ...]] = ()  # the relations that fields of its class show, at any depth
    plain: bool = False  # whether its responses are its projection and the relations
    codeless: bool = False  # whether no Python of the user's takes part in validating a body
    hooked: ClassVar[bool] = False  # whether it has code that changes its responses
    dynamic: ClassVar[bool] = False  # whether instances may differ in their fields, so that each request makes its own
    _validating: ClassVar[tuple[str, ...]] = ()  # methods with names that Django REST framework would call
    _strings: frozenset[str] = frozenset()  # the attributes that string fields show
    _bindings: ClassVar[WeakKeyDictionary[Resources, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        meta = vars(cls).get("Meta")
        cls._validating = tuple(
            name for name in dir(cls) if name.startswith("validate_") and not hasattr(Serializer, name)
        )
        for name, instead in UNSUPPORTED.items():
            if getattr(cls, name, None) is not getattr(Serializer, name, None):
                raise ConfigurationError(f"{cls.__module__}.{cls.__name__}.{name} is not supported: {instead}")
        for name, instead in UNSUPPORTED_META.items():
            if meta is not None and hasattr(meta, name):
                raise ConfigurationError(f"{cls.__module__}.{cls.__name__}.Meta.{name} is not supported: {instead}")

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
        self.fixed: Mapping[str, Any] = NO_VALUES  # by the scope of the caller: see validate_body
        self._context: dict[str, Any] | None = dict(context or {})
        self._validated: Any = MISSING
        self._errors: Messages = {}
        if self.resource is None and (self.opts.included or self.opts.excluded or self._validating):
            self._check_meta(self._declared_fields)
            options.setdefault("only", tuple(self._listed(self._declared_fields)))
        super().__init__(many=many, partial=partial, **options)

    def settle(self) -> None:
        """Take over what the class's own code has done to the fields of this instance: the rest follows from them."""
        for part, left_out in ((self.dump_fields, "load_only"), (self.load_fields, "dump_only")):
            for name in [each for each in part if each not in self.fields or getattr(part[each], left_out)]:
                del part[name]
        inner = {name: getattr(field, "inner", field) for name, field in self.dump_fields.items()}
        self._strings = frozenset(
            self.dump_fields[name].attribute or name for name in inner if isinstance(inner[name], ma.fields.String)
        )
        self._loads_by_fields = loads_by_fields(self)
        self.codeless = self._loads_by_fields and not (self.opts.extra or has_methods(type(self), Serializer))
        if self.resource is None:
            return
        columns = tuple(name for name in self.shown.columns if isinstance(self.dump_fields.get(name), ColumnField))
        declared = type(self)._declared_fields  # noqa: SLF001, our own
        if columns != self.shown.columns or len(self.fields) != len(declared):
            gone = {*self.shown.columns} - {*columns} | {name for name in declared if name not in self.fields}
            self.shown, self.readable = Projection(self.shown.resource, columns), self.readable - gone
        if self.plain and not all(isinstance(field, ColumnField) for field in self.dump_fields.values()):
            self.plain = False

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        """The value of a field. ``TypeError`` for one of which a string field would show Python's text."""
        value = super().get_attribute(obj, attr, default)
        if attr in self._strings:
            for each in value if isinstance(value, list | tuple | RelatedRows) else (value,):
                if isinstance(each, Row) or type(each).__repr__ is _OPAQUE:
                    raise TypeError(
                        f"{type(self).__name__}: {attr!r} is a {type(each).__name__}, which is not a string: use "
                        "fields.Nested, fields.Pluck, or the column of its key"
                    )
        return value

    @classmethod
    def shared(cls) -> Self:
        """An instance that concurrent requests share; its context is that of the current request.

        If the class's own code needs a request for it, it has all fields, and stands for them in documents only.
        """
        try:
            serializer = cls()
        except Exception:
            if not cls.dynamic:
                raise
            serializer = cls.__new__(cls)
            Serializer.__init__(serializer)
            serializer.settle()
        serializer._context = None  # noqa: SLF001, our own
        return serializer

    @property
    def context(self) -> dict[str, Any]:
        """Values for the serializer's own code: ``request`` and ``view`` inside a viewset."""
        return CONTEXT.get()() if self._context is None else self._context

    @classmethod
    def bound_to(cls, resources: Resources, resource: Resource) -> type[Self]:
        """The result of ``bind``, made once for each configuration."""
        if "_bindings" not in vars(cls):
            cls._bindings = WeakKeyDictionary()
        bindings: dict[str, type[Self]] = cls._bindings.setdefault(resources, {})
        if resource.name not in bindings:
            bindings[resource.name] = cls.bind(resources, resource)
        return bindings[resource.name]

    @classmethod
    def bind(cls, resources: Resources, resource: Resource) -> type[Self]:
        """This serializer with the fields of a resource that ``Meta`` selects.

        Without ``Meta.model`` it has only those that ``Meta.fields`` names, besides those that it declares.
        """
        from_resource = cls.opts.model is not None or bool(cls.opts.included)
        generated, ignored = generated_fields(resources, resource) if from_resource else ({}, set())
        relations = resources.relations(resource.name)
        cls._check_meta([*generated, *cls._declared_fields, *relations])
        fields = cls._select(generated)
        ignored |= fields.keys() & set(cls.opts.read_only_fields)
        ignored -= {name for name, extra in cls.opts.extra.items() if extra.get("dump_only") is False}
        members: dict[str, Any] = {**fields, "__module__": cls.__module__, "__doc__": cls.__doc__}
        bound: type[Self] = type(cls.__name__, (cls,), members)
        bound._declared_fields = cls._listed({**cls._declared_fields, **fields})  # noqa: SLF001, marshmallow has no other way
        bound.resource, bound.resources, bound.relations = resource, resources, relations
        bound.nested = tuple(cls.nested_paths(resources, resource.name, frozenset({cls})))
        bound.related = cls._related_paths(relations, bound.nested)
        shown_only = {field.data_key or name for name, field in cls._declared_fields.items() if field.dump_only}
        bound.ignored = frozenset(ignored - cls._declared_fields.keys() | shown_only)
        bound.shown = cls._projection(resource, fields)
        bound.readable = frozenset({*bound.shown.columns, *cls._readable_links(resource, from_resource)})
        bound.hooked, bound.dynamic = has_hooks(cls), makes_its_own_fields(cls)
        bound.plain = not cls._listed(cls._declared_fields) and from_resource and not bound.hooked
        return bound

    @classmethod
    def _check_meta(cls, valid: Collection[str]) -> None:
        """``ConfigurationError`` for a name in ``Meta`` that is not a field, and for a method that nobody calls."""
        meta = cls.opts
        called = {hook[0] for hooks in cls._hooks.values() for hook in hooks}
        for name in cls._validating:
            if (field := name.removeprefix("validate_")) in valid and name not in called:
                raise ConfigurationError(
                    f'{cls.__module__}.{cls.__name__}.{name} is not called: write @validates("{field}") above it, and **kwargs '
                    "among its arguments, or choose another name"
                )
        for name in (*meta.included, *meta.excluded, *meta.read_only_fields, *meta.extra):
            if name not in valid:
                from_model = meta.model is not None or bool(meta.included)
                hint = (
                    did_you_mean(name, dict.fromkeys(valid)) if from_model else "set Meta.model to use a model's fields"
                )
                raise ConfigurationError(f"{cls.__name__}: there is no field {name!r}; {hint}")

    @classmethod
    def _select(cls, generated: Mapping[str, ColumnField | RelatedKeysField]) -> dict[str, Any]:
        """The generated fields that ``Meta`` selects, changed as it says. A declared field replaces a generated one."""
        meta = cls.opts
        fields = {}
        for name, field in generated.items():
            if name in cls._declared_fields or name in meta.excluded or (meta.included and name not in meta.included):
                continue
            if name in meta.read_only_fields:
                field.dump_only, field.load_only = True, False
            fields[name] = field.with_arguments(meta.extra[name]) if name in meta.extra else field
        return fields

    @classmethod
    def _listed(cls, fields: Mapping[str, ma.fields.Field[Any]]) -> dict[str, ma.fields.Field[Any]]:
        """The fields that ``Meta.fields`` lists, in its order, or all, without those of ``Meta.exclude``."""
        names = cls.opts.included or fields
        return {name: fields[name] for name in names if name in fields and name not in cls.opts.excluded}

    @classmethod
    def _related_paths(cls, relations: Collection[str], nested: tuple[str, ...]) -> tuple[str, ...] | None:
        """The relations that ``Meta.fields`` lists, and those that declared fields nest; ``None`` for the viewset's."""
        listed = tuple(name for name in cls.opts.included if name in relations)
        return tuple(dict.fromkeys((*listed, *nested))) if cls.opts.included else nested or None

    @classmethod
    def nested_paths(cls, resources: Resources, resource: str, seen: frozenset[type]) -> Iterator[str]:
        """The relations that declared fields show, and those of the serializers that they nest, except those ``seen``."""
        relations = resources.relations(resource)
        for name, field in cls._listed(cls._declared_fields).items():
            if name in relations:
                yield name
                inner = _serializer_in(field)
                if inner is not None and inner not in seen:
                    for path in inner.nested_paths(resources, relations[name].target, seen | {inner}):
                        yield f"{name}__{path}"

    @classmethod
    def _readable_links(cls, resource: Resource, from_resource: bool) -> Iterator[str]:
        """The many_to_many fields that ``Meta`` selects, or that the class declares as readable."""
        meta = cls.opts
        for name, field in resource.links.items():
            declared = cls._declared_fields.get(name)
            listed = name in meta.included if meta.included else from_resource or declared is not None
            computed = isinstance(declared, ma.fields.Method | ma.fields.Function | ma.fields.Constant)
            hidden = field.write_only or computed or (declared is not None and declared.load_only)
            if listed and name not in meta.excluded and not hidden:
                yield name

    @classmethod
    def _projection(cls, resource: Resource, fields: Mapping[str, ma.fields.Field[Any]]) -> Projection:
        """The readable columns, in the order of ``Meta.fields`` or of declaration."""
        columns = projection_of(resource).columns
        names = cls.opts.included or (*columns, *cls._declared_fields)
        return Projection(
            resource.name,
            tuple(name for name in names if name in columns and name in fields and not fields[name].load_only),
        )

    # --- bodies

    def validate_body(
        self, body: Any, *, partial: bool = False, updating: bool = False, fixed: Mapping[str, Any] = NO_VALUES
    ) -> dict[str, Any]:
        """Load a body.

        Args:
            body: The parsed JSON.
            partial: Whether required fields may be absent.
            updating: Whether the row exists. Then the key in the body is ignored, since the address has it.
            fixed: The values of columns that are not required, and that a new row has if the body leaves them out.

        Returns:
            The Python values by column or many_to_many field.

        Raises:
            ValidationError: The messages for every invalid field.
        """
        if not isinstance(body, dict):
            raise ValidationError("The body must be a JSON object.")
        keys = self.resource.key_columns if updating and self.resource else ()
        if self.ignored.isdisjoint(body) and not keys and self.relations.keys().isdisjoint(body):
            values = body
        else:
            values = {
                name: value
                for name, value in body.items()
                if name not in self.ignored and name not in keys and not self._is_expansion(name, value)
            }
        absent: bool | tuple[str, ...] = partial or (*keys, *fixed) or False
        if self._loads_by_fields and (valid := load_by_fields(self, values, absent)) is not None:
            return {**fixed, **valid} if fixed and not updating else valid
        values = dict(values)
        unlisted = self._drop_unknown(values)
        try:
            loaded = dict(self.load(values, partial=absent, many=False))
            return {**fixed, **loaded} if fixed and not updating else loaded
        except ma.ValidationError as error:
            messages = dict(error.messages_dict)
            if "_schema" in messages:
                messages["non_field_errors"] = messages.pop("_schema")
            names = [name for name, field in self.fields.items() if not field.dump_only]
            unknown = [name for name in messages if name not in self.fields and messages[name] == ["Unknown field."]]
            for name in unknown[:HINTS]:
                messages[name] = [f"Unknown field; {did_you_mean(name, names)}"]
            raise ValidationError(messages, unlisted=unlisted) from None

    def _drop_unknown(self, values: dict[str, Any]) -> int:
        """Remove the unknown keys of a body for which a response has no room; how many these are.

        The time that marshmallow takes for unknown keys grows with the square of their number.
        """
        if (
            len(values) <= MAX_MESSAGES + len(self.load_fields)
            or self.unknown != ma.RAISE
            or self._hooks.get("pre_load")
        ):
            return 0
        names = {field.data_key or name for name, field in self.load_fields.items()}
        unlisted = [name for name in values if name not in names][MAX_MESSAGES:]
        for name in unlisted:
            del values[name]
        return len(unlisted)

    def _is_expansion(self, name: str, value: Any) -> bool:
        """Whether this is an expanded relation, which is in a body that was read from a response."""
        relation = self.relations.get(name)
        if relation is None or name in self.fields:
            return False
        return isinstance(value, list if relation.many else dict | None)

    def is_valid(self, *, raise_exception: bool = False) -> bool:
        """Validate ``data``.

        Args:
            raise_exception: Whether to raise ``ValidationError`` instead of returning ``False``.

        Returns:
            Whether it is valid. If so, ``validated_data`` has the values; otherwise ``errors`` has the messages.
        """
        if self.initial_data is MISSING:
            raise TypeError("is_valid() has nothing to validate: pass data=… to the serializer")
        updating = self.instance is not None
        try:
            with recorded("validate", self):
                if self.many:
                    if not isinstance(self.initial_data, list):
                        raise ValidationError("The body must be a JSON array.")
                    self._validated = [self.validate_body(item, fixed=self.fixed) for item in self.initial_data]
                else:
                    partial = bool(self.partial)
                    self._validated = self.validate_body(
                        self.initial_data, partial=partial, updating=updating, fixed=self.fixed
                    )
        except ValidationError as error:
            if raise_exception:
                raise
            self._errors = error.errors or {}
            return False
        return True

    @property
    def validated_data(self) -> Any:
        """The values of a valid body, after ``is_valid()``."""
        if self._validated is MISSING:
            raise AttributeError("there is no validated_data: call is_valid() first, and use it if the result is True")
        return self._validated

    @property
    def errors(self) -> Messages:
        """The messages for each invalid field of a body, after ``is_valid()``."""
        return self._errors

    @property
    def data(self) -> Any:
        """The rows as values for JSON.

        A query set, and the related rows that are shown and not loaded yet, are read first, inside a handler only.
        """
        rows = self.instance
        if rows is None:
            return self.dump(self._validated) if self._validated is not MISSING else dict(self.errors)
        if hasattr(rows, "__await__"):
            rows = wait(rows)
        rows = list(rows) if self.many else [rows]
        if self.resource is not None and self.nested:
            name = self.resource.name
            load_missing([row for row in rows if isinstance(row, Model) and row.resource().name == name], self.nested)
        return self.dump(rows if self.many else rows[0], many=self.many)

    @must_be_awaited
    async def save(self, **extra: Any) -> Any:
        """Insert the row of a valid body, or change ``instance``.

        Args:
            **extra: Values that are added to the body's, and precede them.

        Returns:
            The row; with ``many`` a list of rows.
        """
        return await (self._save(extra) if self.guard is None else self.guard(self, extra, self._save))

    async def _save(self, extra: Mapping[str, Any]) -> Any:
        if self.many:
            self.instance = [await self.create({**item, **extra}) for item in self.validated_data]
        elif self.instance is None:
            self.instance = await self.create({**self.validated_data, **extra})
        else:
            self.instance = await self.update(self.instance, {**self.validated_data, **extra})
        return self.instance

    @must_be_awaited
    async def create(self, validated_data: dict[str, Any]) -> Any:
        """Insert a row with these values, and return it. Override it for another way to insert."""
        return await self._model().objects.create(**validated_data)

    @must_be_awaited
    async def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """Change a row to these values, and return it. Override it for another way to change."""
        for name, value in validated_data.items():
            setattr(instance, name, value)
        await instance.save()
        return instance

    def _model(self) -> Any:
        model = self.opts.model
        if model is None and self.resource is None:
            raise TypeError(
                f"{type(self).__name__} has no Meta.model: set one, get it from the viewset's get_serializer(), or override "
                "create() and update()"
            )
        return model_named(self.resource.name) if self.resource is not None else model


def _serializer_in(field: ma.fields.Field[Any]) -> type[Serializer] | None:
    """The serializer of a ``Nested`` field; ``None`` for other fields."""
    if not isinstance(field, ma.fields.Nested):
        return None
    nested: Any = field.nested
    if callable(nested) and not isinstance(nested, type):
        nested = nested()
    found = nested if isinstance(nested, type) else type(nested)
    return found if issubclass(found, Serializer) else None


def serializer_for(resources: Resources, resource: Resource, model: Any) -> type[Serializer]:
    """The plain serializer of a resource and its model, with every field in the order of declaration."""
    unbound: Any = type(f"{resource.model}Serializer", (Serializer,), {"Meta": type("Meta", (), {"model": model})})
    bound: type[Serializer] = unbound.bind(resources, resource)
    return bound


def has_hooks(cls: type[Serializer]) -> bool:
    """Whether a serializer has code that changes its responses."""
    return (
        any(cls._hooks.get(hook) for hook in ("pre_dump", "post_dump"))
        or cls.get_attribute is not Serializer.get_attribute
        or cls.dump is not ma.Schema.dump
        or cls.dumps is not ma.Schema.dumps
    )


def makes_its_own_fields(cls: type[Serializer]) -> bool:
    """Whether a serializer has code that may give each instance other fields."""
    return cls.__init__ is not Serializer.__init__ or cls.on_bind_field is not ma.Schema.on_bind_field
