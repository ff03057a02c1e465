"""Queries as values, and their SQL.

A query (``conditions``, ``projection``, ``pages``) has a shape and values. ``statements`` compiles one SQL statement for
each shape, with the builders in ``select`` and ``write``; ``store`` runs the statements. ``matching`` evaluates the same
conditions on rows of the change log in memory.

Reads from ``resources`` (what exists) and ``database`` (connections). Used by ``streams``, ``orm`` and ``rest``.
"""
