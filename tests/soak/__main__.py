"""``make soak``: everything on, and something killed every minute; exit with 1 if anything was lost, doubled or leaked."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from random import SystemRandom

import click

from .campaign import Campaign, campaign
from .stage import missing


@click.command()
@click.option("--seconds", envvar="SOAK_SECONDS", default=1800.0, show_default=True, help="For how long.")
@click.option("--every", envvar="SOAK_EVERY", default=60.0, show_default=True, help="Seconds between two kills.")
@click.option("--seed", envvar="SOAK_SEED", type=int, help="Of everything left to chance.  [default: a new one]")
@click.option("--keep", envvar="SOAK_KEEP", type=click.Path(path_type=Path), help="A directory for the logs.")
def soak(seconds: float, every: float, seed: int | None, keep: Path | None) -> None:
    """Run two services behind HAProxy with pgbouncer, a standby and NATS, and print a table in Markdown."""
    lacking = missing()
    if lacking is not None:
        sys.exit(lacking)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all processes in order, as Ctrl-C does
    seed = SystemRandom().randrange(1, 1 << 30) if seed is None else seed
    click.echo(f"A soak of {seconds / 60:g} minutes, `SOAK_SEED={seed}`:\n")

    async def run() -> Campaign:
        async with campaign(seed, seconds, every, click.echo, keep) as running:
            await running.run()
            return running

    done = asyncio.run(run())
    seen = done.seen
    click.echo(
        f"\n{seen['writes over HTTP']:,} writes over HTTP, {seen['writes by SQL']:,} by SQL, {seen['events']:,} events,"
        f" {seen['reconnections']:,} reconnections; {len(done.faults) or 'no'} faults."
    )
    for fault in done.faults:
        click.echo(f"- FAULT: {fault}")
    sys.exit(1 if done.faults else 0)


if __name__ == "__main__":
    soak()
