"""``Prefer`` (RFC 7240): what a client would like of an answer."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from rowcast.errors import ParseError, TooManyRows

MAX_AFFECTED: Final = "max-affected"


def preferences(http: web.Request) -> dict[str, str]:
    """The preferences of a request, by name in lower case, without their parameters. The first of a name counts."""
    found: dict[str, str] = {}
    for each in ",".join(http.headers.getall("Prefer", ())).split(","):
        name, _, value = each.partition(";")[0].partition("=")
        if name.strip():
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


class AffectedRows:
    """``Prefer: max-affected=10``: how many rows a request may write; ``None`` for any number."""

    def __init__(self, http: web.Request) -> None:
        self.most: int | None = None
        text = preferences(http).get(MAX_AFFECTED) if "Prefer" in http.headers else None
        if text is not None:
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise ParseError(f"Prefer: {MAX_AFFECTED} must be a whole number.", code="invalid_parameter")
            self.most = int(text)

    def check(self, count: int) -> None:
        """Raise ``TooManyRows`` if so many rows are more than the client wants to write."""
        if self.most is not None and count > self.most:
            raise TooManyRows(f"Prefer: {MAX_AFFECTED}={self.most}: the request would write more rows.")

    @property
    def headers(self) -> dict[str, str]:
        """``Preference-Applied``, if the client had the preference."""
        return {} if self.most is None else {"Preference-Applied": f"{MAX_AFFECTED}={self.most}"}
