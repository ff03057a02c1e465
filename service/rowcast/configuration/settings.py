"""``service.yaml``, environment and command line as one frozen ``Settings``; durations in seconds, sizes in bytes.

The dataclasses are the only list of settings. The keys of the file, its JSON Schema, the defaults and the environment
variables (``ROWCAST_<SECTION>_<KEY>``) follow from them.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from marshmallow import ValidationError
from marshmallow import fields as ma
from yarl import URL

from rowcast.configuration import value_types
from rowcast.configuration.database_url import check_url
from rowcast.configuration.permission_expression import PermissionTree
from rowcast.configuration.relay_url import parse_relay_url
from rowcast.configuration.yaml import Document, External, Problems, SourceLocation, Steps

SECRET_MIN_BYTES: Final = 32
REPLICA_LAG_SECONDS: Final = 1.0, 60.0  # that a replica may be behind, at least and at most
SERVICES_DIRECTORY: Final = "services"  # in ``database.data``: the files of running services


def _setting(value_type: ma.Field[Any], default: Any = None, *, secret: bool = False) -> Any:
    """A setting of this type; its default is written as in the file."""
    value = None if default is None else value_type.deserialize(default)
    return field(default=value, repr=not secret, metadata={"value_type": value_type, "default": default})


def _section(cls: type[Any]) -> dict[str, Any]:
    """The metadata of a section. Null, or nothing after its name, stands for its default."""
    return {"value_type": value_types.Nested(_section_type(cls), null=True), "section": cls}


def _section_type(cls: type[Any]) -> value_types.Section:
    return value_types.section(cls.__name__, {each.name: each.metadata["value_type"] for each in fields(cls)}, cls)


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests in a number of seconds."""

    count: int
    seconds: int


_PERIODS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86400),
}
_RATE: Final = rf"[0-9]{{1,9}}/(?:{'|'.join(sorted(_PERIODS))})"


UNLIMITED: Final = Rate(0, 0)
"""``off`` in place of a rate."""


def rate(*, off: bool = False) -> value_types.ValueType:
    """A rate such as ``60/min``; with ``off``, the word ``off`` as well."""
    expected = "a rate such as 60/min, 10/second, 600/hour or 5000/day" + (", or off" if off else "")
    written = value_types.string(f"off|{_RATE}" if off else _RATE, expected)

    def take(value: Any) -> Rate:
        if written.take(value) == "off":
            return UNLIMITED
        count, _, period = value.partition("/")
        return Rate(int(count), _PERIODS[period])

    return value_types.ValueType(take, written.written)


def _path(written: str) -> dict[str, Any]:
    """The metadata of a setting that is a path; its default is written as in the file."""
    string = value_types.string(least=1)
    path = value_types.ValueType(lambda value: Path(string.take(value)), string.written)
    return {"value_type": path, "default": written}


def _database_url(*, null: bool = True) -> value_types.ValueType:
    """The URL of a PostgreSQL database, or null."""
    written = value_types.string(
        r"postgres(?:ql)?://.*", "a URL such as postgresql://user:password@host/name", null=null
    )
    return value_types.ValueType(lambda value: check_url(written.take(value)), written.written, null=null)


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def _address() -> value_types.ValueType:
    """A host and a port, or null."""
    written = value_types.string(
        r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):[0-9]{1,5}", "a host and a port such as 127.0.0.1:9100", null=True
    )

    def take(value: Any) -> Address:
        host, _, port = written.take(value).rpartition(":")
        if int(port) > 65535:
            raise ValueError("must have a port of at most 65535")
        return Address(host.strip("[]"), int(port))

    return value_types.ValueType(take, written.written, null=True)


def _relay_url() -> value_types.ValueType:
    """The URL of a message bus, or null."""
    expected = "a URL such as nats://user:password@host:4222 or redis://:password@host:6379"
    written = value_types.string(r"(?:nats|tls|rediss?(?:\+sentinel)?)://[^\s?#]+", expected, null=True)

    def take(value: Any) -> str:
        url: str = written.take(value)
        try:
            parse_relay_url(url)
        except ValueError as error:
            raise ValueError(str(error) or f"must be {expected}") from None
        return url

    return value_types.ValueType(take, written.written, null=True)


def _server_url() -> value_types.ValueType:
    """The URL of a service, or its path on the host that a page comes from."""
    expected = "a URL such as https://api.example.com, or a path such as /, without a query"
    written = value_types.string(_SERVER, expected, least=1)

    def take(value: Any) -> str:
        url: str = written.take(value)
        try:
            URL(url)
        except ValueError:
            raise ValueError(f"must be {expected}") from None
        return url

    return value_types.ValueType(take, written.written)


_CLAIM: Final = r"[^.\s]+(?:\.[^.\s]+)*"
_REFERENCE: Final = rf"\$user\.(?:id|is_staff|is_authenticated)|\$claims\.{_CLAIM}"
_SETTING_NAME: Final = (
    r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+"  # one that PostgreSQL does not have itself
)
_ROLE: Final = r"(?![Nn][Oo][Nn][Ee]$)[^\x00]{1,63}"
_ROLE_EXPECTED: Final = "the name of a role, and not none"
_ORIGIN: Final = r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+"
_SERVER: Final = r"(?:https?://[^/?#\s]+)?(?:/[^?#\s]*)?"
ROOT_PATH: Final = r"(?=.{0,200}$)(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*"
"""A path below which clients find a service: without double slashes, ``.`` and ``..``, and without characters that have to be
escaped in an address, in HTML or in a header."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST: Final = rf"\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]?"
_SYMMETRIC: Final = ("HS256", "HS384", "HS512")
_ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """The HTTP server."""

    host: str = _setting(value_types.string(least=1), "127.0.0.1")
    port: int = _setting(value_types.integer(0, 65535), 8000)
    workers: int = _setting(value_types.integer(1, 1024), 1)
    debug: bool = _setting(value_types.boolean(), False)
    timing: bool = _setting(value_types.boolean(), False)
    admin: Address | None = field(default=None, metadata={"value_type": _address(), "default": None})
    cors_origins: tuple[str, ...] = _setting(
        value_types.ListOf(
            value_types.string(_ORIGIN, "* or an origin such as https://app.example.com, without a path")
        ),
        [],
    )
    allowed_hosts: tuple[str, ...] = _setting(
        value_types.ListOf(
            value_types.string(
                _HOST, "a host name without a port such as api.example.com, *.example.com, an IP address, or *"
            )
        ),
        [],
    )
    openapi: str = _setting(value_types.one_of(("public", "authenticated", "off")), "public")
    console: bool | None = _setting(value_types.boolean(null=True))  # null: with the embedded database
    trusted_proxies: int = _setting(value_types.integer(0, 100), 0)
    root_path: str = _setting(
        value_types.string(ROOT_PATH, "a path of up to 200 characters such as /api, without a slash at its end"), ""
    )
    max_connections: int = _setting(value_types.integer(1, 1_000_000), 12_000)
    max_connections_per_address: int = _setting(value_types.integer(1, 1_000_000), 4_000)
    max_active_requests: int | None = _setting(value_types.integer(1, 1_000_000, null=True))
    body_limit: int = _setting(value_types.size(), "1MiB")
    bodies_limit: int = _setting(value_types.size(), "64MiB")
    import_limit: int = _setting(value_types.size(), "100MiB")
    batch_limit: int = _setting(value_types.integer(1, 10_000), 100)
    big_integers: str = _setting(value_types.one_of(value_types.BIG_INTEGER_FORMS), "number")
    expand_limit: int = _setting(value_types.integer(0, 10_000_000), 10_000)
    expand_size_limit: int = _setting(value_types.size(), "8MiB")
    list_size_limit: int = _setting(value_types.size(), "16MiB")
    responses_limit: int = _setting(value_types.size(), "64MiB")
    idempotency_retention: float = _setting(value_types.duration(zero=False), "24h")
    header_timeout: float = _setting(value_types.duration(zero=False), "10s")
    body_timeout: float = _setting(value_types.duration(zero=False), "30s")
    send_timeout: float = _setting(value_types.duration(zero=False), "30s")
    idle_timeout: float = _setting(value_types.duration(zero=False), "75s")
    shutdown_delay: float = _setting(value_types.duration(), "0s")
    shutdown_grace: float = _setting(value_types.duration(), "10s")
    secret_key: str | None = _setting(value_types.string(least=SECRET_MIN_BYTES, null=True), secret=True)


@dataclass(frozen=True, slots=True)
class Database:
    """PostgreSQL. Without ``url`` it is the embedded server, which keeps its files in ``data``."""

    url: str | None = _setting(
        _database_url(),
        secret=True,
    )
    direct_url: str | None = _setting(_database_url(), secret=True)
    replicas: tuple[str, ...] = _setting(value_types.ListOf(_database_url(null=False)), [], secret=True)
    replica_max_lag: float = _setting(value_types.duration(), "5s")
    prepared_statements: bool = _setting(value_types.boolean(), True)
    pool_size: int = _setting(value_types.integer(1, 10_000), 10)
    export_connections: int = _setting(value_types.integer(1, 1000), 4)
    statement_timeout: float = _setting(value_types.duration(), "5s")
    idle_in_transaction_timeout: float = _setting(value_types.duration(), "30s")
    trigger_messages: bool = _setting(value_types.boolean(), False)
    session: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "value_type": value_types.MappingOf(
                value_types.string(_REFERENCE, "$user.id, $user.is_staff, $user.is_authenticated or $claims.<name>"),
                names=_SETTING_NAME,
            ),
            "default": {},
        },
    )
    role_claim: str | None = _setting(value_types.string(_CLAIM, "the name of a claim", null=True))
    roles: tuple[str, ...] = _setting(value_types.ListOf(value_types.string(_ROLE, _ROLE_EXPECTED)), [])
    default_role: str | None = _setting(value_types.string(_ROLE, _ROLE_EXPECTED, null=True))
    migrations: Path = field(
        default=Path("../migrations"), metadata=_path("../migrations")
    )  # from the config directory
    data: Path = field(default=Path(".rowcast"), metadata=_path(".rowcast"))  # from the working directory

    @property
    def has_callers(self) -> bool:
        """Whether statements of a request run with settings or a role of its caller."""
        return bool(self.session or self.role_claim or self.default_role)


@dataclass(frozen=True, slots=True)
class Jwt:
    """How JSON Web Tokens are verified: with a shared ``secret``, or with the public keys of ``secret`` or ``jwks``."""

    secret: str | None = _setting(value_types.string(null=True), secret=True)
    algorithms: tuple[str, ...] = _setting(
        value_types.ListOf(value_types.one_of((*_SYMMETRIC, *_ASYMMETRIC)), least=1), ["HS256"]
    )
    audience: str = _setting(value_types.string(least=1), "rowcast")
    issuer: str | None = _setting(value_types.string(null=True))
    jwks: str | None = _setting(value_types.string(null=True))
    staff_claim: str = _setting(value_types.string(least=1), "is_staff")


@dataclass(frozen=True, slots=True)
class Auth:
    """How callers are authenticated, and the permissions of viewsets that name none."""

    default_authentication_classes: tuple[str, ...] = _setting(
        value_types.ListOf(value_types.class_name()), ["TokenAuthentication", "JWTAuthentication"]
    )
    default_permission_classes: tuple[PermissionTree, ...] = _setting(
        value_types.ListOf(value_types.permission()), ["IsAuthenticatedOrReadOnly"]
    )
    jwt: Jwt | None = field(default=None, metadata=_section(Jwt))


@dataclass(frozen=True, slots=True)
class Stream:
    """The change log and what is streamed from it."""

    retention: float = _setting(value_types.duration(), "24h")
    max_log_size: int = _setting(value_types.size(), "4GiB")
    heartbeat: float = _setting(value_types.duration(), "15s")
    drain: float = _setting(value_types.duration(), "25s")
    max_age: float = _setting(value_types.duration(), "0s")
    buffer: int = _setting(value_types.size(), "256KiB")
    wakeup: str = _setting(value_types.one_of(("notify", "poll")), "notify")
    relay: str | None = _setting(_relay_url(), secret=True)
    edge_key: str | None = _setting(value_types.string(least=32, null=True), secret=True)
    max_streams: int = _setting(value_types.integer(1, 1_000_000), 10_000)
    max_streams_per_caller: int = _setting(value_types.integer(1, 1_000_000), 200)
    filter_timeout: float = _setting(value_types.duration(), "1s")


@dataclass(frozen=True, slots=True)
class Throttle:
    """Rates by name, the throttles of every viewset that names none, and where requests are counted."""

    classes: tuple[str, ...] = _setting(value_types.ListOf(value_types.class_name()), [])
    rates: Mapping[str, Rate] = field(
        default_factory=dict, metadata={"value_type": value_types.MappingOf(rate()), "default": {}}
    )
    authentication_failures: Rate = field(
        default=Rate(60, 60), metadata={"value_type": rate(off=True), "default": "60/min"}
    )  # by address
    storage: str = _setting(
        value_types.string(r"memory|rediss?://.+", "memory or a URL such as redis://host:6379/0"), "memory"
    )


@dataclass(frozen=True, slots=True)
class Contact:
    """Whom users of the API turn to."""

    name: str | None = _setting(value_types.string(least=1, null=True))
    url: str | None = _setting(
        value_types.string(r"https?://[^\s]+", "a URL such as https://example.com/help", null=True)
    )
    email: str | None = _setting(
        value_types.string(r"[^@\s]+@[^@\s]+", "an address such as help@example.com", null=True)
    )


@dataclass(frozen=True, slots=True)
class Api:
    """What the OpenAPI document says of the service as a whole."""

    title: str = _setting(value_types.string(least=1), "Rowcast")
    version: str | None = _setting(value_types.string(least=1, null=True))  # null: that of Rowcast
    description: str | None = _setting(value_types.string(null=True))
    servers: tuple[str, ...] = _setting(value_types.ListOf(_server_url()), [])
    contact: Contact | None = field(default=None, metadata=_section(Contact))


@dataclass(frozen=True, slots=True)
class Log:
    """What the log has beside what the service reports about itself."""

    level: str = _setting(value_types.one_of(("debug", "info", "warning", "error")), "info")
    access: str = _setting(value_types.one_of(("off", "errors", "slow", "all")), "off")
    sql: str = _setting(value_types.one_of(("off", "slow", "all")), "off")
    slow_after: float = _setting(value_types.duration(), "100ms")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything of ``service.yaml``."""

    api: Api = field(default_factory=Api, metadata=_section(Api))
    server: Server = field(default_factory=Server, metadata=_section(Server))
    database: Database = field(default_factory=Database, metadata=_section(Database))
    auth: Auth = field(default_factory=Auth, metadata=_section(Auth))
    stream: Stream = field(default_factory=Stream, metadata=_section(Stream))
    throttle: Throttle = field(default_factory=Throttle, metadata=_section(Throttle))
    log: Log = field(default_factory=Log, metadata=_section(Log))


SETTINGS_SECTION: Final = _section_type(Settings)
OPTIONAL: Final[frozenset[Steps]] = frozenset({("database", "url"), ("database", "direct_url")})
"""Settings that are null if their references are not set."""


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
"""Environment variable → setting. Of two for one setting the later, longer one wins. An empty one counts as not set."""


def read(
    document: Document | None,
    directory: Path,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    problems: Problems,
    *,
    sections: Collection[str] | None = None,
) -> Settings:
    """The settings: those of the command line, else of the environment, else of the file, else the defaults.

    ``overrides`` maps a setting's dotted name, such as ``server.port``, to its value; ``None`` overrides nothing. A
    problem is noted under the variable or option that caused it, and the result is then the default settings.
    A setting whose secret is absent has its default; that is a problem if it is in one of the ``sections``, by default all.
    """
    merged = _merge(document or Document("service.yaml", None), environ, overrides)
    for path, message in merged.absent.items():
        if sections is None or path[0] in sections:
            problems.add(merged.location(path), message)
    try:
        settings: Settings = SETTINGS_SECTION.load({} if merged.data is None else merged.data)
    except ValidationError as error:
        problems.tree(merged, error.messages)
        return Settings()
    if settings.auth.jwt is not None and not lacks(merged, "auth", "jwt"):
        for key, message in _jwt_problems(settings.auth.jwt):
            problems.at(merged, ("auth", "jwt", key), message)
    if not lacks(merged, "database"):
        for setting, message in _database_problems(settings.database):
            problems.at(merged, ("database", *setting), message)
    migrations = Path(os.path.normpath(directory / settings.database.migrations))
    return replace(settings, database=replace(settings.database, migrations=migrations))


def lacks(document: Document | None, *path: str) -> bool:
    """Whether a value at a path of the file, or inside it, is absent."""
    return document is not None and any(each[: len(path)] == path[: len(each)] for each in document.absent)


def _merge(document: Document, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Document:
    """The document with the values from outside in their places."""
    outside = [(SourceLocation(name), path, environ[name]) for name, path in VARIABLES.items() if environ.get(name)]
    for name, value in overrides.items():
        if value is not None:
            path = tuple(name.split("."))
            assert path in VARIABLES.values(), name
            outside.append(
                (SourceLocation(f"--{path[-1] if path[0] == 'server' else '-'.join(path)}"), path, str(value))
            )
    data, values = copy.deepcopy(document.data), dict(document.values)
    unread, absent = set(document.unread), dict(document.absent)
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
            absent = {each: message for each, message in absent.items() if each[: len(path)] != path}
    return replace(document, data=data, values=values, unread=unread, absent=absent)


def _database_problems(database: Database) -> Iterator[tuple[Steps, str]]:
    """The setting and the message of each problem with the connections, and with the settings and roles of callers."""
    if database.direct_url is not None and database.url is None:
        yield ("direct_url",), "has no effect without url: requests use the embedded database"
    if database.replicas and database.url is None:
        yield ("replicas",), "have no effect without url: the embedded database has no replicas"
    for position, url in enumerate(database.replicas):
        if url == database.url or url in database.replicas[:position]:
            yield ("replicas", position), "is a URL that is there already: each replica has its own"
    if not REPLICA_LAG_SECONDS[0] <= database.replica_max_lag <= REPLICA_LAG_SECONDS[1]:
        yield ("replica_max_lag",), "must be from 1s to 1m"
    for name in database.session:
        if not re.fullmatch(_SETTING_NAME, name):
            yield ("session", name), "is not a setting of your own: its name needs a dot, such as app.user_id"
    if database.roles and database.role_claim is None:
        yield ("roles",), "has no effect without role_claim"


def _jwt_problems(jwt: Jwt) -> Iterator[tuple[str, str]]:
    """The setting and the message of each problem with the combination of keys and algorithms."""
    shared = [name in _SYMMETRIC for name in jwt.algorithms]
    public = jwt.secret is not None and jwt.secret.lstrip().startswith("-----BEGIN")
    if any(shared) and not all(shared):
        yield "algorithms", "HS algorithms take a secret and the others take public keys; use one kind"
    elif any(shared):
        if public or jwt.jwks is not None:
            yield "algorithms", f"HS algorithms do not take public keys; use some of {', '.join(_ASYMMETRIC)}"
        elif jwt.secret is None:
            yield "secret", f"is required for {', '.join(jwt.algorithms)}"
        elif len(jwt.secret.encode()) < SECRET_MIN_BYTES:
            yield "secret", f"must have at least {SECRET_MIN_BYTES} bytes"
    elif not public and jwt.jwks is None:
        yield "secret", f"must be a public key in PEM (or set jwks) for {', '.join(jwt.algorithms)}"
