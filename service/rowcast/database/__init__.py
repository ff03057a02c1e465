"""PostgreSQL: the pool that requests use, and the embedded server.

``pool`` runs statements and transactions, ``codecs`` converts values, ``errors`` turns the driver's errors into the
API's, and ``connection`` has the types that all layers above share. ``table_traits``, ``table_guards`` and ``sequences`` read what a table has that no config declares, and ``caller`` runs
statements with the settings and the role of a caller. ``embedded`` runs a private server, with
``launcher`` as the program that becomes it. It reads from ``resources`` and is used by every package above.
"""
