"""``Idempotency-Key``: an unsafe request that is sent again gets the answer of the first one, and is not carried out again.

The key is written into ``rowcast.answer`` at the beginning of the request's transaction, and the answer at its end. So there
is a record exactly if the change is committed. After a response that was lost, or a 503 that leaves open whether the change
was made, the client sends the request again. The primary key of the table makes a second change impossible; a request
whose key belongs to one that is still running waits for a moment only.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header-07/
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import sha256
from http import HTTPStatus
from typing import IO, Final

import asyncpg
import orjson
from aiohttp import web
from multidict import CIMultiDict

from rowcast.database.pool import Database
from rowcast.errors import AnswerNotKept, KeyInUse, KeyReused, ParseError, Unavailable
from rowcast.rest.request import Request

KEY: Final = "Idempotency-Key"
KEYED: Final = web.RequestKey("keyed", bool)  # a request that is part of one with a key
REPLAYED: Final = "Idempotency-Replayed"
KEY_MAX_CHARACTERS: Final = 255
SHARED_KEY_MIN_CHARACTERS: Final = 16  # where anonymous callers share one scope
KEPT_BODY_MAX_BYTES: Final = 8 << 20

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')  # a string of RFC 9651
_PLAIN: Final = re.compile(r"[!#-\[\]-~]+")
_PRINTABLE: Final = re.compile(r"[ -~]+")

# The other request may end in the meantime. lock_timeout applies to waiting for it, and is reset by the next statement.
_CLAIM: Final = """
INSERT INTO rowcast.answer (key, request)
SELECT $1::bytea, $2::bytea FROM set_config('lock_timeout', '50ms', true)
ON CONFLICT DO NOTHING RETURNING true"""
_NO_LONGER_IMPATIENT: Final = "SET LOCAL lock_timeout TO DEFAULT"
_FIND: Final = "SELECT request, status, headers, body FROM rowcast.answer WHERE key = $1"
_KEEP: Final = "UPDATE rowcast.answer SET status = $2, headers = $3, body = $4 WHERE key = $1"
_RELEASE: Final = "DELETE FROM rowcast.answer WHERE key = $1"


async def answer_once(
    database: Database,
    request: Request,
    answer: Callable[[], Awaitable[web.StreamResponse]],
    *,
    repeatable: bool,
    receive_file: Callable[[], Awaitable[IO[bytes]]] | None = None,
) -> web.StreamResponse:
    """Answer a request in a transaction with the record of its key, or as it was answered before.

    Its caller is recognised and permitted already. ``repeatable`` means that ``answer`` may be called again if the
    transaction collides with another one. ``receive_file`` receives the body, if that is a file.

    Raises:
        ParseError: there is no key, or it is malformed.
        KeyReused: the key is that of another request.
        KeyInUse: a request with this key is running.
        AnswerNotKept: the request was carried out, and its answer was a stream or too long to be kept.
    """
    key = _identity(request, read_key(request))
    body = [await request.receive_before_transaction()] if receive_file is None else _pieces(await receive_file())
    fingerprint = _fingerprint(request.http, body)

    async def attempt() -> web.StreamResponse:
        async with database.transaction():
            async with database.own_role():
                if not await _claim(database, key, fingerprint):
                    return await _find(database, key, fingerprint)
                await database.fetch(_NO_LONGER_IMPATIENT, ())
            response = await answer()
            try:
                async with database.own_role():
                    await _keep(database, key, response)
            except asyncpg.InFailedSQLTransactionError:
                pass  # the handler has caught an error of the database, so there will be no commit
            return response

    return await (database.retrying(attempt) if repeatable else attempt())


def read_key(request: Request) -> str:
    """The key of a request, without quotes.

    Raises:
        ParseError: there is none or more than one, it is too long, or for an anonymous caller too short.
    """
    lines = request.http.headers.getall(KEY, [])
    if not lines:
        raise ParseError(
            f"Send {KEY}: a string of your own for this change, such as a UUID.", code="idempotency_key_required"
        )
    written = lines[0].strip()
    if len(lines) > 1:
        raise _invalid("is given twice")
    if quoted := _QUOTED.fullmatch(written):
        written = re.sub(r"\\(.)", r"\1", quoted[1])
        plain = _PRINTABLE.fullmatch(written)
    else:
        plain = _PLAIN.fullmatch(written)
    if not plain:
        raise _invalid(
            "must be printable ASCII characters, without spaces and quotes unless all of it is in double quotes"
        )
    if len(written) > KEY_MAX_CHARACTERS:
        raise _invalid(f"may have at most {KEY_MAX_CHARACTERS} characters")
    if not request.user.is_authenticated and len(written) < SHARED_KEY_MIN_CHARACTERS:
        raise _invalid(
            f"must have at least {SHARED_KEY_MIN_CHARACTERS} characters without credentials, since all such callers "
            "share their keys: send a random one, such as a UUID"
        )
    return written


def _invalid(problem: str) -> ParseError:
    return ParseError(f"{KEY}: {problem}.", code="invalid_idempotency_key")


def _identity(request: Request, key: str) -> bytes:
    """What makes a key unique: the caller, the route and the key itself."""
    user = request.user
    caller = f"user {user.id}" if user.is_authenticated else "anonymous"
    resource = request.http.match_info.route.resource
    route = request.http.path if resource is None else resource.canonical
    return _digest([caller.encode(), route.rstrip("/").encode(), key.encode()])


def _fingerprint(http: web.Request, body: Iterable[bytes]) -> bytes:
    """What must be the same when a request is sent again. A slash at the end of its path makes no difference."""
    url = http.rel_url
    whole = sha256()
    for piece in body:
        whole.update(piece)
    address = [url.raw_path.rstrip("/").encode(), url.raw_query_string.encode()]
    return _digest([http.method.encode(), *address, whole.digest()])


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """What is in a file."""
    while piece := file.read(1 << 16):
        yield piece


def _digest(parts: Iterable[bytes]) -> bytes:
    """A digest of several strings, none of which can run into the next one."""
    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.digest()


async def _claim(database: Database, key: bytes, fingerprint: bytes) -> bool:
    """Begin the record of a key; whether there is none yet."""
    try:
        return await database.fetch(_CLAIM, (key, fingerprint)) is not None
    except Unavailable as error:
        if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
            raise KeyInUse() from error
        raise


async def _find(database: Database, key: bytes, fingerprint: bytes) -> web.Response:
    """The answer that was given to the first request with a key."""
    row = await database.fetch(_FIND, (key,))
    if row is None:  # it has expired at this moment
        raise KeyInUse()
    if row["request"] != fingerprint:
        raise KeyReused()
    if row["headers"] is None:
        raise AnswerNotKept()
    headers = CIMultiDict(orjson.loads(row["headers"]))
    headers[REPLAYED] = "true"
    return web.Response(status=row["status"], headers=headers, body=row["body"])


async def _keep(database: Database, key: bytes, response: web.StreamResponse) -> None:
    """Complete the record of a key; a refusal is not recorded, so that the request is judged again."""
    if response.status >= HTTPStatus.BAD_REQUEST:
        await database.fetch(_RELEASE, (key,))
        return
    body = response.body if isinstance(response, web.Response) else response
    kept = body is None or (isinstance(body, bytes | bytearray) and len(body) <= KEPT_BODY_MAX_BYTES)
    headers = orjson.dumps(_headers(response)).decode() if kept else None
    await database.fetch(_KEEP, (key, response.status, headers, body if kept else None))


def _headers(response: web.StreamResponse) -> list[tuple[str, str]]:
    """The headers of a response, cookies included, without those of its transfer."""
    headers = [(name, value) for name, value in response.headers.items() if name.lower() != "content-length"]
    return headers + [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
