"""What a resource is: fields and their types, relations, lookups, validators and tables. Values only, no I/O.

It depends on nothing but ``rowcast.errors`` and is used by every other package. ``types`` has the field types,
``resource`` the declared resources, ``tables`` their SQLAlchemy tables, ``sql`` the quoting of SQL.
"""
