"""Streams: from the batches of the change feed to the bytes that each client receives, as server-sent events.

``subscription`` renders a batch for a filter and a projection, ``routing`` finds the subscriptions that a batch can match.
``subscriber`` is one connection, ``group`` the connections with equal subscriptions, ``hub`` all of one process; ``admission`` limits how many there are, and
``open_streams`` ends them with their credentials. ``sse``
has the wire format.

``board`` has the results of live aggregates, ``live_groups`` their form, and ``group_streams`` their streams.

The package reads the ``changes`` feed and the ``query`` conditions, and asks the database only where a logged row does not
suffice. It knows no viewset: ``rest`` makes subscriptions from viewsets and calls ``Hub.stream``.
"""
