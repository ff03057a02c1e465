"""What a request reads and never changes: the service that viewsets share, and the plan of each viewset.

``binding`` computes a plan once, when the service starts: the options of class and config in their checked form, the
policies' instances, and what follows from both. A request makes one instance of the viewset, which has the plan as
``view_plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import quote
from weakref import WeakKeyDictionary

from aiohttp import web

from rowcast.changes.cache import Cache
from rowcast.changes.tail import Tail
from rowcast.configuration.settings import Settings
from rowcast.database.pool import Database
from rowcast.errors import InvalidPattern, ParseError, parameter_hint
from rowcast.hooks import Hooks, State
from rowcast.identity.authentication import BaseAuthentication
from rowcast.identity.permissions import BasePermission
from rowcast.identity.throttling import BaseThrottle
from rowcast.orm.model import Model
from rowcast.query.conditions import Condition, Query
from rowcast.query.projection import Projection
from rowcast.query.replicas import Replicas
from rowcast.query.store import Store
from rowcast.resources.actions import STANDARD_ACTIONS
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.rules import UniqueRule
from rowcast.rest.aggregates import Aggregates
from rowcast.rest.declared_scope import DeclaredScope
from rowcast.rest.filters import BaseFilterBackend
from rowcast.rest.pagination import BasePagination
from rowcast.rest.serializers import Serializer
from rowcast.rest.signatures import Call
from rowcast.streams.hub import Hub

FindCall: TypeAlias = Callable[[str, tuple[str, ...]], Call]
DIFFERS: Final = "it is declared otherwise at the origin"
"""The reason why an edge passes on a stream, for as long as its configuration is not that of its origin."""


@dataclass(slots=True, eq=False)
class Service:
    """What the viewsets of one service share.

    ``permission_classes``, ``authentication_classes`` and ``throttle_classes`` are the settings' own, for viewsets that
    name none. ``make_plan`` plans a class that the user has put into an aiohttp route with ``as_view``.
    ``secret`` signs cursors; it is read from the database when the service starts.
    """

    settings: Settings
    resources: Resources
    store: Store
    exports: Database
    feed: Tail
    cache: Cache
    hub: Hub
    permission_classes: Sequence[type[BasePermission]]
    authentication_classes: Sequence[type[BaseAuthentication]] = ()
    throttle_classes: Sequence[type[BaseThrottle]] = ()
    make_plan: Callable[[Service, type[Any], Mapping[str, Any]], ViewPlan] | None = None
    secret: bytes = b""
    replicas: Replicas | None = None
    imports: int = 0  # that are under way
    routes: dict[str, str] = field(default_factory=dict)  # name → path
    plans: dict[str, ModelPlan] = field(default_factory=dict)  # resource → the plan of its own viewset
    viewsets: dict[str, type[Any]] = field(default_factory=dict)  # resource → the class of its viewset
    class_plans: dict[type[Any], ViewPlan] = field(default_factory=dict)  # of classes that no resource names
    deletion_permissions: dict[str, tuple[type[BasePermission], ...]] = field(
        default_factory=dict
    )  # of ``soft_delete``
    deletion_plans: dict[tuple[ModelPlan, str], ModelPlan] = field(
        default_factory=dict
    )  # for requests about deleted rows, and for documents of callers who may not make these
    why_passed_on: Callable[[ModelPlan], str | None] = lambda _: None  # the reason why an edge does not send a stream
    hooks: Hooks = field(default_factory=lambda: Hooks((), State()))  # the functions of the config directory
    handler_plans: WeakKeyDictionary[Any, ViewPlan] = field(default_factory=WeakKeyDictionary)
    extra_actions: dict[type[Any], Sequence[Any]] = field(default_factory=dict)  # of a class, found once, by name
    calls: dict[tuple[type[Any], str], FindCall] = field(default_factory=dict)  # of a class and the name of its key

    def plan_of(self, handler: Any, viewset: type[Any], initkwargs: Mapping[str, Any]) -> ViewPlan:
        """The plan of a handler that ``as_view`` made of a class, planned at its first request."""
        plan = self.handler_plans.get(handler)
        if plan is None:
            assert self.make_plan is not None
            plan = self.handler_plans[handler] = self.make_plan(self, viewset, initkwargs)
        return plan

    def pools(self) -> dict[str, Database]:
        """The pools of connections, by what they are for."""
        pools = {"requests": self.store.database, "filters": self.store.judge, "exports": self.exports}
        for replica in self.replicas.all if self.replicas is not None else ():
            pools |= {f"requests {replica.name}": replica.store.database, f"exports {replica.name}": replica.exports}
        return pools

    def projections(self) -> dict[str, Projection]:
        """What the viewset of each resource shows of a row by default, which expansions show as well."""
        return {name: plan.serializer.shown for name, plan in self.plans.items()}

    def may_expand(self, resource: str) -> bool:
        """Whether clients may request a resource's rows with ``?expand=``."""
        return resource in self.plans and self.plans[resource].expandable_via is not None


SERVICE: Final = web.AppKey("service", Service)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictedKey:
    """A relation of a body whose keys must name rows that the caller could see: the target's viewset has a scope, or checks
    single rows. ``name`` is the key of the body, ``path`` the relation's name, ``values`` the field of its keys.
    """

    name: str
    path: str
    values: Field
    many: bool
    target: ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedRelation:
    """A relation back whose rows a body may have (the option ``nested``), under its name.

    ``path`` is the foreign key of the children, ``column`` its column and ``key`` the field of its values. ``opened`` has
    ``create``, ``update`` and ``delete``, as far as they are open; with ``delete`` a list deletes what it leaves out.
    """

    name: str
    path: str
    column: str
    key: Field
    target: ModelPlan
    opened: frozenset[str]

    @property
    def client_keys(self) -> bool:
        """Whether clients choose the keys of children, so that a key that is not there names a new row."""
        columns, names = self.target.resource.columns, self.target.resource.key_columns
        own = [name for name in names if name != self.column]
        return self.target.lookup_field is None and all(columns[name].required for name in own)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ViewPlan:
    """Everything about a viewset, at one address, that does not depend on a request.

    ``attributes`` are what each instance gets: the options of config and action, in their checked form. ``overridden`` are
    the names of Rowcast's methods that the user's class replaces. ``call(action, parts)`` says how an action's method is
    called at an address with these variable parts; ``ConfigurationError`` if it cannot be.
    """

    service: Service
    viewset: type[Any]
    attributes: Mapping[str, Any]
    permission_classes: Sequence[type[BasePermission]]
    permissions: Sequence[BasePermission]
    authentication_classes: Sequence[type[BaseAuthentication]]
    authenticators: Sequence[BaseAuthentication]
    throttle_classes: Sequence[type[BaseThrottle]]
    overridden: frozenset[str]
    acts_as_caller: bool = False
    call: FindCall
    allowed_parameters: Mapping[str, frozenset[str]]  # action → the query parameters that it reads
    config: Mapping[str, Any] = field(default_factory=dict)  # the options of the config
    checks_initial: bool = False  # the user's code runs before the action, in permissions and the like
    strict_query: bool = True
    exports: bool = False  # there is a list of Rowcast's own, all rows of which can be sent
    public_and_cacheable: bool = False  # answers are kept, and an address has one for everybody, without credentials

    def overrides(self, *names: str) -> bool:
        """Whether the user's class replaces one of these methods."""
        return not self.overridden.isdisjoint(names)

    def check_parameters(self, action: str, params: Mapping[str, str]) -> None:
        """Refuse a query parameter that an action does not read, unless ``strict_query`` is off."""
        if (
            self.strict_query
            and (valid := self.allowed_parameters.get(action)) is not None
            and not params.keys() <= valid
        ):
            name = next(name for name in params if name not in valid)
            hint = parameter_hint(name, sorted(valid))
            raise ParseError(f"{name[:50]}: unknown parameter; {hint}", code="unknown_parameter")

    def may_repeat(self, action: str) -> bool:
        """Whether an action may be run again after its transaction has been rolled back: no Python of the user's has run."""
        return False

    def part_of_address(self, name: str, value: object) -> str:
        """The value of a variable part of an address, percent-encoded."""
        return quote(str(value), safe="")

    def attribute(self, name: str) -> Any:
        """An attribute as instances have it."""
        return self.attributes[name] if name in self.attributes else getattr(self.viewset, name)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelPlan(ViewPlan):
    """The plan of a viewset over a resource.

    ``serializer`` is the shared instance for all actions but those that ``get_serializer_class`` gives another.
    The functions are cached: requests of the same form share their results.
    """

    resource: Resource
    model: type[Model]
    key: Field  # whose value the address names a row by
    key_column: str  # the column with that value
    generated_serializer: type[Serializer]
    serializer: Serializer
    filters: Sequence[BaseFilterBackend]
    pattern_parameters: Sequence[str]  # the parameters that are regular expressions
    takes_natives: bool  # whether filters may have values that only PostgreSQL can check
    paginator: BasePagination
    # options that requests read
    cache: str
    count: str
    lookup_field: str | None
    lookup_url_kwarg: str
    max_page_size: int
    ordering: Sequence[str]
    related_paths: Sequence[str]  # select_related and prefetch_related
    require_if_match: bool
    bulk: Sequence[str]  # ``update`` and ``destroy``, as far as they are open for filters
    max_bulk: int  # rows of one request
    imports: bool  # files of rows can be imported
    put_creates: bool  # PUT of a row that is not there inserts it
    nested_names: frozenset[str]  # the relations whose rows bodies may have
    # what follows from the class
    unscoped_query: Query | None  # the scope, where it is all rows but deleted ones
    live: tuple[Condition, ...]  # leaves out deleted rows, where the resource marks them
    declared_scope: DeclaredScope | None  # the option ``scope``
    aggregates: Aggregates | None
    scoped: bool  # whether the relations of the options are within the scopes of their rows
    scope_is_data: bool  # the option is all of the scope
    beyond_data: Sequence[str]  # what else than data has a say about who reads what: the reasons
    is_public: bool  # and everybody may read all rows, without credentials
    expandable_via: str | None  # the action whose permission also covers ?expand=; None if visibility differs by row
    asks_about_objects: bool  # Python has a say about single rows
    finds_objects: bool  # the user's ``get_object`` finds the row
    makes_serializers: bool  # the user's ``get_serializer`` makes the serializer
    shows_by_python: bool  # Python of the user's decides what rows show, also where they are related rows
    highlights: bool  # whether rows of a list can show what a full text search has found
    upserts: Sequence[UniqueRule]  # the unique rules that ``PUT ?on=`` may name
    filter_parameters: frozenset[str]  # the query parameters that narrow a list
    native_filters: bool  # the query string is read without Python of the user's
    simple_writes: bool  # a valid body is all that creating and updating take
    # caches
    bind_serializer: Callable[[type[Serializer]], type[Serializer]]  # the class for this service
    shared_serializer: Callable[[type[Serializer]], Serializer]
    default_projection: Callable[[Serializer], Projection]
    projection: Callable[[Projection, str, str], Projection]  # (default, fields, expand) → projection of the response
    python_projection: Callable[[Projection, tuple[str, ...]], Projection]  # (shown, relations) → all that Python reads
    python_paths: Callable[[], tuple[str, ...]]  # related_paths, and what Python that shows those rows may read
    answers_plainly: Callable[[], bool]  # whether Python has no say about the rows that are always shown
    has_python_rows: Callable[[Projection], bool]  # whether Python has a say about related rows
    restricted_keys: Callable[[], Sequence[RestrictedKey]]
    nested: Callable[[], Sequence[NestedRelation]]
    expansion_targets: Callable[..., Sequence[tuple[ModelPlan, str]]]  # (plan, default, readable, expand) → who decides
    # of requests about deleted rows
    deleted: str = ""  # the scope is ``with`` deleted rows, or has ``only`` these
    deletion_permissions: Sequence[BasePermission] = ()  # which ``permissions`` has as well

    @property
    def data_alone(self) -> bool:
        """Whether no Python of the user's has a say about who reads what."""
        return not self.beyond_data

    @property
    def shows_data(self) -> bool:
        """Whether data alone decide which rows a caller sees, and every action shows the same columns of them."""
        return (
            self.data_alone
            and self.serializer.plain
            and not self.takes_natives
            and self.attribute("response_serializer") is None
            and self.attribute("list_serializer_class") is None
        )

    def pattern_error(self, error: InvalidPattern, params: Mapping[str, str]) -> InvalidPattern:
        """An error of PostgreSQL's about regular expressions, with the names of those parameters that are some."""
        return error.naming(name for name in self.pattern_parameters if name in params)

    @property
    def purges(self) -> bool:
        """Whether a DELETE removes rows for good that would be marked otherwise."""
        return self.deleted == "with"

    def may_repeat(self, action: str) -> bool:
        hooks = ("initial", "finalize_response", "perform_destroy", action)
        return (
            action in STANDARD_ACTIONS
            and self.simple_writes
            and not self.nested_names  # whose viewsets may have Python
            and not self.asks_about_objects
            and not self.overrides(*hooks)
        )

    def part_of_address(self, name: str, value: object) -> str:
        if not self.key.parts or name != self.lookup_url_kwarg:
            return quote(str(value), safe="")
        return value if isinstance(value, str) else str(self.key.field_type.dump(self.key, value))

    def requires(self, name: str, field: Any) -> bool:
        """Whether a body needs this field of the serializer: not one that the caller's scope fixes."""
        return field.required and (self.declared_scope is None or name not in self.declared_scope.fixed_columns)


def new_view(plan: ViewPlan, **attributes: Any) -> Any:
    """An instance of a plan's viewset, with ``attributes`` on top of the plan's own."""
    return plan.viewset(view_plan=plan, **plan.attributes, **attributes)


class Policies(tuple[Any, ...]):
    """The instances of policies, such as permissions."""

    __slots__ = ()


NO_POLICIES: Final = Policies()


def policy_instances(policies: Iterable[Any]) -> Policies:
    """The instances of policies, for which an overridden getter may return classes."""
    if type(policies) is Policies:
        return policies
    return Policies(policy() if isinstance(policy, type) else policy for policy in policies)
