"""A pytest plugin for projects that Rowcast serves: a database for each test, a client, streams, and rows of resources.

pytest loads this module in every environment that has Rowcast, so it imports nothing else. The fixtures are in ``fixtures``
and belong to a project alone that has a config directory: ``config``, or what ``rowcast_config`` in the settings of pytest
names.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

    from rowcast.testing.client import Client as Client
    from rowcast.testing.client import running as running
    from rowcast.testing.databases import Databases as Databases
    from rowcast.testing.events import Changes as Changes
    from rowcast.testing.events import StreamReset as StreamReset
    from rowcast.testing.factories import Factory as Factory

CONFIG_OPTION: Final = "rowcast_config"
_FIXTURES: Final = "rowcast.testing.fixtures"
_NAMES: Final = {  # name → the module that has it
    "Changes": "events",
    "Client": "client",
    "Databases": "databases",
    "Factory": "factories",
    "StreamReset": "events",
    "running": "client",
}
__all__ = ["Changes", "Client", "Databases", "Factory", "StreamReset", "running"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"rowcast.testing.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting that names the config directory."""
    parser.addini(
        CONFIG_OPTION, "The config directory that the fixtures of Rowcast serve. Default: config, if there is one."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures if the project has a config directory."""
    named = config.getini(CONFIG_OPTION)
    found = named or (config.rootpath / "config" / "resources").is_dir()
    if found and find_spec("pytest_asyncio") is not None and not config.pluginmanager.has_plugin(_FIXTURES):
        config.pluginmanager.register(import_module(_FIXTURES), _FIXTURES)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """A line about what the fixtures lack."""
    if config.getini(CONFIG_OPTION) and find_spec("pytest_asyncio") is None:
        return ["rowcast: there are no fixtures without pytest-asyncio: pip install 'rowcast[testing]'"]
    return []
