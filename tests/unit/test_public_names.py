"""``from rowcast import …``: the documented form of every public name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rowcast
from rowcast import api


def test_every_public_name_is_a_name_of_the_package() -> None:
    """Each name of ``rowcast.api`` can be imported from ``rowcast``, by itself and with ``*``."""
    for name in api.__all__:
        assert getattr(rowcast, name) is getattr(api, name)
    scope: dict[str, object] = {}
    exec("from rowcast import *", scope)
    assert set(api.__all__) <= scope.keys()


def test_modules_have_the_names_of_django_rest_framework() -> None:
    """``from rowcast import mixins, viewsets`` gives modules with the classes that its users look for there."""
    assert rowcast.viewsets.ModelViewSet is rowcast.ModelViewSet
    assert rowcast.viewsets.ViewSet is rowcast.ViewSet
    assert rowcast.mixins.ListModelMixin is rowcast.ListModelMixin
    assert rowcast.permissions.IsAuthenticated is rowcast.IsAuthenticated
    assert rowcast.serializers.Serializer is rowcast.Serializer
    assert rowcast.pagination.CursorPagination is rowcast.CursorPagination


def test_other_names_are_missing() -> None:
    """A name that does not exist is an ``AttributeError``, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rowcast.nonsense  # noqa: B018


def test_importing_the_package_is_cheap() -> None:
    """``import rowcast`` loads nothing else; a name loads what it needs."""
    code = "import sys, rowcast; print(any(name in sys.modules for name in ('aiohttp', 'sqlalchemy', 'rowcast.api')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
