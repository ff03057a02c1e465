"""A config directory as one value: ``load`` reads every file, checks each by itself and all of them together.

Nothing stops at the first mistake: every problem of every file is told in one run, with its place, and what only
follows from another problem is not. So a part that cannot be read is left out and its names are remembered as lost,
and a reference to a lost name is not held against whoever makes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rowcast.configuration import declarations, settings, viewset_options, yaml
from rowcast.configuration.declarations import NAME_BYTES, Declaration, names_of
from rowcast.configuration.settings import Settings
from rowcast.configuration.yaml import AboutKey, Document, Problems, SourceLocation, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.resource import Resource, Resources, link_columns, link_table

RESERVED_TABLES: Final = ("alembic_version",)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that a config directory says. ``files`` are those of the settings, by ``""``, and of each resource."""

    settings: Settings
    resources: Resources
    directory: Path
    files: Mapping[str, Document]


def load(
    directory: Path, *, environ: Mapping[str, str], overrides: Mapping[str, object] = MappingProxyType({})
) -> Configuration:
    """The configuration in a directory, under the environment, under the overrides (see ``settings.read``).

    Raises ``ConfigurationError``, whose message is every problem of the run, a ``file:line:column: message`` line each.
    """
    problems = Problems()
    if not directory.is_dir():
        problems.add(
            SourceLocation(str(directory)), "there is no such directory; --config or ROWCAST_CONFIG names another one"
        )
    service = _service(directory, environ, problems)
    chosen = settings.read(service, directory, environ, overrides, problems)
    rates = None if problems else chosen.throttle.rates
    declared, lost = _declarations(directory, environ, problems)
    resources = _together(declared, lost, rates, problems)
    problems.check()
    files = {one.resource.name: one.document for one in declared}
    return Configuration(chosen, resources, directory, {"": service or Document("service.yaml", None), **files})


def _files(directory: Path) -> list[Path]:
    """The files that are config, by name; anything else in the directory is not looked at."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in yaml.SUFFIXES and path.name[0] != ".")


def _service(directory: Path, environ: Mapping[str, str], problems: Problems) -> Document | None:
    files = [path for path in _files(directory) if path.stem == "service"]
    for path in files[1:]:
        problems.add(SourceLocation(str(path), 1, 1), f"{files[0].name} is there as well; keep one of them")
    return yaml.read(files[0], environ, problems, optional=settings.OPTIONAL) if files else None


def _declarations(
    directory: Path, environ: Mapping[str, str], problems: Problems
) -> tuple[list[Declaration], set[str]]:
    """What the resource files declare, and the names that are lost with what could not be read."""
    files = _files(directory / "resources")
    if directory.is_dir() and not files:
        problems.add(SourceLocation(str(directory / "resources")), "there is no resource; add one such as tasks.yaml")
    declared: list[Declaration] = []
    lost: set[str] = set()
    for path in files:
        document = yaml.read(path, environ, problems)
        declaration = declarations.read(document, path.stem, problems) if document is not None else None
        if declaration is not None:
            declared.append(declaration)
            lost |= declaration.lost
        else:
            lost |= {path.stem, *_words(path)}
    return declared, lost


def _words(path: Path) -> list[str]:
    """The words of a file that cannot be read as a document: any of them might be a name."""
    try:
        return re.findall(r"[\w-]+", path.read_text("utf-8", errors="ignore"))
    except OSError:
        return []


def _together(
    declared: list[Declaration], lost: set[str], rates: Collection[str] | None, problems: Problems
) -> Resources:
    """The resources as one value, with every problem that only shows when they are seen together.

    ``rates`` are the names of the throttle rates, if they are known.
    """
    by_name: dict[str, Declaration] = {}
    for one in declared:
        if one.resource.name in by_name:
            other = by_name[one.resource.name].document.file
            problems.at(one.document, ("name",), f"{one.resource.name!r} is declared in {other} already")
        else:
            by_name[one.resource.name] = one
    by_name = {name: _with_targets(one, by_name, lost, problems) for name, one in by_name.items()}
    draft = Resources({name: one.resource for name, one in by_name.items()})
    for one in by_name.values():
        for path, message in _relations(one.resource, draft):
            problems.at(one.document, path, message)
    for one, path, message in _storage(by_name, draft):
        problems.at(one.document, path, message)
    finished: dict[str, Resource] = {}
    for name, one in by_name.items():
        if _options_fit(one, draft, lost, rates, problems):
            one = replace(one, options=viewset_options.normal(draft, name, one.options))
        finished[name] = replace(one.resource, options=MappingProxyType(dict(one.options)))
    return Resources(finished)


def _with_targets(
    one: Declaration, by_name: Mapping[str, Declaration], lost: set[str], problems: Problems
) -> Declaration:
    """The declaration without the relations to resources that are not there."""
    fields: dict[str, Field] = {}
    for name, field in one.resource.fields.items():
        if field.field_type.kind not in (Kind.RELATION, Kind.RELATIONS) or field.to in by_name:
            fields[name] = field
            continue
        if field.to is not None and field.to not in lost:
            message = f"there is no resource {field.to!r}; {did_you_mean(field.to, by_name)}"
            problems.at(one.document, ("fields", name, "to"), message)
        lost |= names_of(name, field.related_name)
    return replace(one, resource=replace(one.resource, fields=fields))


def _relations(resource: Resource, draft: Resources) -> Iterator[tuple[Steps, str]]:
    """What is wrong with the names of relations and with the defaults of foreign keys."""
    for name, field in resource.fields.items():
        if field.to is None:
            continue
        if field.default not in (MISSING, None):
            key = draft.key_of(field)
            try:
                key.field_type.load(key, field.default)
            except ValueError as error:
                yield ("fields", name, "default"), str(error)
        if field.related_name is None:
            continue
        target, path = draft[field.to], ("fields", name, "related_name")
        own = target.fields.values()
        taken = {used: f"field {each.name!r}" for each in own for used in (each.name, each.column_name)}
        for other in draft.values():
            for each in other.fields.values():
                if each.to == field.to and each.related_name is not None and each is not field:
                    taken.setdefault(each.related_name, f"the related_name of {other.name}.{each.name}")
        if field.related_name in taken:
            told = f"{field.related_name!r} is taken in {target.name} by {taken[field.related_name]}"
            yield path, told


def _storage(by_name: Mapping[str, Declaration], draft: Resources) -> Iterator[tuple[Declaration, Steps, str]]:
    """What collides among tables and models."""
    models: dict[str, str] = {}
    tables: dict[str, str] = dict.fromkeys(RESERVED_TABLES, "the service itself")
    for name, one in by_name.items():
        for key, taken in (("model", models), ("table", tables)):
            value = getattr(one.resource, key)
            if value in taken:
                path: Steps = (key,) if key in one.document.data else ()
                yield one, path, f"the {key} {value} belongs to {taken[value]} already; set 'name' or {key!r}"
            taken.setdefault(value, name)
    for name, one in by_name.items():
        for field in one.resource.links.values():
            assert field.to is not None
            table, columns = link_table(one.resource, field), link_columns(one.resource, draft[field.to])
            if table in tables:
                told = f"its table {table} belongs to {tables[table]} already; rename the field"
                yield one, ("fields", field.name), AboutKey(f"{field.name!r}: {told}")
            tables[table] = f"{name}.{field.name}"
            for long in (each for each in (table, *columns) if len(each) > NAME_BYTES):
                told = f"{long} would be too long for PostgreSQL, which allows {NAME_BYTES} characters"
                yield one, ("fields", field.name), AboutKey(f"{field.name!r}: {told}")


def _options_fit(
    one: Declaration, draft: Resources, lost: set[str], rates: Collection[str] | None, problems: Problems
) -> bool:
    """Check the viewset's options; False when something is wrong with them, or may be."""
    actions = () if ":" not in one.options.get(viewset_options.CLASS, "") else None
    fit = True
    for path, message in viewset_options.check(draft, one.resource.name, one.options, actions):
        fit = False
        if not lost.intersection(_parts(one.options, path)):
            problems.at(one.document, ("viewset", *path), message)
    scope = one.options.get("throttle_scope")
    if scope is not None and rates is not None and scope not in rates:
        told = f"throttle.rates has no rate {scope!r}; {did_you_mean(scope, rates)}"
        problems.at(one.document, ("viewset", "throttle_scope"), told)
    return fit


def _parts(given: Mapping[str, Any], path: Steps) -> list[str]:
    """The names in what a message about an option speaks of, such as ``-category__name``."""
    name, *steps = path
    value = given[str(name)]
    subject = value if not steps else steps[0] if isinstance(value, Mapping) else value[steps[0]]
    return subject.lstrip("-" + viewset_options.SEARCH_PREFIXES).split("__") if isinstance(subject, str) else []
