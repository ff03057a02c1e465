"""An existing database as resource files: ``rowcast adopt``.

``catalog`` reads what the database has. ``columns`` describes a column as a field, ``names`` finds names that read well,
``relations`` finds the links between tables, ``indexes`` chooses what lists are filtered and sorted by, and ``drafts`` puts
these together, a resource a table. ``files`` writes them as YAML; ``drift`` compares catalog and config later.

Reads the catalog, and from ``configuration`` and ``resources`` what a config may say. Used by ``commands``.
"""
