"""Hostile requests against a real process of the service, for as long as one likes.

``python -m tests.fuzz --seconds 120`` runs all of it; ``test_fuzz.py`` a short part that is the same every time.

- ``configuration``: what is served: the demo, and a configuration with every field type, option, lookup and pagination.
- ``process``: the program under attack: ``rowcast serve`` with a probe in its event loop.
- ``service``: starts that process, fills its tables, and reads the probe and standard error.
- ``wire``: builds and parses HTTP messages, byte by byte.
- ``attacks``: the hostile generators.
- ``judge``: sends what a generator made, and finds what must not be.
- ``documented``: requests that schemathesis makes from the service's own OpenAPI document.
"""
