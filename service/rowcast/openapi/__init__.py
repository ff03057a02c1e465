"""The service described as an OpenAPI 3.1 document, which ``GET /openapi.json`` returns.

``document`` puts the document together: paths and their operations. ``operations`` has the tables of what is the same in
every operation of a kind, ``own_addresses`` the addresses that every service has, ``components`` what no resource changes,
``parameters`` the query and path parameters, ``schemas`` the schemas of rows and bodies, and ``values`` those of fields.
``asyncapi`` makes the AsyncAPI document of it.

The package reads the same objects that requests run on: the ``resources``, and the plans, serializers, filters, paginators
and routes of ``rest``. ``server`` builds the document once, at start.
"""
