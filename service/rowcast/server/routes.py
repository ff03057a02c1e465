"""Every address of a service: its resources' and ``urls.py``'s viewsets, planned, and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web

from rowcast.configuration import viewset_options
from rowcast.configuration.declarations import RESERVED_RESOURCES
from rowcast.configuration.load import Configuration
from rowcast.configuration.viewset_options import PLAIN_OPTIONS
from rowcast.configuration.yaml import AboutKey, Document, Problems, SourceLocation, Steps
from rowcast.errors import ConfigurationError
from rowcast.identity.permissions import BasePermission, IsAdminUser, check_columns
from rowcast.resources.resource import Resource
from rowcast.rest import routers
from rowcast.rest.addresses import Link
from rowcast.rest.aggregate_action import check_aggregates
from rowcast.rest.binding import plan_plain, plan_resource, plan_view
from rowcast.rest.expansion import check_scoped
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.handlers import Handler, handler_for
from rowcast.rest.introspection import is_ours
from rowcast.rest.plan import ModelPlan, Service, ViewPlan
from rowcast.rest.routers import Route
from rowcast.rest.soft_deletion import check_permissions_of_objects
from rowcast.rest.viewset import ViewSet
from rowcast.rest.write_rules import check_nested
from rowcast.server.descriptions import DESCRIBED_BY, register_descriptions, register_error_pages
from rowcast.server.importer import Importer

PERMISSIONS: Final = "permission_classes"


def plan_routes(service: Service, configuration: Configuration, importer: Importer, problems: Problems) -> list[Route]:
    """Every address of the resources and of ``urls.py``; what is wrong with one is added to ``problems``."""
    routes: list[Route] = []
    names: dict[str, str] = {}
    for location, prefix, plan, basename in list(_plans(service, configuration, importer, problems)):
        if names.setdefault(basename, prefix) != prefix:
            message = (
                f"/{prefix}/ and /{names[basename]}/ have the same basename {basename!r}: give one another model name"
            )
            problems.add(location, f"{message}, or register it with a basename=")
            continue
        with noting(problems, location):
            if isinstance(plan, ModelPlan):
                check_scoped(plan)
                check_aggregates(plan)
                check_nested(plan)
                check_permissions_of_objects(plan)
            routes += routers.routes(prefix, plan, basename)
    with noting(problems, SourceLocation(str(configuration.directory))):
        routers.check_distinct(routes)
    return routes


def _plans(
    service: Service, configuration: Configuration, importer: Importer, problems: Problems
) -> Iterator[tuple[SourceLocation, str, ViewPlan, str]]:
    """Every viewset that can be planned: where it is declared, its prefix, its plan, and the basename of its routes.

    Those of the resources come first, then those that ``urls.py`` in the config directory registers.
    """
    for resource in service.resources.values():
        own = Problems()
        yield from _plan_of_resource(service, configuration.files[resource.name], resource, importer, own)
        problems.update(own)
    location = SourceLocation(str(configuration.directory / "urls.py"))
    with noting(problems, location):
        urls = importer.module("urls")
        router = getattr(urls, "router", None)
        if urls is not None and not isinstance(router, routers.SimpleRouter):
            raise ConfigurationError("must have a router: router = DefaultRouter(), then router.register(…)")
        for prefix, viewset, basename in router.registry if router else ():
            if prefix.partition("/")[0] in RESERVED_RESOURCES:
                raise ConfigurationError(
                    f"/{prefix}/ is the service's own address: register {viewset.__name__} elsewhere"
                )
            plan = plan_view(service, viewset)
            name = basename or routers.default_basename(plan)
            if name is None:
                raise ConfigurationError(f"{viewset.__name__} has no model, so register it with a basename=")
            yield location, prefix, plan, name


def _plan_of_resource(
    service: Service, file: Document, resource: Resource, importer: Importer, problems: Problems
) -> Iterator[tuple[SourceLocation, str, ViewPlan, str]]:
    default = "ReadOnlyModelViewSet" if resource.view else "ModelViewSet"
    options = {
        name: named_classes(importer, problems, file, ("viewset", name), name, value)
        for name, value in {**resource.options, "class": resource.options.get("class") or default}.items()
    }
    location = file.location(("viewset", "class"), key=True)
    if resource.soft_delete is not None:
        service.deletion_permissions[resource.name] = _deletion_permissions(importer, problems, file, resource)
    if problems:
        return
    viewset = service.viewsets[resource.name] = options.pop("class")
    if not issubclass(viewset, GenericViewSet):
        yield from _plain_plan(service, viewset, file, resource, options, problems)
        return
    if not viewset_options.is_checked_when_read(resource.options):
        extra = [function.__name__ for function in viewset.get_extra_actions()]
        for path, message in viewset_options.check(service.resources, resource.name, resource.options, extra):
            if path[0] in ("allowed_actions", "excluded_actions"):  # the other options were checked without the class
                problems.at(file, ("viewset", *path), message)
    _check_columns(file, resource, options, problems)
    if not problems:
        with noting(problems, location):
            plan = plan_resource(service, viewset, resource, options)
            yield location, resource.name, plan, resource.model.lower()


def _deletion_permissions(
    importer: Importer, problems: Problems, file: Document, resource: Resource
) -> tuple[type[BasePermission], ...]:
    """The permissions of ``soft_delete``: those of administrators, unless it names others."""
    assert resource.soft_delete is not None
    named = resource.soft_delete.permission_classes
    if named is None:
        return (IsAdminUser,)
    path = ("soft_delete", PERMISSIONS)
    found: tuple[type[BasePermission], ...] = named_classes(importer, problems, file, path, PERMISSIONS, named)
    for position, permission in enumerate(found):
        with noting(problems, file.location((*path, position))):
            check_columns(permission(), resource.columns)
    return found


def _plain_plan(
    service: Service,
    viewset: type[ViewSet],
    file: Document,
    resource: Resource,
    options: Mapping[str, Any],
    problems: Problems,
) -> Iterator[tuple[SourceLocation, str, ViewPlan, str]]:
    """The plan of a resource whose class is a ``ViewSet``: it has the actions that the class has, and no stream."""
    for name in options.keys() - set(PLAIN_OPTIONS):
        takes = ", ".join(PLAIN_OPTIONS)
        message = f"{name!r} needs rows, but {viewset.__name__} is a plain ViewSet: derive it from GenericViewSet or ModelViewSet"
        problems.at(file, ("viewset", name), AboutKey(f"{message}. Of options it takes {takes}"))
    _check_columns(file, resource, options, problems)
    if not problems:
        location = file.location(("viewset", "class"), key=True)
        with noting(problems, location):
            yield location, resource.name, plan_plain(service, viewset, options), resource.model.lower()


def _check_columns(file: Document, resource: Resource, options: Mapping[str, Any], problems: Problems) -> None:
    """Note the permissions of the config whose columns the resource does not have."""
    for position, permission in enumerate(options.get("permission_classes", ())):
        with noting(problems, file.location(("viewset", "permission_classes", position))):
            check_columns(permission(), resource.columns)


def named_classes(importer: Importer, problems: Problems, file: Document, path: Steps, option: str, value: Any) -> Any:
    """The classes that the value at a path of a file names, for an option of viewsets."""
    return importer.option(option, value, lambda rest, message: problems.at(file, (*path, *rest), message))


def import_classes(configuration: Configuration, importer: Importer, problems: Problems) -> None:
    """Import all that the resources and ``urls.py`` name; what cannot be imported is added to ``problems``."""
    for resource in configuration.resources.values():
        for name, value in resource.options.items():
            named_classes(importer, problems, configuration.files[resource.name], ("viewset", name), name, value)
        if resource.soft_delete is not None:
            _deletion_permissions(importer, problems, configuration.files[resource.name], resource)
    with noting(problems, SourceLocation(str(configuration.directory / "urls.py"))):
        importer.module("urls")


@contextmanager
def noting(problems: Problems, location: SourceLocation) -> Iterator[None]:
    """Add a ``ConfigurationError`` to the problems, and go on."""
    try:
        yield
    except ConfigurationError as error:
        for line in str(error).splitlines():
            problems.add(location, line)


def overridden_by_config(configuration: Configuration, service: Service) -> Iterator[str]:
    """A line for each option that both YAML and the viewset's class set, where the class's has no effect."""
    for resource in configuration.resources.values():
        for name in resource.options:
            for owner in service.viewsets[resource.name].__mro__:
                if viewset_options.attribute_of(name) in vars(owner) and not is_ours(owner):
                    location = configuration.files[resource.name].location(("viewset", name), key=True)
                    yield f"{location}: {name} is set here, so {owner.__module__}.{owner.__name__}'s has no effect"
                    break


def register(
    app: web.Application, service: Service, routes: Sequence[Route], wrap: Callable[[Handler], Handler]
) -> None:
    """Add every address of the viewsets, and what describes them; ``wrap`` is for the handlers of streams."""
    paths = {route.path for route in routes if route.sends_events}
    described = service.settings.server.openapi != "off"
    for route in routes:
        stream = f"{route.path}/stream"
        links = [Link(f"{stream}/", 'rel="alternate"; type="text/event-stream"')] if stream in paths else []
        links += [DESCRIBED_BY] if described else []
        handler = handler_for(route.plan, route.action_map, links=links)
        routers.register(app, route, wrap(handler) if route.sends_events else handler)
        service.routes[route.name] = route.path
    if described:
        register_descriptions(app, service, routes)
    register_error_pages(app, service.settings.server)
