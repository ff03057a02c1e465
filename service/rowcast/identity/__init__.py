"""Who calls, what they may do, and how often: authentication, permissions and throttling.

``authentication`` sets ``request.user`` and ``request.auth`` from an access token (``tokens``) or a JSON Web Token
(``jwt``, with keys from ``jwks``). ``permissions`` decides what that user may do, ``throttling`` how many requests are
accepted, counted in ``throttle_storage``. ``protocols`` names what these use of a request and a viewset.

The package reads the settings, and the token table through ``database``. ``rest`` calls it for every request,
``streams`` for as long as a stream is open, and users subclass its ``Base…`` classes.
"""
