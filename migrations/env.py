"""Alembic's own command on the database of the configuration: ``alembic history``, ``current``, ``downgrade -1``.

Rowcast does not need this file: ``rowcast migrate`` and ``rowcast makemigrations`` use the revisions in ``versions/``
whether it is there or not. ``ROWCAST_CONFIG`` and ``DATABASE_URL`` mean here what they mean there.
"""

import asyncio
import os
import sys
from pathlib import Path

from alembic import context

from rowcast.configuration.load import load
from rowcast.database.pool import Database
from rowcast.migrations import commands
from rowcast.resources.tables import Tables

configuration = load(Path(os.environ.get("ROWCAST_CONFIG", "config")), environ=os.environ)
if configuration.settings.database.url is None:
    sys.exit("Name a database with DATABASE_URL: the embedded one is there only while the service runs.")
database = Database(configuration.settings.database.url, Tables(configuration.resources).guards)
asyncio.run(commands.run_alembic(database.connect, context))
