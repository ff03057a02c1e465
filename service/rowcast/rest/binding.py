"""Binding: from a viewset's class, its resource and the config's options to its ``ViewPlan``, once, at start.

What is wrong with a class is a ``ConfigurationError`` that names the class, the attribute, and what is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any, Final

from rowcast.configuration import viewset_options
from rowcast.configuration.viewset_options import VIEWSET_OPTIONS, attribute_of
from rowcast.errors import ConfigurationError
from rowcast.identity import throttling
from rowcast.identity.permissions import OPEN_TO_READERS, BasePermission, check_columns, checks_objects
from rowcast.orm.model import model
from rowcast.query.conditions import Query, total_order, without_deleted
from rowcast.query.projection import Projection, expand, with_all_columns
from rowcast.query.store import STORE
from rowcast.resources.actions import AGGREGATE, LIVE, STREAM
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.resources.resource import Resource, Resources
from rowcast.rest import expansion
from rowcast.rest.aggregates import LIVE_PARAMETERS, PARAMETERS, opened_aggregates, pages_of_groups
from rowcast.rest.beyond_data import reasons_beyond_data
from rowcast.rest.database_views import check_view
from rowcast.rest.declared_scope import DeclaredScope
from rowcast.rest.filters import can_highlight
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.introspection import has_users_code, is_ours, near_misses, overridden_methods, owner_of
from rowcast.rest.pagination import BasePagination, NoPagination, PageNumberPagination
from rowcast.rest.plan import FindCall, ModelPlan, Service, ViewPlan, policy_instances
from rowcast.rest.rendering import READ_PARAMETERS
from rowcast.rest.request import names_in
from rowcast.rest.serializer_rules import check_serializers, check_serializers_of_action
from rowcast.rest.serializers import Serializer, serializer_for
from rowcast.rest.signatures import Call, call_of
from rowcast.rest.soft_deletion import with_parameters
from rowcast.rest.viewset import ViewSet
from rowcast.rest.write_rules import (
    has_simple_writes,
    is_allowed,
    may_create_by_put,
    may_import,
    nested_relations,
    restricted_keys,
    upserts,
)

CACHED_PROJECTIONS: Final = 256  # of each kind and viewset; clients choose ?fields= and ?expand=
CACHED_SERIALIZERS: Final = 64  # of each viewset; get_serializer_class may return any class
STREAM_PARAMETERS: Final = ("fields", "expand", "snapshot", "last_event_id", "access_token", "ticket")
LOOKUP_URL_KWARG: Final = "lookup_url_kwarg"  # of classes and actions only, not of the config
CLASS_OPTIONS: Final = frozenset(
    {
        "serializer_class", "list_serializer_class", "permission_classes", "authentication_classes", "throttle_classes",
        "filter_backends", "pagination_class", "scope_unless",
    }
)  # fmt: skip
_BEFORE_ACTION: Final = (
    "initialize_request", "initial", "perform_authentication", "get_authenticators", "check_permissions",
    "get_permissions", "permission_denied", "check_throttles", "get_throttles",
)  # fmt: skip


def plan_view(service: Service, cls: type[ViewSet], initkwargs: Mapping[str, Any] | None = None) -> ViewPlan:
    """The plan of a class that no resource names: of its own model, or of none. The class is planned once."""
    if cls not in service.class_plans:
        service.class_plans[cls] = _plan_class(service, cls)
    return at_address(service.class_plans[cls], initkwargs or {})


def _plan_class(service: Service, cls: type[ViewSet]) -> ViewPlan:
    if not issubclass(cls, GenericViewSet):
        return plan_plain(service, cls, {})
    STORE.set(service.store)
    named = cls.model or (cls.queryset.model if cls.queryset is not None else None)
    if named is None:
        raise ConfigurationError(f"{cls.__name__} needs a model or a queryset")
    return plan_resource(service, cls, named.resource(), {})


def at_address(plan: ViewPlan, initkwargs: Mapping[str, Any]) -> ViewPlan:
    """The plan of a viewset for one address: with the options and attributes of its action (``@action(…)``)."""
    if not isinstance(plan, ModelPlan):
        return plan_plain(plan.service, plan.viewset, plan.config, initkwargs)
    overrides = {name: value for name, value in initkwargs.items() if name in (*VIEWSET_OPTIONS, LOOKUP_URL_KWARG)}
    if overrides:
        plan = _plan_model(plan.service, plan.viewset, plan.resource, plan.config, overrides)
    checked = {name: plan.attribute(name) for name in overrides}
    check_serializers_of_action(plan.viewset, plan.resource, initkwargs)
    return replace(plan, attributes={**plan.attributes, **initkwargs, **checked})


# --- plain viewsets


def plan_plain(
    service: Service,
    cls: type[ViewSet],
    config: Mapping[str, Any],
    initkwargs: Mapping[str, Any] = MappingProxyType({}),
) -> ViewPlan:
    """The plan of a ``ViewSet`` without rows, with the options of the config and those of an action on top."""
    options = {**config, **initkwargs}
    policies = _policies(service, cls, options)
    overridden = overridden_methods(cls)
    return ViewPlan(
        service=service,
        viewset=cls,
        attributes={**options, **_policy_attributes(policies)},
        overridden=overridden,
        call=_calls(service, cls, _key_part(cls, initkwargs)),
        config=config,
        acts_as_caller=service.store.database.acts_as_callers,
        checks_initial=_has_code_before_actions(policies, overridden),
        allowed_parameters={},
        **policies,
    )


def _policies(service: Service, cls: type[ViewSet], options: Mapping[str, Any]) -> dict[str, Any]:
    """The policies of a viewset, by default the settings', and their instances; their rates are checked."""
    classes = {
        name: tuple(default if (own := options.get(name, getattr(cls, name))) is None else own)
        for name, default in (
            ("permission_classes", service.permission_classes),
            ("authentication_classes", service.authentication_classes),
            ("throttle_classes", service.throttle_classes),
        )
    }
    view = cls(throttle_scope=options.get("throttle_scope", cls.throttle_scope))
    throttling.check_rates(classes["throttle_classes"], view, service.settings.throttle.rates)
    return {
        **classes,
        "permissions": policy_instances(classes["permission_classes"]),
        "authenticators": policy_instances(classes["authentication_classes"]),
    }


def _has_code_before_actions(policies: Mapping[str, Any], overridden: frozenset[str]) -> bool:
    """Whether code of the user's recognises callers, decides about them, or counts them."""
    classes = (*policies["permission_classes"], *policies["authentication_classes"], *policies["throttle_classes"])
    return not overridden.isdisjoint(_BEFORE_ACTION) or any(map(has_users_code, classes))


def _policy_attributes(policies: Mapping[str, Any]) -> dict[str, Any]:
    return {name: policies[name] for name in ("permission_classes", "authentication_classes", "throttle_classes")}


def _key_part(cls: type[ViewSet], options: Mapping[str, Any]) -> str:
    """The name of the address's part that is a row's key."""
    return options.get(LOOKUP_URL_KWARG, cls.lookup_url_kwarg) or "id"


def _calls(service: Service, cls: type[ViewSet], key: str) -> FindCall:
    """How the methods of a class are called; resources without a class of their own share what is found out."""

    @cache
    def call(action: str, parts: tuple[str, ...]) -> Call:
        return call_of(cls, action, parts, key if key in parts else None)

    return service.calls.setdefault((cls, key), call)


# --- viewsets over a resource


def plan_resource(
    service: Service, cls: type[GenericViewSet], resource: Resource, config: Mapping[str, Any]
) -> ModelPlan:
    """The plan of a viewset over a resource, with the options of the config, which precede those of the class."""
    plan = _plan_model(service, cls, resource, config, {})
    service.plans.setdefault(resource.name, plan)
    return plan


def _plan_model(
    service: Service,
    cls: type[GenericViewSet],
    resource: Resource,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> ModelPlan:
    """The plan, with an action's ``overrides`` on top of config and class.

    Long because it is one table: each line says what one field of the plan follows from.
    """
    resources = service.resources
    options = effective_options(cls, resources, resource, config, overrides)
    overridden = overridden_methods(cls)
    if resource.view:
        check_view(cls, resource, options, overridden)
    policies = _policies(service, cls, options)
    for permission in policies["permissions"]:
        try:
            check_columns(permission, resource.columns)
        except ConfigurationError as error:
            raise ConfigurationError(f"{cls.__module__}.{cls.__name__}.permission_classes: {error}") from None
    row_model = model(resource.name)
    generated = serializer_for(resources, resource, row_model)
    bind_serializer = lru_cache(maxsize=CACHED_SERIALIZERS)(partial(_bind_serializer, resources, resource))
    shared_serializer = lru_cache(maxsize=CACHED_SERIALIZERS)(lambda of: bind_serializer(of).shared())
    check_serializers(cls, resource, options)
    serializer = shared_serializer(options["serializer_class"] or generated)
    related = (*options["select_related"], *options["prefetch_related"])
    filters = tuple(backend.for_view(resources, resource, options) for backend in options["filter_backends"])
    paginator = _paginator(service, options, {*config, *overrides})
    lookup_field = options["lookup_field"]
    key = resources.resolve(resource.name, lookup_field or resource.key.name)
    native_filters = all(backend.native for backend in filters) and "filter_queryset" not in overridden
    declared_scope = _declared_scope(cls, resources, resource, options)
    whole_table = "get_queryset" not in overridden and cls.queryset is None
    all_rows = whole_table and declared_scope is None
    live = without_deleted(resource)
    objects = any(map(checks_objects, policies["permissions"])) or not overridden.isdisjoint(
        ("get_permissions", "check_object_permissions", "get_object")
    )
    as_callers = service.store.database.acts_as_callers  # what one caller reads is not for another one
    beyond_data = tuple(
        reasons_beyond_data(
            cls, options, policies, overridden, filters, serializer, declared_scope, as_callers=as_callers
        )
    )
    public = all_rows and not beyond_data and OPEN_TO_READERS.issuperset(map(type, policies["permissions"]))
    projections = _projections(service, resource, related)
    return ModelPlan(
        service=service,
        viewset=cls,
        config=config,
        attributes={
            **{
                attribute_of(name): value
                for name, value in options.items()
                if value is not getattr(cls, attribute_of(name))
            },
            **_policy_attributes(policies),
            "model": row_model,
        },
        overridden=overridden,
        call=_calls(service, cls, _key_part(cls, options)),
        allowed_parameters=with_parameters(cls, options, resource, _allowed_parameters(filters, paginator)),
        highlights=can_highlight(filters),
        acts_as_caller=as_callers,
        checks_initial=_has_code_before_actions(policies, overridden),
        strict_query=options["strict_query"],
        resource=resource,
        model=row_model,
        key=key.values,
        key_column=key.column,
        generated_serializer=generated,
        serializer=serializer,
        filters=filters,
        pattern_parameters=tuple(name for backend in filters for name in backend.patterns()),
        takes_natives=any(backend.takes_natives for backend in filters),
        paginator=paginator,
        cache="off" if as_callers or resource.view else options["cache"],
        count=options["count"],
        lookup_field=lookup_field,
        lookup_url_kwarg=_key_part(cls, options),
        max_page_size=options["max_page_size"],
        ordering=total_order(resource, tuple(options["ordering"])),
        related_paths=related,
        require_if_match=options["require_if_match"],
        bulk=options["bulk"],
        max_bulk=options["max_bulk"],
        imports=may_import(cls, options, overridden),
        put_creates=may_create_by_put(cls, options, overridden),
        nested_names=frozenset(options["nested"]),
        nested=lru_cache(maxsize=1)(partial(nested_relations, service, resource, options["nested"])),
        upserts=upserts(cls, options, resource, overridden, serializer),
        filter_parameters=frozenset(name for each in filters if not each.sorts for name in each.parameters()),
        unscoped_query=Query(resource.name, live) if all_rows else None,
        live=live,
        declared_scope=declared_scope,
        aggregates=opened_aggregates(
            resources,
            resource.name,
            options["aggregates"],
            paginator,
            lambda: _paginator(service, {**options, "pagination_class": PageNumberPagination}, ()),
        ),
        scoped=options["scoped"] and bool(related),
        scope_is_data=whole_table and declared_scope is not None,
        expandable_via=_expandable_via(cls, options, policies["permissions"], overridden, native_filters, serializer),
        asks_about_objects=objects,
        finds_objects="get_object" in overridden,
        exports=hasattr(cls, "list") and is_ours(owner_of(cls, "list")),
        makes_serializers="get_serializer" in overridden,
        shows_by_python=serializer.hooked
        or serializer.dynamic
        or not overridden.isdisjoint(("get_serializer", "get_serializer_class")),
        native_filters=native_filters,
        simple_writes=not options["scoped"] and has_simple_writes(serializer, overridden, lookup_field and key.column),
        beyond_data=beyond_data,
        is_public=public,
        public_and_cacheable=public and options["cache"] == "responses",
        bind_serializer=bind_serializer,
        shared_serializer=shared_serializer,
        answers_plainly=lru_cache(maxsize=1)(
            lambda: not projections["has_python_rows"](projections["default_projection"](serializer))
        ),
        restricted_keys=lru_cache(maxsize=1)(partial(restricted_keys, service, resource)),
        **projections,
        **policies,
    )


def _declared_scope(
    cls: type[GenericViewSet], resources: Resources, resource: Resource, options: Mapping[str, Any]
) -> DeclaredScope | None:
    """The option ``scope``, and ``scope_unless``, whose callers have none."""
    group, unless = options["scope"], options["scope_unless"]
    where = f"{cls.__module__}.{cls.__name__}"
    if unless is not None and not (isinstance(unless, type) and issubclass(unless, BasePermission)):
        raise ConfigurationError(f"{where}.scope_unless: {unless!r} is not a permission class")
    if group is None and unless is not None:
        raise ConfigurationError(f"{where}.scope_unless: there is no scope that it could lift")
    if group is None:
        return None
    return DeclaredScope(resources, resource.name, group, None if unless is None else unless())


def _projections(service: Service, resource: Resource, related: tuple[str, ...]) -> dict[str, Any]:
    """The cached functions of a plan. They are first called after every viewset is planned, since rows of other resources
    are shown as their own viewsets show them.
    """
    resources = service.resources

    @lru_cache(maxsize=CACHED_PROJECTIONS)
    def shown_with(shown: Projection, paths: tuple[str, ...]) -> Projection:
        return expand(resources, shown, paths, service.projections()) if paths else shown

    def default_projection(serializer: Serializer) -> Projection:
        own = serializer.related
        return shown_with(serializer.shown, related if own is None else tuple(own))

    @lru_cache(maxsize=CACHED_PROJECTIONS)
    def projection(shown: Projection, fields: str, paths: str) -> Projection:
        if paths:  # which ``check_expansions`` has accepted
            shown = expand(resources, shown, expansion.expand_paths(paths), service.projections())
        return shown.only(names_in(fields)) if fields else shown

    @lru_cache(maxsize=CACHED_PROJECTIONS)
    def python_projection(shown: Projection, relations: tuple[str, ...]) -> Projection:
        return with_all_columns(resources, expand(resources, shown, (*python_paths(), *relations)))

    @lru_cache(maxsize=1)
    def python_paths() -> tuple[str, ...]:
        return related + tuple(_paths_of_targets(service, resource, related))

    @lru_cache(maxsize=CACHED_PROJECTIONS)
    def has_python_rows(shown: Projection) -> bool:
        return any(
            (inner.resource in service.plans and service.plans[inner.resource].shows_by_python)
            or has_python_rows(inner)
            for _, inner in shown.related
        )

    return {
        "default_projection": default_projection,
        "projection": projection,
        "python_projection": python_projection,
        "python_paths": python_paths,
        "has_python_rows": has_python_rows,
        "expansion_targets": lru_cache(maxsize=CACHED_PROJECTIONS)(expansion.targets),
    }


def _paths_of_targets(service: Service, resource: Resource, related: tuple[str, ...]) -> Iterator[str]:
    """The relations that the serializers of related rows may read, where Python shows these rows."""
    for path in related:
        for number, step in enumerate(service.resources.steps(resource.name, path), 1):
            target = service.plans.get(step.target)
            if target is not None and target.shows_by_python:
                yield from (
                    "__".join([*path.split("__")[:number], own])
                    for own in (*target.related_paths, *(target.serializer.related or ()))
                )


def _bind_serializer(resources: Resources, resource: Resource, cls: type[Serializer]) -> type[Serializer]:
    """A serializer for this service: of its model's resource, or of the viewset's if it has no model."""
    if cls.resource is not None:
        return cls
    named = cls.opts.model
    return cls.bound_to(resources, named.resource() if named else resource)


def _paginator(service: Service, options: Mapping[str, Any], explicit: Iterable[str]) -> BasePagination:
    """The paginator. A size in config or action precedes the pagination class's own, which precedes the viewset's."""
    pagination: type[BasePagination] = options["pagination_class"] or NoPagination
    page_size, max_page_size = (
        own if own and name not in explicit else options[name]
        for name, own in (("page_size", pagination.page_size), ("max_page_size", pagination.max_page_size))
    )
    return pagination(service.resources, page_size, max_page_size, lambda: service.secret)


def _allowed_parameters(filters: Iterable[Any], paginator: BasePagination) -> dict[str, frozenset[str]]:
    narrowing = {name for backend in filters for name in backend.parameters() if not backend.sorts}
    sorting = {name for backend in filters for name in backend.parameters() if backend.sorts}
    return {
        "list": frozenset(
            {*narrowing, *sorting, *[HIGHLIGHT] * can_highlight(filters), *READ_PARAMETERS, *paginator.parameters}
        ),
        "retrieve": frozenset(READ_PARAMETERS),
        STREAM: frozenset({*narrowing, *STREAM_PARAMETERS}),
        AGGREGATE: frozenset({*narrowing, *PARAMETERS, *pages_of_groups(paginator)}),
        LIVE: frozenset({*narrowing, *LIVE_PARAMETERS}),
    }


def _expandable_via(
    cls: type[GenericViewSet],
    options: Mapping[str, Any],
    permissions: Iterable[BasePermission],
    overridden: frozenset[str],
    native_filters: bool,
    serializer: Serializer,
) -> str | None:
    """The reading action whose permission also covers expansion; ``None`` if some rows may be hidden from a caller."""
    reading = next((name for name in ("retrieve", "list") if hasattr(cls, name) and is_allowed(options, name)), None)
    by_hand = {
        "get_queryset", "get_object", "check_object_permissions", "get_serializer_class", "get_serializer", "initial",
        "dispatch", "initialize_request", "finalize_response", reading,
    }  # fmt: skip
    differs = (
        (cls.queryset is not None and bool(cls.queryset.query.where))
        or not native_filters
        or serializer.hooked
        or serializer.dynamic
        or ("get_permissions" not in overridden and any(map(checks_objects, permissions)))
        or not overridden.isdisjoint(by_hand)
    )
    return None if differs else reading


# --- options


def effective_options(
    cls: type[GenericViewSet],
    resources: Resources,
    resource: Resource,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every option of a viewset in its checked form: an action's, else the config's, else the class's.

    ``config`` is checked already; what classes and actions set is checked here, by the same table.
    """
    declared = {
        name: getattr(cls, attribute)
        for name, attribute in ((each, attribute_of(each)) for each in VIEWSET_OPTIONS)
        if name not in config and hasattr(cls, attribute) and not is_ours(owner_of(cls, attribute))
    }
    own = _checked(cls, resources, resource, declared, config)
    overrides = overrides or {}
    changed = {name: overrides[name] for name in overrides if name in VIEWSET_OPTIONS}
    action = _checked(cls, resources, resource, changed, {}) if changed else {}
    defaults = {name: getattr(cls, attribute_of(name)) for name in (*VIEWSET_OPTIONS, LOOKUP_URL_KWARG)}
    return {**defaults, **own, **config, **overrides, **action}


def _checked(
    cls: type[GenericViewSet],
    resources: Resources,
    resource: Resource,
    values: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    problems = list(near_misses(cls, map(attribute_of, VIEWSET_OPTIONS)))
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in CLASS_OPTIONS:
            continue
        try:
            found[name] = viewset_options.read(name, value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if found or not viewset_options.is_checked_when_read(resource.options):
        extra = [function.__name__ for function in cls.get_extra_actions()]
        for path, message in viewset_options.check(resources, resource.name, {**found, **config}, extra):
            problems.append(f"{'.'.join(map(str, path))}: {message}")
    if problems:
        raise ConfigurationError("\n".join(f"{cls.__module__}.{cls.__name__}.{problem}" for problem in problems))
    classes = {name: value for name, value in values.items() if name in CLASS_OPTIONS}
    return {**viewset_options.normalize(resources, resource.name, found), **classes}
