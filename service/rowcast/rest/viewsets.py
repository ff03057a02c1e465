"""The viewsets that resources have: compositions of the mixins."""

from __future__ import annotations

from rowcast.rest.aggregate_action import AggregateMixin
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.mixins import (
    CreateModelMixin,
    DestroyModelMixin,
    ListModelMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
)
from rowcast.rest.stream_action import StreamMixin
from rowcast.rest.viewset import ViewSet

__all__ = ["GenericViewSet", "ModelViewSet", "ReadOnlyModelViewSet", "ViewSet"]


class ReadOnlyModelViewSet(RetrieveModelMixin, ListModelMixin, AggregateMixin, StreamMixin, GenericViewSet):
    """``list``, ``retrieve``, the stream, and ``aggregate`` if it is opened."""


class ModelViewSet(
    CreateModelMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
    DestroyModelMixin,
    ListModelMixin,
    AggregateMixin,
    StreamMixin,
    GenericViewSet,
):
    """All six actions, the stream of every committed change, and ``aggregate`` if it is opened."""
