"""The schema engine: compares the database with the config and brings it in line.

``commands`` is what the command line and the server call: plan, pending, migrate, makemigrations. The rest are its
parts, each reading the ones before it: ``failures`` and ``values``, ``session`` (one locked connection under alembic),
``schemas`` and ``renaming`` (what comes first), ``operations`` (alembic's operations as SQL and as Python), ``revisions`` (files), ``catalog`` (what exists),
``classify`` (which differences are safe), ``compatibility``, ``equivalence`` and ``undeclared`` (what an existing table may
have), ``compare`` (the differences). It reads the tables of
``rowcast.resources.tables`` and is used by ``cli`` and ``server``.
"""
