"""Unique rules and checks of a table, as far as a config has a form for them, and remarks about the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rowcast.adoption.catalog import Check, Index, Table
from rowcast.adoption.columns import FieldDraft
from rowcast.configuration.yaml import REFERENCE
from rowcast.resources.fields import Kind
from rowcast.resources.sql import quote_identifier


def unique_options(table: Table, fields: Mapping[str, FieldDraft]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules of ``unique`` for indexes without case, with a condition or with equal nulls; remarks about others.

    ``fields`` has the fields by column.
    """
    rules: list[dict[str, Any]] = []
    remarks: list[str] = []
    for index in table.indexes:
        if not index.unique or (index.plain and (index.columns in table.unique or {*index.columns} == {*table.key})):
            continue
        rule = _unique_rule(index, fields)
        if rule is None:
            remarks.append(_remark(f"UNIQUE {index.definition}"))
        elif rule not in rules:
            rules.append(rule)
    return rules, remarks


def _unique_rule(index: Index, fields: Mapping[str, FieldDraft]) -> dict[str, Any] | None:
    """The rule that an index enforces; ``None`` if the config has no form for it."""
    named = [_term(term, fields) for term in index.terms]
    terms = [each for each in named if each is not None]
    if len(terms) < len(named) or len({column for column, _ in terms}) < len(terms) or not _is_literal(index.where):
        return None
    nulls = " NULLS NOT DISTINCT" if index.nulls_equal else ""
    where = f" WHERE {index.where}" if index.where else ""
    if index.definition != f"USING btree ({', '.join(index.terms)}){nulls}{where}":
        return None  # it has another order, other operators or a collation of its own, or more columns
    rule: dict[str, Any] = {"fields": [fields[column].name for column, _ in terms]}
    if lower := [fields[column].name for column, lowered in terms if lowered]:
        rule["lower"] = lower
    if index.nulls_equal:
        rule["nulls"] = "equal"
    if index.where:
        rule["where"] = _without_parentheses(index.where)
    return rule


def _term(term: str, fields: Mapping[str, FieldDraft]) -> tuple[str, bool] | None:
    """The column of a term of an index that is a column or ``lower`` of one, and whether it is the latter."""
    for column, each in fields.items():
        quoted = quote_identifier(column)
        if each.kind is Kind.RELATIONS:
            continue
        if term in (column, quoted):
            return column, False
        forms = {f"lower({written}{cast})" for written in (column, quoted) for cast in ("", "::text")}
        forms |= {f"lower(({written})::text)" for written in (column, quoted)}
        if each.kind is Kind.TEXT and term in forms:
            return column, True
    return None


def check_options(table: Table, fields: Mapping[str, FieldDraft]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules of ``check``, each with its field if it is about one, and remarks about the others and about exclusions."""
    rules: list[dict[str, Any]] = []
    remarks = [_remark(each) for each in table.exclusions]
    for check in table.checks:
        if not (_is_whole(check, fields) and _is_literal(check.expr)):
            remarks.append(_remark(check.definition))
            continue
        rule: dict[str, Any] = {"expr": _without_parentheses(check.expr)}
        if len(check.columns) == 1:
            rule["field"] = fields[check.columns[0]].name
        if rule not in rules:
            rules.append(rule)
    return rules, remarks


def _remark(definition: str) -> str:
    return f"not declared, but enforced by the database: {definition}"


def _is_whole(check: Check, fields: Mapping[str, FieldDraft]) -> bool:
    """Whether a check is about columns that are fields alone, and holds for all rows."""
    described = bool(check.columns) and all(column in fields for column in check.columns)
    return described and check.definition == f"CHECK ({check.expr})"


def _is_literal(expression: str | None) -> bool:
    """Whether the text of an expression is itself in a config."""
    return expression is None or REFERENCE.search(expression) is None


def _without_parentheses(expression: str) -> str:
    """An expression without those around all of it.

    >>> _without_parentheses("(a > 0)"), _without_parentheses("(a) OR (b)"), _without_parentheses("(x <> ')'::text)")
    ('a > 0', '(a) OR (b)', "x <> ')'::text")
    """
    depth, quote = 0, ""
    for place, character in enumerate(expression):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character == "(") - (character == ")")
        if depth == 0 and place < len(expression) - 1:
            return expression
    return expression[1:-1]
