"""The application: everything put together, started, served and stopped.

``app`` creates it from a configuration and a database: ``routes`` plans every viewset with the classes that ``importer``
finds, ``lifecycle`` starts and stops what runs beside requests, once ``prepare`` has found that the database matches.
``middleware``, ``hosts``, ``cors`` and ``health`` answer around the viewsets. ``policies`` refuses streams that row-level
security does not bound, and ``missing_scopes`` finds resources that look as if they needed a scope. ``http`` and
``workers`` serve it in one process or several. ``reload`` replaces it by one for a changed configuration, whose Python
``modules`` lets be imported again; ``watch`` finds changes, and ``running`` lets commands find the service. ``debug`` shows
exceptions, ``sql_log`` logs statements, and ``doctor`` examines a database.

It reads from every package below. ``rowcast.commands`` uses it.
"""
