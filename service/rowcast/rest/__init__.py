"""REST: viewsets, from the request of a client to the response.

The modules, in the order in which a request is easiest to follow:

- ``viewsets``: ``ModelViewSet`` and ``ReadOnlyModelViewSet``, the compositions that users subclass.
- ``mixins``: the standard actions as methods of a viewset, under Django REST framework's names.
- ``viewset``: ``ViewSet``: ``as_view``, and ``dispatch`` from authentication to the action.
- ``handlers``: the handlers of routes, and what is answered without an instance of the viewset.
- ``generic``: ``GenericViewSet``: the methods of a viewset over rows that users override.
- ``plan``: ``Service`` and ``ViewPlan``: everything that requests share, computed at start.
- ``binding``: computes the ``ViewPlan`` of a class from its attributes and the config.
- ``routers``: the addresses of a viewset, and the action of each method there.
- ``decorators``: ``@action``.
- ``signatures``: the variable parts of an address as arguments of a handler.
- ``addresses``: addresses with variable parts.
- ``introspection``: the methods that a user's class overrides, and attributes that look like mistakes.
- ``protocols``: the interface of a viewset's instance that the modules below use.
- ``actions``: the standard actions as functions over a plan.
- ``scope``: the rows of a request, before pagination.
- ``declared_scope``: the option ``scope``, as the conditions that it means for a caller.
- ``filters``: field filters, search and ordering.
- ``pagination``: the page of a list, and the envelope around it.
- ``paging``: pages inside a user's handler.
- ``write_scope``: whether a written row, and the rows that it refers to, are the caller's to write.
- ``expansion``: the permission to read related rows with ``?expand=``.
- ``expansion_budget``: how much ``?expand=`` may add to an answer.
- ``rendering``: ``?fields=``, ``?expand=`` and serializers: rows as JSON.
- ``serializers``: the fields of bodies and responses, and the validation of bodies; ``serializer_fields`` and
  ``serializer_options`` are parts of it.
- ``serializer_fields``: the fields of columns and links, of which serializers are made.
- ``conditional``, ``representation`` and ``etags``: ``ETag``, ``If-Match`` and ``If-None-Match``.
- ``response_cache``: responses and counts in memory.
- ``places``: rows of long lists whose offset is known.
- ``stream_position``: the header ``X-Stream-Position``.
- ``request``, ``encodings``, ``response``, ``media_types`` and ``negotiation``: the request and its body, the response and its
  JSON, and ``Accept``.
- ``options_method``: the response to ``OPTIONS``.
- ``stream_action`` and ``combined_stream``: the stream of a viewset, and that of several.

The package reads its options from ``configuration``, runs on ``query``, ``orm``, ``identity``, ``changes`` and ``streams``,
and is used by ``openapi`` and ``server``. Users import its classes from ``rowcast``.
"""
