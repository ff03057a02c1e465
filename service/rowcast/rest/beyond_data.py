"""What else than data has a say about who reads which rows of a viewset, as reasons that operators read.

Where there is nothing else, requests take a short way, and an edge sends the viewset's streams itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rowcast.identity.authentication import BUILT_IN
from rowcast.identity.permissions import BY_CALLER_ALONE
from rowcast.rest.declared_scope import DeclaredScope
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.serializers import Serializer


def reasons_beyond_data(
    cls: type[GenericViewSet],
    options: Mapping[str, Any],
    policies: Mapping[str, Any],
    overridden: frozenset[str],
    filters: Iterable[Any],
    serializer: Serializer,
    scope: DeclaredScope | None,
    *,
    as_callers: bool,
) -> Iterator[str]:
    """The reasons, each as what follows "because". ``as_callers`` says whether statements run as their caller."""
    if overridden:
        yield f"its class overrides {', '.join(sorted(overridden))}"
    if cls.queryset is not None:
        yield "its class has a queryset"
    if as_callers:
        yield "the database decides what a caller may read"
    if options["scoped"]:
        yield "the scopes of related rows apply to it (scoped)"
    if scope is not None and scope.needs_view:
        yield "its scope_unless is a permission in Python"
    if serializer.dynamic:
        yield "its serializer makes its own fields"
    for about, classes in (
        ("filter_backends", [type(each) for each in filters if not each.native]),
        ("throttle_classes", policies["throttle_classes"]),
        ("authentication_classes", [type(each) for each in policies["authenticators"] if type(each) not in BUILT_IN]),
        ("permission_classes", [type(each) for each in policies["permissions"] if type(each) not in BY_CALLER_ALONE]),
    ):
        if classes:
            yield f"its {about} have {', '.join(each.__name__ for each in classes)}"
