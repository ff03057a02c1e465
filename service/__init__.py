"""Rowcast: REST resources and a live change stream over PostgreSQL, declared in config."""

__version__ = "0.1.0"
