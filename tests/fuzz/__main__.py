"""``make fuzz``: attack the service for some time; exit with 1 if anything was found."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from tests.conftest import ROOT
from tests.databases import EXTERNAL_URL, databases_of, temporary_server

from .campaign import Campaign


def seed_of_commit() -> int:
    """A seed that every run on one commit shares, so that such a run can be repeated."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return int(commit[:7], 16) if commit.strip() else secrets.randbits(28)


@click.command()
@click.option("--seconds", envvar="FUZZ_SECONDS", default=120.0, show_default=True, help="For how long.")
@click.option("--seed", envvar="FUZZ_SEED", type=int, help="Of everything left to chance.  [default: the commit]")
@click.option("--case", envvar="FUZZ_CASE", help="Make this one case, as a report names it.")
@click.option("--keep", type=click.Path(path_type=Path), help="A directory for the bytes of attacks with faults.")
def fuzz(seconds: float, seed: int | None, case: str | None, keep: Path | None) -> None:
    """Attack the demo and a configuration with everything, each in a process of its own."""
    seed = seed_of_commit() if seed is None else seed
    click.echo(f"fuzz: seed {seed}, {seconds:g} s")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rowcast-fuzz-")))
        url = EXTERNAL_URL or stack.enter_context(temporary_server({})).url
        databases = stack.enter_context(databases_of(url))

        async def run() -> Campaign:
            async with Campaign.on(databases, directory, click.echo) as campaign:
                await (campaign.run(seconds, seed) if case is None else campaign.make(case))
                return campaign

        campaign = asyncio.run(run())
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for name, data in campaign.requests.items():
            (keep / f"{name.replace(':', '-')}.http").write_bytes(data)
    tried = ", ".join(f"{count} {what}" for what, count in campaign.tried.items())
    click.echo(f"fuzz: {tried}, {len(campaign.found)} kinds of faults")
    sys.exit(1 if campaign.found else 0)


if __name__ == "__main__":
    fuzz()
