"""One durable log of every committed change, and the feed that tells it to this process in the one order there is.

``log`` is the schema ``rowcast`` and what is read from it; ``triggers`` fill it; ``ticker`` cuts it into ticks;
``feed`` follows the ticks; ``position`` names a place among them.
"""
