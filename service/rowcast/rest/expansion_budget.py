"""How much ``?expand=`` may add to an answer: relations to many rows multiply, so the rows are counted before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.errors import ParseError
from rowcast.query.conditions import Query
from rowcast.query.pages import PageShape
from rowcast.query.projection import Projection
from rowcast.resources.resource import Resources
from rowcast.rest.plan import ModelPlan
from rowcast.rest.reading import AnyReader


def adds_lists(plan: ModelPlan, already: Projection, shown: Projection) -> bool:
    """Whether a response shows lists of related rows that the viewset does not show anyway."""
    return shown is not already and _adds_lists(plan.service.resources, already, shown)


def _adds_lists(resources: Resources, already: Projection | None, shown: Projection) -> bool:
    relations, known = resources.relations(shown.resource), dict(already.related) if already is not None else {}
    return any(
        (relations[name].many and name not in known) or _adds_lists(resources, known.get(name), inner)
        for name, inner in shown.related
    )


async def check_size(
    plan: ModelPlan, reader: AnyReader, query: Query, page: PageShape, values: Sequence[Any], already: Projection
) -> None:
    """Refuse an answer that would have more related rows, or more bytes of them, than the settings allow."""
    server = plan.service.settings.server
    rows, size = await reader.related_size(query, page, values, already, server.expand_limit + 1)
    if rows > server.expand_limit or size > server.expand_size_limit:
        raise ParseError(
            f"expand: an answer has at most {server.expand_limit} related rows and {server.expand_size_limit} bytes of them. "
            "Expand less, or request smaller pages.",
            code="expansion_too_large",
        )
