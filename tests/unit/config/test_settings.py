"""service.yaml, the environment and the command line as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcast.configuration.settings import VARIABLES, Jwt, Rate, Settings

from .conftest import Load, Problems

TASKS = {"tasks.yaml": "fields: {title: {type: string}}"}

SAMPLE = """
server:   {host: 127.0.0.1, port: 8000, workers: 1, cors_origins: [], trusted_proxies: 0, body_limit: 1MiB, shutdown_grace: 10s}
database: {url: "${env:DATABASE_URL}", pool_size: 10, statement_timeout: 5s}      # no url: the embedded database
auth:
  default_authentication_classes: [TokenAuthentication, JWTAuthentication]
  default_permission_classes: [IsAuthenticatedOrReadOnly]
  jwt: {secret: "${file:%s}", algorithms: [HS256], audience: rowcast, issuer: null, jwks: null, staff_claim: is_staff}
stream:   {retention: 24h, heartbeat: 15s, buffer: 256KiB, wakeup: notify}          # notify | poll
throttle: {classes: [], rates: {}, storage: memory}
"""


def test_the_documented_sample_is_the_defaults(read: Load, tmp_path: Path) -> None:
    """Except for the one key that has no default according to the sample."""
    (tmp_path / "jwt").write_text("s" * 32 + "\n")
    sample = read({"service.yaml": SAMPLE % (tmp_path / "jwt"), **TASKS}).settings
    assert sample.auth.jwt == Jwt(secret="s" * 32)
    (tmp_path / "config/service.yaml").unlink()
    defaults = read(TASKS).settings
    assert defaults.auth.jwt is None
    assert (sample.server, sample.database, sample.stream, sample.throttle) == (
        defaults.server, defaults.database, defaults.stream, defaults.throttle,
    )  # fmt: skip


def test_sizes_are_bytes_and_durations_seconds(read: Load) -> None:
    """In whatever unit they are written."""
    text = "server: {body_limit: 2MB, shutdown_grace: 250ms}\nstream: {retention: 30d, heartbeat: 1.5m, buffer: 64KiB}"
    settings = read({"service.yaml": text, **TASKS}).settings
    assert (settings.server.body_limit, settings.server.shutdown_grace) == (2_000_000, 0.25)
    assert (settings.stream.retention, settings.stream.heartbeat) == (30 * 86400, 90)
    assert settings.stream.buffer == 65536


def test_a_section_without_keys_is_its_defaults(read: Load) -> None:
    """This happens if all of its lines are commented out."""
    assert read({"service.yaml": "server:\nthrottle:\n", **TASKS}).settings.server == Settings().server


def test_an_empty_service_file_is_the_defaults(read: Load) -> None:
    """An empty file does not have to be deleted."""
    assert read({"service.yaml": "# nothing\n", **TASKS}).settings.stream == Settings().stream


def test_command_line_beats_environment_beats_file(read: Load) -> None:
    """For each setting separately."""
    files = {"service.yaml": "server: {host: a, port: 1, workers: 1}", **TASKS}
    environ = {"ROWCAST_SERVER_PORT": "2", "ROWCAST_WORKERS": "2"}
    server = read(files, environ, server__workers=3, server__host=None).settings.server
    assert (server.host, server.port, server.workers) == ("a", 2, 3)


def test_every_setting_has_an_environment_variable() -> None:
    """Some have a short name in addition to the one made of section and key."""
    assert VARIABLES["ROWCAST_STREAM_RETENTION"] == ("stream", "retention")
    assert VARIABLES["ROWCAST_AUTH_JWT_SECRET"] == ("auth", "jwt", "secret")
    for name in ("HOST", "PORT", "WORKERS", "SECRET_KEY"):
        assert VARIABLES[f"ROWCAST_{name}"] == VARIABLES[f"ROWCAST_SERVER_{name}"]
    assert VARIABLES["DATABASE_URL"] == VARIABLES["ROWCAST_DATABASE_URL"]
    assert VARIABLES["ROWCAST_DATA"] == VARIABLES["ROWCAST_DATABASE_DATA"]


def test_variables_are_read_as_the_type_of_their_setting(read: Load) -> None:
    """Strings that look like numbers stay strings; lists and mappings are written with commas."""
    settings = read(
        TASKS,
        {
            "DATABASE_URL": "postgresql://short", "ROWCAST_DATABASE_URL": "postgresql://long",
            "ROWCAST_SECRET_KEY": "1" * 32, "ROWCAST_SERVER_CORS_ORIGINS": "https://a.example, https://b.example",
            "ROWCAST_THROTTLE_RATES": "anon=60/min,user=5/s", "ROWCAST_AUTH_JWT_SECRET": "é" * 16,
            "ROWCAST_STREAM_WAKEUP": "poll", "ROWCAST_DATA": "/data", "ROWCAST_PORT": "",
            "ROWCAST_AUTH_DEFAULT_PERMISSION_CLASSES": "IsAuthenticated",
        },
    ).settings  # fmt: skip
    assert settings.database.url == "postgresql://long"
    assert settings.server.secret_key == "1" * 32
    assert settings.server.cors_origins == ("https://a.example", "https://b.example")
    assert settings.throttle.rates == {"anon": Rate(60, 60), "user": Rate(5, 1)}
    assert settings.auth.jwt == Jwt(secret="é" * 16)
    assert settings.stream.wakeup == "poll"
    assert settings.database.data == Path("/data")
    assert settings.server.port == 8000
    assert settings.auth.default_permission_classes == (("class", "IsAuthenticated", ()),)


def test_a_reference_is_read_as_the_type_of_its_setting(read: Load) -> None:
    """``${env:PORT}`` can be a port; a quoted number cannot."""
    files = {"service.yaml": "server: {port: '${env:PORT}', workers: '${env:N:-4}'}", **TASKS}
    server = read(files, {"PORT": "81"}).settings.server
    assert (server.port, server.workers) == (81, 4)


def test_migrations_are_beside_the_config_directory(read: Load, tmp_path: Path) -> None:
    """Any relative path starts at the config directory."""
    assert read(TASKS).settings.database.migrations == tmp_path / "migrations"
    files = {"service.yaml": "database: {migrations: revisions}", **TASKS}
    assert read(files).settings.database.migrations == tmp_path / "config/revisions"


def test_secrets_are_not_shown_when_settings_are_printed(read: Load) -> None:
    """Otherwise they would get into logs."""
    environ = {"DATABASE_URL": "postgresql://u:hidden@h/d", "ROWCAST_SECRET_KEY": "hidden" * 6}
    environ["ROWCAST_AUTH_JWT_SECRET"] = "hidden" * 6
    assert "hidden" not in repr(read(TASKS, environ).settings)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("servr: {}", "1:1: unknown key 'servr'; did you mean server?"),
        ("server: {prot: 1}", "1:10: unknown key 'prot'; did you mean port?"),
        ("server: []", "1:9: server: must be a mapping"),
        ("- a", "1:1: must be a mapping"),
        ("server: {port: '80'}", "1:16: port: must be an integer"),
        ("server: {port: yes}", "1:16: port: must be an integer"),
        ("server: {port: true}", "1:16: port: must be an integer"),
        ("server: {port:}", "1:10: unknown key 'port:'; did you mean port?"),
        ("server:\n  port:", "2:3: port: may not be empty"),
        ("server: {port: 70000}", "1:16: port: must be at most 65535"),
        ("server: {workers: 0}", "1:19: workers: must be at least 1"),
        ("server: {admin: '9100'}", "1:17: admin: must be a host and a port such as 127.0.0.1:9100"),
        ("server: {admin: 'a:70000'}", "1:17: admin: must have a port of at most 65535"),
        ("api: {servers: ['https://a:99999']}", "1:17: servers[0]: must be a URL such as https://api.example.com, or a path such as /, "
         "without a query"),
        ("api: {servers: ['']}", "1:17: servers[0]: must have at least 1 characters"),
        ("api: {servers: ['/?x']}", "1:17: servers[0]: must be a URL such as https://api.example.com, or a path such as /, "
         "without a query"),
        ("server: {host: 5}", "1:16: host: must be a string; quote it"),
        ("server: {body_limit: 1}", "1:22: body_limit: must be a size such as 512B, 256KiB, 1MiB or 2GB"),
        ("server: {shutdown_grace: 10}", "1:26: shutdown_grace: must be a duration such as 250ms, 10s, 5m, 24h or 30d"),
        ("server: {cors_origins: '*'}", "1:24: cors_origins: must be a list"),
        ("server: {cors_origins: [x]}", "1:25: cors_origins[0]: must be * or an origin such as "
         "https://app.example.com, without a path"),
        ("server: {secret_key: abc}", "1:22: secret_key: must have at least 32 characters"),
        ("database: {url: 'mysql://x'}", "1:17: url: must be a URL such as postgresql://user:password@host/name"),
        ("stream: {wakeup: notfy}", "1:18: wakeup: 'notfy' is unknown; did you mean notify?"),
        ("stream: {relay: 'http://hunter2@x'}", "1:17: relay: must be a URL such as nats://user:password@host:4222 or "
         "redis://:password@host:6379"),
        ("stream: {relay: 'nats://:hunter2@'}", "1:17: relay: must be a URL such as nats://user:password@host:4222 or "
         "redis://:password@host:6379"),
        ("stream: {relay: 'redis://x:hunter2'}", "1:17: relay: must be a URL such as nats://user:password@host:4222 or "
         "redis://:password@host:6379"),
        ("stream: {relay: 'nats://a:4222,,b'}", "1:17: relay: must be a URL such as nats://user:password@host:4222 or "
         "redis://:password@host:6379"),
        ("stream: {relay: 'redis://a,b'}",
         "1:17: relay: may have several hosts only as nats://, tls:// or redis+sentinel://"),
        ("stream: {relay: 'redis://a/main'}",
         "1:17: relay: may have nothing but the number of a database after its host"),
        ("stream: {relay: 'redis+sentinel://a,b'}",
         "1:17: relay: needs the name of the server after the sentinels, as in redis+sentinel://host:26379/mymaster"),
        ("throttle: {rates: {anon: 60}}", "1:26: anon: must be a string; quote it"),
        ("throttle: {rates: {anon: 60/year}}",
         "1:26: anon: must be a rate such as 60/min, 10/second, 600/hour or 5000/day"),
        ("throttle: {storage: disk}", "1:21: storage: must be memory or a URL such as redis://host:6379/0"),
        ("auth: {default_permission_classes: ['A &']}",
         "1:37: default_permission_classes[0]: no permission can be read at character 4 (the end); "
         "write for example IsAdminUser | (IsAuthenticated & ~viewsets:IsBlocked)"),
        ("auth: {jwt: {}}", "1:8: secret: is required for HS256"),
        ("auth: {jwt: {secret: short}}", "1:22: secret: must have at least 32 bytes"),
        ("auth: {jwt: {algorithms: [none]}}",
         "1:27: algorithms[0]: 'none' is unknown; valid here: HS256, HS384, HS512, RS256, RS384, "
         "RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"),
        ("auth: {jwt: {algorithms: []}}", "1:26: algorithms: may not be empty"),
        ("auth: {jwt: {algorithms: [HS256, RS256]}}",
         "1:26: algorithms: HS algorithms take a secret and the others take public keys; use one kind"),
        ("auth: {jwt: {algorithms: [RS256], secret: abc}}",
         "1:43: secret: must be a public key in PEM (or set jwks) for RS256"),
        ("auth: {jwt: {secret: '-----BEGIN PUBLIC KEY-----'}}", "1:8: algorithms: HS algorithms do not take "
         "public keys; use some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_reported_with_its_place(problems: Problems, text: str, problem: str) -> None:
    """The message has file, line, column, and the valid values."""
    assert problems({"service.yaml": text, **TASKS}) == [f"service.yaml:{problem}"]


def test_public_keys_need_no_secret(read: Load) -> None:
    """A JWKS or a PEM is enough for the asymmetric algorithms."""
    for jwt in ("{algorithms: [ES256], jwks: 'https://a/jwks'}", "{algorithms: [EdDSA], secret: '-----BEGIN X-----'}"):
        assert read({"service.yaml": f"auth: {{jwt: {jwt}}}", **TASKS}).settings.auth.jwt is not None


def test_problems_from_outside_are_reported_under_their_names(problems: Problems) -> None:
    """In the same run as the problems of files."""
    environ = {"ROWCAST_WORKERS": "0", "ROWCAST_STREAM_BUFFER": "big", "ROWCAST_SECRET_KEY": "abc"}
    assert problems({"service.yaml": "server: {hots: a}", **TASKS}, environ, server__port="x") == [
        "--port: port: must be an integer",
        "ROWCAST_SECRET_KEY: secret_key: must have at least 32 characters",
        "ROWCAST_STREAM_BUFFER: buffer: must be a size such as 512B, 256KiB, 1MiB or 2GB",
        "ROWCAST_WORKERS: workers: must be at least 1",
        "service.yaml:1:10: unknown key 'hots'; did you mean host?",
    ]


def test_a_secret_that_is_not_set_is_reported_once(problems: Problems) -> None:
    """It is not also reported as too short."""
    assert problems({"service.yaml": "auth: {jwt: {secret: '${env:JWT}'}}", **TASKS}) == [
        "service.yaml:1:22: the environment variable JWT is not set"
    ]


def test_no_message_contains_a_secret(problems: Problems) -> None:
    """It contains only the place and the valid form."""
    environ = {"DATABASE_URL": "hunter2", "ROWCAST_SECRET_KEY": "hunter2", "ROWCAST_AUTH_JWT_SECRET": "hunter2"}
    assert "hunter2" not in "".join(problems(TASKS, environ))


def test_two_service_files_are_a_problem(problems: Problems) -> None:
    """None of them takes precedence silently."""
    assert problems({"service.yaml": "", "service.json": "{}", **TASKS}) == [
        "service.yaml:1:1: service.json exists as well; keep one of them"
    ]
