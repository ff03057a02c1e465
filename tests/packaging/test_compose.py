"""docker-compose.yml without an engine; ``tests/compose/run`` runs it."""

from __future__ import annotations

from urllib.parse import urlsplit

from ruamel.yaml import YAML

from tests.conftest import ROOT


def test_service_connects_as_a_role_that_is_no_superuser() -> None:
    """The role that the database's initialization creates, whose password no other container reads."""
    services = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())["services"]
    role = urlsplit(services["rowcast"]["environment"]["DATABASE_URL"]).username
    (script,) = [volume for volume in services["db"]["volumes"] if "/docker-entrypoint-initdb.d/" in volume]
    statements = (ROOT / script.partition(":")[0]).read_text()
    assert f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION" in statements
    assert "POSTGRES_USER" not in services["db"]["environment"]
    assert role not in ("postgres", "rowcast")
