"""The values of the schema engine: one step, a plan of steps, and the result of a migration."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection"
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
Step: TypeAlias = Callable[[Connection], Awaitable[None]]

VERSION_TABLE: Final = "alembic_version"
_RULE_DROP: Final = re.compile(r' DROP CONSTRAINT |^DROP INDEX (?:[^ ]+\.)?"?uq_')


@dataclass(frozen=True, slots=True)
class LogSteps:
    """What a migration does for the change log, which is another package's.

    ``install`` creates the service's own schema, which defaults of columns call. ``suspend`` runs before revisions, so that
    triggers bear what these do to their tables, and ``renew`` creates the triggers of the declared tables. ``reset`` lets
    readers of the log load some resources again.
    """

    install: Step
    suspend: Step
    renew: Step
    reset: Callable[[Connection, Sequence[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DdlStep:
    """One step from database to config: the DDL as it runs.

    ``needed`` is false for a step that the service can work without, such as a comment, or a limit that the database
    does not check yet. A ``problem`` is a sentence instead: no DDL brings the database in line.
    """

    sql: str
    additive: bool
    needed: bool
    problem: bool = False

    @property
    def is_stale_rule(self) -> bool:
        """Whether it drops a rule that the config no longer has, and that the database goes on to enforce."""
        return not self.needed and bool(_RULE_DROP.search(self.sql))

    def __str__(self) -> str:
        if self.problem:
            return f"-- {self.sql}"
        return self.sql if self.additive else "\n".join(f"-- destructive: {line}" for line in self.sql.splitlines())


def next_commands(revisions: Sequence[str], statements: Sequence[DdlStep]) -> str:
    """What to do about unapplied revisions and differences, as the end of a sentence; empty if a command does not help."""
    steps = [step for step in statements if not step.problem]
    advice = []
    if any(not step.additive for step in steps):
        advice.append("write a revision with `rowcast makemigrations -m 'what it does'`")
    if revisions or steps:
        sync = " --sync" if any(step.additive for step in steps) else ""
        advice.append(f"run `rowcast migrate{sync}`")
    return " and ".join(advice)


@dataclass(frozen=True, slots=True)
class Plan:
    """All differences between database and config, in the order in which they run, and the unapplied revisions.

    ``notes`` are sentences about what is in the database and not in the config.
    """

    statements: list[DdlStep] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def additive(self) -> list[DdlStep]:
        """The steps that ``rowcast migrate --sync`` runs."""
        return [statement for statement in self.statements if statement.additive]

    @property
    def destructive(self) -> list[DdlStep]:
        """The steps that only a written revision runs."""
        return [statement for statement in self.statements if not (statement.additive or statement.problem)]

    @property
    def pending(self) -> list[str]:
        """What a service needs before it can run on this database: unapplied revisions, and DDL."""
        revisions = [f"revision not applied yet: {name}" for name in self.revisions]
        return revisions + [str(statement) for statement in self.statements if statement.needed]

    @property
    def advice(self) -> str:
        """The commands that run what a service needs."""
        return next_commands(self.revisions, [statement for statement in self.statements if statement.needed])

    def __str__(self) -> str:
        """The output of ``rowcast plan``."""
        lines = [f"-- revision not applied yet: {name}" for name in self.revisions]
        if not self.statements:
            lines.append("-- The database is in line with the config.")
        lines += map(str, self.statements)
        if self.destructive:
            lines.append("-- Destructive steps are only run by a revision: rowcast makemigrations -m 'what it does'")
        if self.notes:
            lines.append("\n".join(f"-- {note}" for note in self.notes))
        return "\n\n".join(lines)


@dataclass(frozen=True, slots=True)
class Revision:
    """A written revision: its file, and sentences about what it drops."""

    path: Path
    drops: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Migration:
    """The result of ``migrate``: the revisions and statements that ran, and the statements that are left to run."""

    revisions: list[str] = field(default_factory=list)
    statements: list[DdlStep] = field(default_factory=list)
    left: list[DdlStep] = field(default_factory=list)

    @property
    def pending(self) -> list[str]:
        """The statements that a service still needs before it can run, as ``pending`` would return them."""
        return [str(statement) for statement in self.left if statement.needed]

    @property
    def advice(self) -> str:
        """The commands that run what is left."""
        return next_commands([], self.left)
