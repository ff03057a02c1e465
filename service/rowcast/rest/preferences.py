"""``Prefer`` (RFC 7240): what a client would like of an answer.

``return`` is about the answers to standard actions that write rows, ``count`` about lists, ``max-affected`` about whatever writes
rows, and ``handling`` about preferences that are not known here. Nothing is read of a request without the header.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from rowcast.errors import ParseError, TooManyRows, did_you_mean
from rowcast.resources.actions import CHANGING_ACTIONS, RESTORE

PREFER: Final = "Prefer"
APPLIED: Final = "Preference-Applied"
MAX_AFFECTED: Final = "max-affected"
PREFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "return": ("representation", "minimal"),
    "handling": ("lenient", "strict"),
    "count": ("exact", "estimated", "none"),
    MAX_AFFECTED: (),
}
"""The preferences by name, with their values. ``max-affected`` has a number, and is a promise: a wrong one is an error."""
# The body of a response that is sent without one, for the operations of a batch.
WHOLE_BODY: Final = web.ResponseKey("whole_body", object)

_PART: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_MINIMAL: Final[Mapping[int, HTTPStatus]] = {
    HTTPStatus.OK: HTTPStatus.NO_CONTENT,
    HTTPStatus.CREATED: HTTPStatus.CREATED,
}
_WRITING: Final = frozenset(
    {"create", "update", "partial_update", RESTORE}
)  # the standard actions that are answered with rows


def preferences(http: web.Request) -> dict[str, str]:
    """The preferences of a request, by name in lower case, without their parameters. The first of a name counts."""
    found: dict[str, str] = {}
    for part in _PART.findall(",".join(http.headers.getall(PREFER, ()))):
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip():
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def honoured(http: web.Request) -> dict[str, str]:
    """The preferences of a request that are known here and have one of their values.

    With ``handling=strict`` any other one is a ``ParseError``; otherwise it is ignored.
    """
    wanted = preferences(http)
    strict = wanted.get("handling", "").lower() == "strict"
    found = {}
    for name, written in wanted.items():
        value = written.lower()
        if name == MAX_AFFECTED or value in PREFERENCES.get(name, ()):
            found[name] = value
        elif strict:
            shown = _printable(name if name not in PREFERENCES else f"{name}={written}")
            hint = did_you_mean(value, PREFERENCES[name]) if name in PREFERENCES else did_you_mean(name, PREFERENCES)
            raise ParseError(f"Prefer: {shown}: unknown preference; {hint}", code="invalid_parameter")
    return found


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:50]


class BatchRows:
    """How many rows the operations of a batch have written: those ``before`` the one that runs, and this one itself."""

    def __init__(self) -> None:
        self.before = 0
        self._operation = 0

    def with_operation(self, count: int) -> int:
        """The rows of the batch if the operation that runs writes so many."""
        self._operation = max(self._operation, count)
        return self.before + self._operation

    def end_operation(self) -> None:
        """Begin to count those of the next operation."""
        self.before, self._operation = self.before + self._operation, 0


BATCH_ROWS: Final = web.RequestKey("batch_rows", BatchRows)  # of an operation of a batch


class AffectedRows:
    """``Prefer: max-affected=10``: how many rows a request may write; ``None`` for any number.

    The operations of a batch may write so many together.
    """

    def __init__(self, http: web.Request) -> None:
        self.most: int | None = None
        self._batch = http.get(BATCH_ROWS)
        text = preferences(http).get(MAX_AFFECTED) if PREFER in http.headers else None
        if text is not None:
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise ParseError(f"Prefer: {MAX_AFFECTED} must be a whole number.", code="invalid_parameter")
            self.most = int(text)

    def check(self, count: int) -> None:
        """Raise ``TooManyRows`` if so many rows are more than the client wants to write."""
        if self.most is None:
            return
        if (count if self._batch is None else self._batch.with_operation(count)) > self.most:
            who = "request" if self._batch is None else "batch"
            raise TooManyRows(f"Prefer: {MAX_AFFECTED}={self.most}: the {who} would write more rows.")

    @property
    def headers(self) -> dict[str, str]:
        """``Preference-Applied``, if the client had the preference."""
        return {} if self.most is None else {APPLIED: f"{MAX_AFFECTED}={self.most}"}


async def answer_preferred(view: Any, answer: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """The answer to a request with preferences, as far as these apply to it; ``Preference-Applied`` names those that did.

    Raises:
        ParseError: ``handling=strict`` comes with a preference that is not known here, or ``max-affected`` is not a number.
        TooManyRows: the request would write more rows than it is to.
    """
    http, wanted = view.request.http, honoured(view.request.http)
    applied = [f"handling={wanted['handling']}"] if "handling" in wanted else []
    affected = AffectedRows(http)
    if affected.most is not None and await _writes_one_row(view):
        affected.check(1)
        applied.append(f"{MAX_AFFECTED}={affected.most}")
    if "count" in wanted and counts_by_preference(view.view_plan) and view.action == "list":
        view.count = wanted["count"]
        applied.append(f"count={wanted['count']}")
    response = await answer()
    if (
        "return" in wanted
        and view.action in _WRITING
        and not view.importing
        and isinstance(response, web.Response)
        and response.status in _MINIMAL
        and response.body is not None
    ):
        applied.append(f"return={wanted['return']}")
        if wanted["return"] == "minimal":
            response[WHOLE_BODY] = response.body
            leave_out_body(response)
    if applied and not response.prepared:
        before = response.headers.get(APPLIED)
        response.headers[APPLIED] = ", ".join(dict.fromkeys([*(before.split(", ") if before else ()), *applied]))
    return response


def leave_out_body(response: web.Response) -> None:
    """Make a successful response one without its body, as ``return=minimal`` means it."""
    response.body = None
    response.headers.popall("Content-Type", None)
    response.set_status(_MINIMAL.get(response.status, response.status))


def counts_by_preference(plan: Any) -> bool:
    """Whether a viewset has a list with a count, which ``Prefer: count=none`` and the like change."""
    return bool(plan.exports) and bool(plan.paginator.counts)


def preferences_of(plan: Any, actions: Iterable[str], *, importing: bool = False) -> list[str]:
    """The names of the preferences that these actions of a viewset honour."""
    found = set(actions)
    return [
        "handling",
        *(["return"] if found & _WRITING and not importing else []),
        *(["count"] if "list" in found and counts_by_preference(plan) else []),
        *([MAX_AFFECTED] if found & (_WRITING | CHANGING_ACTIONS) else []),
    ]


async def _writes_one_row(view: Any) -> bool:
    """Whether a request is a standard action that writes one row; actions about many rows count theirs."""
    key = getattr(view.view_plan, "lookup_url_kwarg", None)  # which a viewset without rows does not have
    if key is None or view.action in (*CHANGING_ACTIONS, RESTORE):
        return key in view.kwargs
    return view.action == "create" and not view.importing and isinstance(await view.request.read_json(), dict)
