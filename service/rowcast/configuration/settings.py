"""``service.yaml``, environment and command line as one frozen ``Settings``; durations in seconds, sizes in bytes.

The dataclasses are the only list of settings: the structure of the file, its JSON Schema, the defaults and the
environment variables (``ROWCAST_<SECTION>_<KEY>`` each) follow from them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from marshmallow import ValidationError
from marshmallow import fields as ma

from rowcast.configuration import value_types
from rowcast.configuration.yaml import Document, External, Problems, SourceLocation, Steps

SECRET_LENGTH: Final = 32


def _setting(form: ma.Field[Any], default: Any = None, *, secret: bool = False) -> Any:
    """A setting of this form; its default is as it would be written in the file."""
    value = None if default is None else form.deserialize(default)
    return field(default=value, repr=not secret, metadata={"form": form, "default": default})


def _section(cls: type[Any]) -> dict[str, Any]:
    """The metadata of a section; null, or nothing behind its name, stands for its default."""
    return {"form": value_types.Section(_structure(cls), null=True), "section": cls}


def _structure(cls: type[Any]) -> value_types.Structure:
    return value_types.structure(cls.__name__, {each.name: each.metadata["form"] for each in fields(cls)}, cls)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds."""

    count: int
    seconds: int


_PERIODS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86400),
}
_RATE: Final = rf"[0-9]{{1,9}}/(?:{'|'.join(sorted(_PERIODS))})"


def rate() -> value_types.Form:
    """A rate such as ``60/min``."""
    written = value_types.text(_RATE, "a rate such as 60/min, 10/second, 600/hour or 5000/day")

    def take(value: Any) -> Rate:
        count, _, period = written.take(value).partition("/")
        return Rate(int(count), _PERIODS[period])

    return value_types.Form(take, written.written)


def _path(written: str) -> dict[str, Any]:
    """The metadata of a setting that is a path; its default is as it would be written in the file."""
    text = value_types.text(least=1)
    return {"form": value_types.Form(lambda value: Path(text.take(value)), text.written), "default": written}


_ORIGIN: Final = r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+"
_SYMMETRIC: Final = ("HS256", "HS384", "HS512")
_ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """The HTTP server."""

    host: str = _setting(value_types.text(least=1), "127.0.0.1")
    port: int = _setting(value_types.integer(0, 65535), 8000)
    workers: int = _setting(value_types.integer(1, 1024), 1)
    cors_origins: tuple[str, ...] = _setting(
        value_types.Many(value_types.text(_ORIGIN, "* or an origin such as https://app.example.com, without a path")),
        [],
    )
    trusted_proxies: int = _setting(value_types.integer(0, 100), 0)
    body_limit: int = _setting(value_types.size(), "1MiB")
    shutdown_grace: float = _setting(value_types.duration(), "10s")
    secret_key: str | None = _setting(value_types.text(least=SECRET_LENGTH, null=True), secret=True)


@dataclass(frozen=True, slots=True)
class Database:
    """PostgreSQL; without ``url`` it is the embedded one, which keeps its files in ``data``."""

    url: str | None = _setting(
        value_types.text(r"postgres(?:ql)?://.*", "a URL such as postgresql://user:password@host/name", null=True),
        secret=True,
    )
    pool_size: int = _setting(value_types.integer(1, 10_000), 10)
    statement_timeout: float = _setting(value_types.duration(), "5s")
    migrations: Path = field(
        default=Path("../migrations"), metadata=_path("../migrations")
    )  # from the config directory
    data: Path = field(default=Path(".rowcast"), metadata=_path(".rowcast"))  # from the working directory


@dataclass(frozen=True, slots=True)
class Jwt:
    """How JSON Web Tokens are verified: with a shared ``secret``, or with the public keys of ``secret`` or ``jwks``."""

    secret: str | None = _setting(value_types.text(null=True), secret=True)
    algorithms: tuple[str, ...] = _setting(
        value_types.Many(value_types.one_of((*_SYMMETRIC, *_ASYMMETRIC)), least=1), ["HS256"]
    )
    audience: str = _setting(value_types.text(least=1), "rowcast")
    issuer: str | None = _setting(value_types.text(null=True))
    jwks: str | None = _setting(value_types.text(null=True))
    staff_claim: str = _setting(value_types.text(least=1), "is_staff")


@dataclass(frozen=True, slots=True)
class Auth:
    """Who a caller is and, where a viewset does not say it, what callers may do."""

    default_authentication_classes: tuple[str, ...] = _setting(
        value_types.Many(value_types.class_name()), ["TokenAuthentication", "JWTAuthentication"]
    )
    default_permission_classes: tuple[value_types.PermissionTree, ...] = _setting(
        value_types.Many(value_types.permission()), ["IsAuthenticatedOrReadOnly"]
    )
    jwt: Jwt | None = field(default=None, metadata=_section(Jwt))


@dataclass(frozen=True, slots=True)
class Stream:
    """The change log and what is streamed from it."""

    retention: float = _setting(value_types.duration(), "24h")
    max_log_size: int = _setting(value_types.size(), "4GiB")
    heartbeat: float = _setting(value_types.duration(), "15s")
    buffer: int = _setting(value_types.size(), "256KiB")
    wakeup: str = _setting(value_types.one_of(("notify", "poll")), "notify")


@dataclass(frozen=True, slots=True)
class Throttle:
    """Rates by name, the throttles of every viewset that names none, and where requests are counted."""

    classes: tuple[str, ...] = _setting(value_types.Many(value_types.class_name()), [])
    rates: Mapping[str, Rate] = field(default_factory=dict, metadata={"form": value_types.Table(rate()), "default": {}})
    storage: str = _setting(
        value_types.text(r"memory|rediss?://.+", "memory or a URL such as redis://host:6379/0"), "memory"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything of ``service.yaml``."""

    server: Server = field(default_factory=Server, metadata=_section(Server))
    database: Database = field(default_factory=Database, metadata=_section(Database))
    auth: Auth = field(default_factory=Auth, metadata=_section(Auth))
    stream: Stream = field(default_factory=Stream, metadata=_section(Stream))
    throttle: Throttle = field(default_factory=Throttle, metadata=_section(Throttle))


STRUCTURE: Final = _structure(Settings)
OPTIONAL: Final[frozenset[Steps]] = frozenset({("database", "url")})  # what a reference that is not set leaves null


def _leaves(cls: type[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for each in fields(cls):
        here = (*path, each.name)
        yield from _leaves(each.metadata["section"], here) if "section" in each.metadata else [here]


VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "DATABASE_URL": ("database", "url"),
    "ROWCAST_DATA": ("database", "data"),
    "ROWCAST_HOST": ("server", "host"),
    "ROWCAST_PORT": ("server", "port"),
    "ROWCAST_WORKERS": ("server", "workers"),
    "ROWCAST_SECRET_KEY": ("server", "secret_key"),
    **{f"ROWCAST_{'_'.join(path).upper()}": path for path in _leaves(Settings)},
}
"""Environment variable → setting. Of two for the same setting the later, longer one wins; an empty one is not set."""


def read(
    document: Document | None,
    directory: Path,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    problems: Problems,
) -> Settings:
    """The settings of a file (if any) under the environment, under the overrides of the command line.

    ``overrides`` maps a setting's dotted name, as ``server.port``, to its value; ``None`` overrides nothing. What is
    wrong is noted under the variable or option that set it, and leaves the default settings.
    """
    merged = _merge(document or Document("service.yaml", None), environ, overrides)
    try:
        settings: Settings = STRUCTURE.load({} if merged.data is None else merged.data)
    except ValidationError as error:
        problems.tree(merged, error.messages)
        return Settings()
    if settings.auth.jwt is not None:
        for key, message in _unfit(settings.auth.jwt):
            problems.at(merged, ("auth", "jwt", key), message)
    migrations = Path(os.path.normpath(directory / settings.database.migrations))
    return replace(settings, database=replace(settings.database, migrations=migrations))


def _merge(document: Document, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Document:
    """The document with what comes from outside in its place."""
    outside = [(SourceLocation(name), path, environ[name]) for name, path in VARIABLES.items() if environ.get(name)]
    for name, value in overrides.items():
        if value is not None:
            path = tuple(name.split("."))
            assert path in VARIABLES.values(), name
            outside.append(
                (SourceLocation(f"--{path[-1] if path[0] == 'server' else '-'.join(path)}"), path, str(value))
            )
    data, values = copy.deepcopy(document.data), dict(document.values)
    unread = set(document.unread)
    data = {} if data is None else data
    for place, path, text in outside:
        here = data
        for step in path[:-1]:
            if isinstance(here, dict):
                here[step] = {} if here.get(step) is None else here[step]
                here = here[step]
        if isinstance(here, dict):
            here[path[-1]] = External(text)
            values[path] = place
            unread.discard(path)
    return replace(document, data=data, values=values, unread=unread)


def _unfit(jwt: Jwt) -> Iterator[tuple[str, str]]:
    """What is wrong with how the keys and the algorithms go together: the key, and a message."""
    shared = [name in _SYMMETRIC for name in jwt.algorithms]
    public = jwt.secret is not None and jwt.secret.lstrip().startswith("-----BEGIN")
    if any(shared) and not all(shared):
        yield "algorithms", "HS algorithms take a secret and the others public keys; use one sort"
    elif any(shared):
        if public or jwt.jwks is not None:
            yield "algorithms", f"public keys do not go with HS algorithms; use some of {', '.join(_ASYMMETRIC)}"
        elif jwt.secret is None:
            yield "secret", f"is required for {', '.join(jwt.algorithms)}"
        elif len(jwt.secret.encode()) < SECRET_LENGTH:
            yield "secret", f"must have at least {SECRET_LENGTH} bytes"
    elif not public and jwt.jwks is None:
        yield "secret", f"must be a public key in PEM, or jwks be given, for {', '.join(jwt.algorithms)}"
