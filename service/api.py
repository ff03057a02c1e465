"""The public names: what a config directory's own Python is written with.

``from service.api import ModelViewSet, action, model``
"""

from service.authentication import BaseAuthentication, JWTAuthentication, TokenAuthentication, User, authorization
from service.bridge import wait
from service.decorators import action
from service.errors import (
    ApiError,
    AuthenticationFailed,
    ConfigurationError,
    Conflict,
    MethodNotAllowed,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    ParseError,
    PayloadTooLarge,
    PermissionDenied,
    Throttled,
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
    IsOwner,
)
from service.responses import Response, status
from service.routers import DefaultRouter, SimpleRouter
from service.serializers import Serializer
from service.throttling import (
    AnonRateThrottle,
    BaseThrottle,
    ScopedRateThrottle,
    SimpleRateThrottle,
    UserRateThrottle,
)
from service.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet, ViewSet, ViewSetMixin

__all__ = [
    "AllowAny",
    "AnonRateThrottle",
    "ApiError",
    "AuthenticationFailed",
    "BaseAuthentication",
    "BaseFilterBackend",
    "BasePagination",
    "BasePermission",
    "BaseThrottle",
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
    "IsOwner",
    "JWTAuthentication",
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
    "ScopedRateThrottle",
    "SearchFilter",
    "Serializer",
    "SimpleRateThrottle",
    "SimpleRouter",
    "Throttled",
    "TokenAuthentication",
    "Unavailable",
    "UnsupportedMediaType",
    "UpdateModelMixin",
    "User",
    "UserRateThrottle",
    "ValidationError",
    "ViewSet",
    "ViewSetMixin",
    "action",
    "authorization",
    "get_object_or_404",
    "model",
    "status",
    "transaction",
    "wait",
]
