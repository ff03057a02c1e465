"""`rowcast adopt` writes unique rules and checks as far as the config has a form for them."""

from __future__ import annotations

import doctest

from rowcast.adoption import rules
from rowcast.configuration.load import load
from rowcast.testing.client import running

from .conftest import Make

ACCOUNTS = """
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TABLE accounts (
    id serial PRIMARY KEY, email varchar(80) NOT NULL, "Nick" text, tenant integer NOT NULL, gone timestamptz,
    low integer NOT NULL, high integer NOT NULL, mood text, during int4range, hash text,
    CONSTRAINT hi CHECK (low < high), CONSTRAINT positive CHECK (low > 0), CHECK (mood <> ')' OR mood = '${env:x}'),
    CONSTRAINT not_here EXCLUDE USING gist (tenant WITH =, during WITH &&), CHECK (num_nulls(accounts.*) < 9)
);
ALTER TABLE accounts ADD CONSTRAINT later CHECK (high < 1000) NOT VALID;
CREATE UNIQUE INDEX by_mail ON accounts (lower(email)) WHERE gone IS NULL;
CREATE UNIQUE INDEX by_nick ON accounts (tenant, lower("Nick"));
CREATE UNIQUE INDEX once ON accounts (mood, gone) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX strange ON accounts (upper(email));
CREATE UNIQUE INDEX other_order ON accounts (low DESC, high) WHERE high > 5;
CREATE UNIQUE INDEX plain ON accounts (tenant, hash);
"""


def test_examples() -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(rules).failed == 0


async def test_rules_of_a_table_are_written(project: Make) -> None:
    """`check` and `plan` accept the file, and the service enforces and names the rules as its own."""
    shop = await project(ACCOUNTS)
    assert shop.run("adopt")[0] == 0
    text = shop.resource("accounts")
    unique, _, checks = text[text.index("unique:") : text.index("viewset:")].partition("check:\n")
    assert unique.splitlines()[1:] == [
        "  - [tenant, hash]",
        '  - {fields: [email], lower: [email], where: gone IS NULL}',
        "  - {fields: [tenant, nick], lower: [nick]}",
        "  - {fields: [mood, gone], nulls: equal}",
    ]  # fmt: skip
    assert checks.splitlines() == [
        '  - {expr: "low < high"}',
        '  - {expr: "low > 0", field: low}',
        "# not declared, but enforced by the database: UNIQUE USING btree (low DESC, high) WHERE (high > 5)",
        "# not declared, but enforced by the database: UNIQUE USING btree (upper((email)::text))",
        "# not declared, but enforced by the database: EXCLUDE USING gist (tenant WITH =, during WITH &&)",
        "# not declared, but enforced by the database: CHECK ((num_nulls(accounts.*) < 9))",
        "# not declared, but enforced by the database: CHECK (((mood <> ')'::text) OR (mood = '${env:x}'::text)))",
        "# not declared, but enforced by the database: CHECK ((high < 1000)) NOT VALID",
    ]
    in_line = (0, "-- The database is in line with the config.")
    assert shop.run("check")[0] == 0
    assert shop.run("migrate") == shop.run("plan") == in_line
    assert shop.run("adopt", "--check") == (0, "The config has every table and column.")
    (shop.directory / "config" / "service.yaml").write_text("auth: {default_permission_classes: [AllowAny]}")
    path = shop.directory / "config" / "resources" / "accounts.yaml"
    path.write_text(text.replace("[IsAdminUser]", "[AllowAny]"))
    row: dict[str, object] = {
        "email": "a@example.org",
        "nick": "Ann",
        "tenant": 1,
        "low": 1,
        "high": 2,
        "hash": "x",
        "mood": "b",
    }
    async with running(load(shop.directory / "config", environ={}), shop.url) as client:
        assert (await client.post("/accounts/", json=row)).status == 201
        wrong: list[tuple[dict[str, object], int, set[str]]] = [
            ({"email": "A@example.org", "tenant": 2}, 409, {"email", "gone"}),  # the columns of the owner's index
            ({"email": "b@example.org", "nick": "ANN", "hash": "y"}, 409, {"tenant", "nick"}),
            ({"email": "c@example.org", "tenant": 3, "mood": "b"}, 409, {"mood", "gone"}),
            ({"email": "d@example.org", "tenant": 4, "mood": "c", "low": 0}, 400, {"low"}),
            ({"email": "e@example.org", "tenant": 5, "mood": "d", "low": 9}, 400, {"non_field_errors"}),
        ]
        for changes, status, names in wrong:
            response = await client.post("/accounts/", json=row | changes)
            assert (response.status, set((await response.json())["errors"])) == (status, names), changes
