"""The URL of a database as hosts hand it out: which parameters it may have, and which of these the driver gets.

libpq has parameters that asyncpg does not know. asyncpg would send them to PostgreSQL as settings of the session, and
PostgreSQL refuses the connection.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from rowcast.errors import did_you_mean

_OF_THE_DRIVER: Final = frozenset(
    [
        "host",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
    ]
)
_LEFT_OUT: Final = frozenset(
    [
        "channel_binding",
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "gssencmode",
        "gssdelegation",
        "sslcompression",
        "sslsni",
        "sslcertmode",
        "load_balance_hosts",
        "fallback_application_name",
    ]
)
"""Parameters of libpq that the driver does not know, and that a connection works without."""
_OF_THE_SESSION: Final = frozenset(
    [
        "application_name",
        "options",
        "client_encoding",
        "client_min_messages",
        "search_path",
        "role",
        "row_security",
        "timezone",
        "datestyle",
        "intervalstyle",
        "extra_float_digits",
        "bytea_output",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "statement_timeout",
        "lock_timeout",
        "transaction_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "default_transaction_deferrable",
        "default_table_access_method",
        "default_tablespace",
        "temp_tablespaces",
        "default_text_search_config",
        "synchronous_commit",
        "session_replication_role",
        "check_function_bodies",
        "xmloption",
        "xmlbinary",
        "work_mem",
        "maintenance_work_mem",
        "temp_buffers",
        "hash_mem_multiplier",
        "effective_cache_size",
        "random_page_cost",
        "seq_page_cost",
        "jit",
        "plan_cache_mode",
        "max_parallel_workers_per_gather",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "log_statement",
        "log_min_duration_statement",
    ]
)
"""Settings of PostgreSQL that a session may have. ``options`` takes every other one (``options=-c geqo=off``)."""
_PLANNER: Final = "enable_"  # how the names of the planner's switches begin
_FROM_USERS: Final = (
    "write %23 for #, %2F for /, %3F for ?, %40 for @, %5B for [ and %25 for % in a user's name or a password"
)


def check_url(url: str) -> str:
    """The URL of a database; ``ValueError`` says what is wrong with it, without a secret."""
    parts = _split(url)
    for name, value in _parameters(parts):
        if name == "connect_timeout" and not (value.isascii() and value.isdigit()):
            raise ValueError("has a connect_timeout that is not a number of seconds")
        known = _OF_THE_DRIVER | _LEFT_OUT | _OF_THE_SESSION
        if name.lower() not in known and "." not in name and not name.startswith(_PLANNER):
            near = did_you_mean(name, sorted(known))
            raise ValueError(
                f"has the parameter {name!r}, which PostgreSQL does not have; "
                + (
                    near
                    if near.startswith("did")
                    else "valid are those of libpq, and a setting in options=-c name=value"
                )
            )
    return url


def driver_url(url: str) -> tuple[str, float | None]:
    """The URL for the driver, and the ``connect_timeout`` in seconds; ``None`` if the URL has none, or 0."""
    parts = urlsplit(url)
    if not parts.query:
        return url, None
    parameters = _parameters(parts)
    kept = [(name, value) for name, value in parameters if name not in _LEFT_OUT]
    seconds = float(dict(parameters).get("connect_timeout", 0))
    return parts._replace(query=urlencode(kept)).geturl(), seconds or None


def _split(url: str) -> SplitResult:
    """The parts of a URL; ``ValueError`` if a character that separates parts is inside one of them."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is not part of an address
        raise ValueError(f"is not a URL; {_FROM_USERS}") from None
    credentials, at, hosts = parts.netloc.rpartition("@")
    misplaced = "@" in credentials or (not at and "@" in parts.path + parts.query.partition("=")[0])
    if misplaced or "#" in url:
        raise ValueError(f"has a character with a meaning in a place where it has none; {_FROM_USERS}")
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")
        if port[1] and port[2] and not (port[2].isascii() and port[2].isdigit()):
            raise ValueError(f"has a port that is not a number; {_FROM_USERS}")
    return parts


def _parameters(parts: SplitResult) -> list[tuple[str, str]]:
    try:
        return parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"has parameters that are not name=value; {_FROM_USERS}") from None
