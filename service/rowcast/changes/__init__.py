"""The change log of a database, and the feed that delivers it to this process.

One walk, in the order of a change: ``triggers`` log it (``trigger_sync`` and ``install`` bring them and the log to a
database, ``checks`` and ``table_watch`` find what is wrong there), ``ticker`` divides the log into ``ticks``, ``feed`` follows the ticks
with ``reader`` and delivers ``events``, ``relay`` brings those of another process (``relay_messages`` over a ``bus``: ``nats_bus`` or
``redis_bus``), and ``cache`` drops what has changed. A ``position`` names a place in the log, ``epochs`` are its histories,
``retention`` keeps it small, and ``connection`` reconnects. The SQL is in ``sql/``. It reads from ``resources`` and
``database``; ``streams``, ``rest`` and ``server`` use it.
"""
