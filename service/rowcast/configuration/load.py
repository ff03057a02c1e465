"""A config directory as one value: ``load`` reads every file, checks each by itself and then all of them together.

One run reports every problem of every file, with its place, and no problem that only follows from another one. For
this, a part that cannot be read is left out and its names are remembered as lost; a reference to a lost name is not
reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rowcast.configuration import declarations, settings, viewset_options, yaml
from rowcast.configuration.declarations import Declaration, names_of
from rowcast.configuration.model_names import model_name
from rowcast.configuration.primary_key import circular_key, reference_problem, set_some_key
from rowcast.configuration.scope import ScopeGroup
from rowcast.configuration.settings import Settings
from rowcast.configuration.view_rules import view_problems
from rowcast.configuration.yaml import AboutKey, Document, Problems, SourceLocation, Steps
from rowcast.errors import did_you_mean
from rowcast.garbage import no_collection
from rowcast.resources.fields import MISSING, Field, Kind, with_strings
from rowcast.resources.resource import Resource, Resources, link_columns, link_table
from rowcast.resources.sql import IDENTIFIER_MAX_BYTES

RESERVED_TABLES: Final = ("alembic_version",)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of a config directory. ``files`` has the file of each resource by name, and the settings' by ``""``."""

    settings: Settings
    resources: Resources
    directory: Path
    files: Mapping[str, Document]


@dataclass(frozen=True, slots=True)
class Reading:
    """What can be read of a config directory, and its problems.

    ``sound`` are the resources that have no problem, but perhaps in options of their viewset, which are then left out. They
    refer to each other alone. ``lost`` are names that the rest has, or may have: a problem with one of them may follow from
    another problem.
    """

    configuration: Configuration
    problems: Problems
    sound: Resources
    lost: Collection[str]


@no_collection()
def read(
    directory: Path,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] = MappingProxyType({}),
    sections: Collection[str] | None = None,
    may_be_empty: bool = False,
) -> Reading:
    """What is in a directory. Environment and overrides take precedence (see ``settings.read``).

    ``sections`` are those of ``service.yaml`` whose secrets must be there; by default all. With ``may_be_empty`` there may be
    no resource yet, and no directory.
    """
    problems = Problems()
    if not directory.is_dir() and (directory.exists() or not may_be_empty):
        problems.add(SourceLocation(str(directory)), "directory does not exist; pass --config or set ROWCAST_CONFIG")
    service = _service(directory, environ, problems)
    chosen = settings.read(service, directory, environ, overrides, problems, sections=sections)
    rates = None if problems or settings.lacks(service, "throttle", "rates") else chosen.throttle.rates
    declared, lost = _declarations(directory, environ, problems, may_be_empty)
    lost |= _rates(service) if rates is None else set()
    if chosen.server.big_integers == "string":
        declared = [_with_strings(one) for one in declared]
    resources, sound = _combine(declared, lost, rates, problems)
    files = {one.resource.name: one.document for one in declared}
    files[""] = service or Document("service.yaml", None)
    return Reading(Configuration(chosen, resources, directory, files), problems, sound, lost)


def load(
    directory: Path,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] = MappingProxyType({}),
    sections: Collection[str] | None = None,
    may_be_empty: bool = False,
) -> Configuration:
    """The configuration in a directory, as ``read`` finds it.

    Raises ``ConfigurationError``, whose message has a line ``file:line:column: message`` for every problem.
    """
    found = read(directory, environ=environ, overrides=overrides, sections=sections, may_be_empty=may_be_empty)
    found.problems.check()
    return found.configuration


def load_settings(directory: Path, *, environ: Mapping[str, str]) -> Settings:
    """The settings of a directory whose resources may have mistakes. Settings that have mistakes are the default ones."""
    problems = Problems()
    return settings.read(_service(directory, environ, problems), directory, environ, {}, problems)


def _files(directory: Path) -> list[Path]:
    """The config files, by name. Other files in the directory are ignored."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in yaml.SUFFIXES and path.name[0] != ".")


def _service(directory: Path, environ: Mapping[str, str], problems: Problems) -> Document | None:
    files = [path for path in _files(directory) if path.stem == "service"]
    for path in files[1:]:
        problems.add(SourceLocation(str(path), 1, 1), f"{files[0].name} exists as well; keep one of them")
    return yaml.read(files[0], environ, problems, optional=settings.OPTIONAL, lenient=True) if files else None


def _rates(service: Document | None) -> set[str]:
    """The names of the throttle rates in a file whose rates could not be read."""
    paths = service.keys if service is not None else ()
    return {str(path[2]) for path in paths if path[:2] == ("throttle", "rates") and len(path) == 3}


def _declarations(
    directory: Path, environ: Mapping[str, str], problems: Problems, may_be_empty: bool
) -> tuple[list[Declaration], set[str]]:
    """The declarations of the resource files, and the names that are lost with unreadable parts."""
    files = _files(directory / "resources")
    if directory.is_dir() and not (files or may_be_empty):
        problems.add(SourceLocation(str(directory / "resources")), "there is no resource; add one such as tasks.yaml")
    declared: list[Declaration] = []
    lost: set[str] = set()
    for path in files:
        own = Problems()
        document = yaml.read(path, environ, own)
        declaration = declarations.read(document, path.stem, own) if document is not None else None
        problems.update(own)
        if declaration is not None:
            declared.append(_without_wrong_options(declaration, own))
            lost |= declaration.lost
        else:
            lost |= {path.stem, model_name(path.stem), *_words(path)}
    return declared, lost


def _with_strings(one: Declaration) -> Declaration:
    """The declaration with strings as the JSON form of big integers, unless a field has another one of its own."""
    fields = {
        name: field if field.json is not None else with_strings(field) for name, field in one.resource.fields.items()
    }
    return replace(one, resource=replace(one.resource, fields=fields))


def _without_wrong_options(one: Declaration, problems: Problems) -> Declaration:
    """The declaration without the options of its viewset that have a problem; sound if there is no other one."""
    wrong = problems.keys(one.document, "viewset")
    written = one.document.data.get("viewset")
    kept = one.options if not wrong else written.keys() - wrong if isinstance(written, dict) else ()
    options = {name: value for name, value in one.options.items() if name in kept}
    return replace(one, options=options, sound=problems.keys(one.document) <= {"viewset"})


def _words(path: Path) -> list[str]:
    """The words of a file that cannot be parsed. Any of them might be a name."""
    try:
        return re.findall(r"[\w-]+", path.read_text("utf-8", errors="ignore"))
    except OSError:
        return []


def _combine(
    declared: list[Declaration], lost: set[str], rates: Collection[str] | None, problems: Problems
) -> tuple[Resources, Resources]:
    """The resources as one value, after the checks that need all of them, and those that are sound (see ``Reading``).

    ``rates`` are the names of the throttle rates, or ``None`` if the settings could not be read.
    """
    by_name: dict[str, Declaration] = {}
    for one in declared:
        if one.resource.name in by_name:
            other = by_name[one.resource.name].document.file
            problems.at(one.document, ("name",), f"{one.resource.name!r} is already declared in {other}")
        else:
            by_name[one.resource.name] = one
    by_name = {name: _with_targets(one, by_name, lost, problems) for name, one in by_name.items()}
    draft = Resources({name: one.resource for name, one in by_name.items()})
    for one in by_name.values():
        if message := circular_key(one.resource, draft):
            problems.at(one.document, ("primary_key",), AboutKey(message))
            lost |= {each for other in by_name.values() for each in (other.resource.name, other.resource.model)}
            return Resources({}), Resources({})  # nothing can be found out about such a key
    clashes = [
        *((one, *problem) for one in by_name.values() for problem in _relation_problems(one.resource, draft)),
        *_storage_problems(by_name, draft),
        *((one, *problem) for one in by_name.values() for problem in _view_problems(one, draft)),
    ]
    for one, path, message in clashes:
        problems.at(one.document, path, message)
    wrong = {name: _wrong_options(one, draft, lost, rates, problems) for name, one in by_name.items()}
    unsound = {one.resource.name for one, *_ in clashes} | {name for name, one in by_name.items() if not one.sound}
    resources = Resources({name: _with_options(one, draft, wrong[name]) for name, one in by_name.items()})
    return resources, _sound(by_name, unsound, wrong, lost) if unsound else resources


def _sound(
    by_name: Mapping[str, Declaration], unsound: set[str], wrong: Mapping[str, set[str]], lost: set[str]
) -> Resources:
    """The resources that are sound, and refer to sound ones alone. The names of the others are added to ``lost``.

    ``wrong`` are the names of each resource's wrong options.
    """
    left = dict(by_name)
    while leaving := [
        name
        for name, one in left.items()
        if name in unsound
        or any(field.to is not None and field.to not in left for field in one.resource.fields.values())
    ]:
        for name in leaving:
            resource = left.pop(name).resource
            lost |= {name, resource.model}
            for field in resource.fields.values():
                lost |= names_of(field.name, field.related_name)
    draft = Resources({name: one.resource for name, one in left.items()})
    return Resources(
        {
            name: _with_options(one, draft, wrong[name] | {str(path[0]) for path, _ in _option_problems(one, draft)})
            for name, one in left.items()
        }
    )


def _with_options(one: Declaration, draft: Resources, wrong: Collection[str]) -> Resource:
    """The resource with its options as the service reads them, but those that are wrong."""
    options = {name: value for name, value in one.options.items() if name not in wrong}
    options = viewset_options.normalize(draft, one.resource.name, options)
    return replace(one.resource, options=MappingProxyType(options))


def _option_problems(one: Declaration, draft: Resources) -> Iterator[tuple[Steps, str]]:
    """The problems of the viewset's options that can be found without its class."""
    actions = () if viewset_options.is_checked_when_read(one.options) else None
    yield from viewset_options.check(draft, one.resource.name, one.options, actions)


def _with_targets(
    one: Declaration, by_name: Mapping[str, Declaration], lost: set[str], problems: Problems
) -> Declaration:
    """The declaration without its relations to resources that do not exist."""
    fields: dict[str, Field] = {}
    for name, field in one.resource.fields.items():
        if field.field_type.kind not in (Kind.RELATION, Kind.RELATIONS) or field.to in by_name:
            fields[name] = field
            continue
        if field.to is not None and field.to not in lost:
            message = f"there is no resource {field.to!r}; {did_you_mean(field.to, by_name)}"
            problems.at(one.document, ("fields", name, "to"), message)
        lost |= names_of(name, field.related_name)
    sound = one.sound and len(fields) == len(one.resource.fields)
    primary_key = one.resource.primary_key
    if not fields.keys() >= {*primary_key} or not (primary_key or any(each.primary_key for each in fields.values())):
        primary_key = ()
        set_some_key(fields)
    return replace(one, resource=replace(one.resource, fields=fields, primary_key=primary_key), sound=sound)


def _relation_problems(resource: Resource, draft: Resources) -> Iterator[tuple[Steps, str]]:
    """Problems with the targets and the names of relations, and with the defaults of foreign keys."""
    for name, field in resource.fields.items():
        if field.to is None:
            continue
        if message := reference_problem(resource, field, draft):
            yield ("fields", name, "to"), message
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
            message = f"{field.related_name!r} is taken in {target.name} by {taken[field.related_name]}"
            yield path, message


def _view_problems(one: Declaration, draft: Resources) -> Iterator[tuple[Steps, str]]:
    viewed = replace(one.resource, options=MappingProxyType(dict(one.options)))
    yield from view_problems(viewed, one.document.data, draft)


def _storage_problems(by_name: Mapping[str, Declaration], draft: Resources) -> Iterator[tuple[Declaration, Steps, str]]:
    """Collisions among tables and among models."""
    models: dict[str, str] = {}
    tables: dict[str, str] = dict.fromkeys(RESERVED_TABLES, "the service itself")
    for name, one in by_name.items():
        for key, taken in (("model", models), ("table", tables)):
            value = getattr(one.resource, key)
            if value in taken:
                path: Steps = (key,) if key in one.document.data else ()
                yield one, path, f"the {key} {value} already belongs to {taken[value]}; set 'name' or {key!r}"
            taken.setdefault(value, name)
    for name, one in by_name.items():
        for field in one.resource.links.values():
            assert field.to is not None
            table, columns = link_table(one.resource, field), link_columns(one.resource, field, draft[field.to])
            if table in tables:
                way = "rename the field"
                if field.through:
                    way = "a table of links has one field, which `related_name` names for the other side"
                message = f"its table {table} already belongs to {tables[table]}; {way}"
                yield one, ("fields", field.name), AboutKey(f"{field.name!r}: {message}")
            tables[table] = f"{name}.{field.name}"
            for long in (each for each in (*table.split("."), *columns) if len(each.encode()) > IDENTIFIER_MAX_BYTES):
                message = f"{long} would be too long for PostgreSQL, which allows {IDENTIFIER_MAX_BYTES} characters"
                yield one, ("fields", field.name), AboutKey(f"{field.name!r}: {message}")


def _wrong_options(
    one: Declaration, draft: Resources, lost: set[str], rates: Collection[str] | None, problems: Problems
) -> set[str]:
    """Check the viewset's options, and return those that are wrong or refer to a lost name."""
    wrong: set[str] = set()
    for path, message in _option_problems(one, draft):
        wrong.add(str(path[0]))
        if not lost.intersection(_names_in(one.options, path)):
            problems.at(one.document, ("viewset", *path), message)
    scope = one.options.get("throttle_scope")
    if scope is not None and rates is not None and scope not in rates:
        wrong.add("throttle_scope")
        message = f"throttle.rates has no rate {scope!r}; {did_you_mean(scope, rates)}"
        problems.at(one.document, ("viewset", "throttle_scope"), message)
    return wrong


def _names_in(options: Mapping[str, Any], path: Steps) -> list[str]:
    """The names in the value at a path, such as those of ``-category__name``."""
    name, *steps = path
    value = options[str(name)]
    if isinstance(value, ScopeGroup):
        subject = steps[-1] if steps else None
    else:
        subject = value if not steps else steps[0] if isinstance(value, Mapping) else value[steps[0]]
    return subject.lstrip("-" + viewset_options.SEARCH_PREFIXES).split("__") if isinstance(subject, str) else []
