"""The commands of ``rowcast``, a module by subject: ``serving``, ``schema``, ``projects``, ``scripts``, ``data`` and others.

Reads from every package below it. ``rowcast.cli`` imports a module when one of its commands runs.
"""
