"""PostgreSQL: the pool that requests use, and the embedded server.

``pool`` runs statements and transactions, ``codecs`` converts values, ``errors`` turns the driver's errors into the
API's, and ``connection`` has the types that all layers above share. ``embedded`` runs a private server, with
``launcher`` as the program that becomes it. It reads from ``resources`` and is used by every package above.
"""
