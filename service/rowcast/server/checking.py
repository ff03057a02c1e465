"""``rowcast check``: every problem of a config directory in one run, that of YAML and that of Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from rowcast.configuration.load import Reading
from rowcast.configuration.yaml import Problems
from rowcast.server.app import bind
from rowcast.server.debug import refused_debug
from rowcast.server.hosts import missing_names
from rowcast.server.importer import Importer
from rowcast.server.missing_scopes import missing_scopes
from rowcast.server.policies import check_streams, unscoped_streams
from rowcast.server.routes import import_classes, overridden_by_config

NOWHERE: Final = "postgresql://"  # connected to when a service runs


def check_configuration(found: Reading) -> Iterator[str]:
    """Lines about a configuration that can be served, and that its author may want to know.

    If YAML has problems, all Python is imported, and checked with the resources that are sound. What may follow from these
    problems is not reported.

    Raises:
        ConfigurationError: names every problem.
    """
    configuration, python = found.configuration, Problems()
    if found.problems and configuration.directory.is_dir():
        import_classes(configuration, Importer(configuration.directory), python)
        configuration = replace(configuration, resources=found.sound)
    bound = bind(configuration, NOWHERE, python)
    check_streams(configuration, unscoped_streams(bound.routes), python)
    found.problems.update(python.unrelated(found.lost))
    found.problems.check()
    yield from overridden_by_config(configuration, bound.service)
    yield from missing_scopes(configuration, bound.service)
    yield from missing_names(configuration)
    yield from refused_debug(configuration)
    file = configuration.files[""]
    for path, message in file.absent.items():
        yield f"{file.location(path)}: {message}; `rowcast serve` needs it"
