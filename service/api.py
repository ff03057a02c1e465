"""The public names: what a config directory's own Python is written with.

``from service.api import ModelViewSet, action, model``
"""

from service.bridge import wait
from service.decorators import action
from service.errors import (
    ApiError,
    ConfigurationError,
    Conflict,
    MethodNotAllowed,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    ParseError,
    PayloadTooLarge,
    PermissionDenied,
    Unavailable,
    UnsupportedMediaType,
    ValidationError,
)
from service.expressions import F, Q
from service.filters import BaseFilterBackend, FieldFilter, OrderingFilter, SearchFilter
from service.mixins import (
    CreateModelMixin,
    DestroyModelMixin,
    ListModelMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
)
from service.models import (
    DoesNotExist,
    MultipleObjectsReturned,
    RelationNotLoaded,
    get_object_or_404,
    model,
    transaction,
)
from service.pagination import BasePagination, CursorPagination, LimitOffsetPagination, PageNumberPagination
from service.permissions import (
    AllowAny,
    BasePermission,
    IsAdminUser,
    IsAuthenticated,
    IsAuthenticatedOrReadOnly,
)
from service.responses import Response
from service.routers import DefaultRouter, SimpleRouter
from service.serializers import Serializer
from service.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet, ViewSet

__all__ = [
    "AllowAny",
    "ApiError",
    "BaseFilterBackend",
    "BasePagination",
    "BasePermission",
    "ConfigurationError",
    "Conflict",
    "CreateModelMixin",
    "CursorPagination",
    "DefaultRouter",
    "DestroyModelMixin",
    "DoesNotExist",
    "F",
    "FieldFilter",
    "GenericViewSet",
    "IsAdminUser",
    "IsAuthenticated",
    "IsAuthenticatedOrReadOnly",
    "LimitOffsetPagination",
    "ListModelMixin",
    "MethodNotAllowed",
    "ModelViewSet",
    "MultipleObjectsReturned",
    "NotAcceptable",
    "NotAuthenticated",
    "NotFound",
    "OrderingFilter",
    "PageNumberPagination",
    "ParseError",
    "PayloadTooLarge",
    "PermissionDenied",
    "Q",
    "ReadOnlyModelViewSet",
    "RelationNotLoaded",
    "Response",
    "RetrieveModelMixin",
    "SearchFilter",
    "Serializer",
    "SimpleRouter",
    "Unavailable",
    "UnsupportedMediaType",
    "UpdateModelMixin",
    "ValidationError",
    "ViewSet",
    "action",
    "get_object_or_404",
    "model",
    "transaction",
    "wait",
]
