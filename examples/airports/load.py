"""Load the airports of the `vega-datasets` package, unchanged.

python examples/airports/load.py http://127.0.0.1:8000     one POST per row, into /airports/
python examples/airports/load.py postgresql://user@host/name    one COPY, into the table imports
"""

from __future__ import annotations

import asyncio
import csv
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

COLUMNS = ("iata", "name", "city", "state", "country", "latitude", "longitude")
AT_ONCE = 16  # requests in flight


def path() -> Path:
    """The file, found without importing the package, which would load pandas."""
    spec = find_spec("vega_datasets")
    if spec is None or spec.origin is None:
        sys.exit("vega-datasets is not installed: pip install vega-datasets")
    return Path(spec.origin).parent / "_data" / "airports.csv"


def rows() -> list[dict[str, Any]]:
    """Each row as a request body: strings unchanged, ``NA`` included, and coordinates as numbers."""
    with path().open(newline="", encoding="utf-8") as file:
        return [
            {**row, "latitude": float(row["latitude"]), "longitude": float(row["longitude"])}
            for row in csv.DictReader(file)
        ]


async def post(session: aiohttp.ClientSession, url: str) -> None:
    """Create every row with its own request, ``AT_ONCE`` at a time."""
    waiting = iter(rows())

    async def work() -> None:
        for row in waiting:
            async with session.post(url, json=row) as response:
                if response.status != 201:
                    raise RuntimeError(f"{row['iata']}: {response.status} {await response.text()}")

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def copy(connection: asyncpg.Connection) -> None:
    """Send the file to PostgreSQL, which loads it in one transaction."""
    await connection.copy_to_table("imports", source=path(), columns=COLUMNS, format="csv", header=True)


async def main(url: str) -> None:
    if url.startswith("http"):
        async with aiohttp.ClientSession() as session:
            await post(session, f"{url.rstrip('/')}/airports/")
    else:
        connection = await asyncpg.connect(url)
        await copy(connection)
        await connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except* (RuntimeError, OSError, aiohttp.ClientError, asyncpg.PostgresError) as failed:
        sys.exit(str(failed.exceptions[0]))
