"""Rows as Python objects: models, query sets, and the bridge that lets handlers wait without ``await``.

``model`` has the instances of rows and ``queryset`` the queries for them; ``loading`` and ``writing`` do what they
need from the database, with the SQL in ``statements``. ``expressions`` has ``Q`` and ``F``. ``bridge`` runs handlers, and
``awaiting`` finds calls in them that were not awaited.

Reads from ``query`` (conditions, the store). Used by ``rest``; users import the names in ``rowcast.api``.
"""
