"""Summaries of statements: few different ones, with the table that a statement is about."""

from __future__ import annotations

import pytest

from rowcast.database.summaries import Summaries


@pytest.mark.parametrize(
    ("sql", "summary"),
    [
        ("SELECT 1", "SELECT"),
        ("select title from books", "SELECT books"),
        ("SELECT (SELECT count(*) FROM authors) AS n, 'FROM x' FROM books JOIN authors ON true", "SELECT books"),
        ("SELECT x FROM (SELECT a, (SELECT 1 FROM authors) FROM ONLY books WHERE (true)) AS p", "SELECT books"),
        ("WITH _page AS (SELECT id FROM books LIMIT 1) SELECT * FROM _page", "SELECT books"),
        ("SELECT extract(epoch FROM at), a IS DISTINCT FROM b FROM books FOR UPDATE", "SELECT books"),
        ('SELECT 1 FROM "My ""Books"', "SELECT"),
        ('SELECT 1 FROM "shop"."orders"', "SELECT shop.orders"),
        ("WITH _new AS \n(INSERT INTO books (title) VALUES ($1) RETURNING id) SELECT * FROM _new", "INSERT books"),
        ("INSERT INTO books (title) VALUES ($1) ON CONFLICT (title) DO UPDATE SET title = $1", "INSERT books"),
        ("WITH _new AS (UPDATE ONLY books SET title = $1 RETURNING id) SELECT * FROM _new", "UPDATE books"),
        ("DELETE FROM books WHERE id = $1", "DELETE books"),
        ("SELECT user_id FROM rowcast.token WHERE hash = $1", "SELECT rowcast.token"),
        ("SELECT 1 FROM secret_of_somebody_4711", "SELECT"),
        ("COMMIT", "COMMIT"),
        ("EXPLODE everything", "other"),
        ("SELECT 1 FROM", "SELECT"),
        ("SELECT 1 FROM (", "SELECT"),
        ("UPDATE", "UPDATE"),
        ("", "other"),
    ],
)
def test_a_statement_has_a_verb_and_a_known_table(sql: str, summary: str) -> None:
    """Whatever a config's own Python sends, other names are left out."""
    summaries = Summaries(["books", "authors", "shop.orders"])
    assert summaries.of(sql) == summary
    assert summaries.of(sql) == summary
