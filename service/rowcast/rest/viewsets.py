"""The viewsets that resources have: compositions of the mixins."""

from __future__ import annotations

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


class ReadOnlyModelViewSet(RetrieveModelMixin, ListModelMixin, StreamMixin, GenericViewSet):
    """``list``, ``retrieve`` and the stream."""


class ModelViewSet(
    CreateModelMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
    DestroyModelMixin,
    ListModelMixin,
    StreamMixin,
    GenericViewSet,
):
    """All six actions, and the stream of every committed change."""
