"""The public names: what a config directory's own Python is written with.

``from rowcast import ModelViewSet, action, model``
"""

from rowcast.errors import (
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
from rowcast.hooks import State, background, on_shutdown, on_startup
from rowcast.identity.authentication import (
    BaseAuthentication,
    JWTAuthentication,
    TokenAuthentication,
    authorization,
)
from rowcast.identity.permissions import (
    AllowAny,
    BasePermission,
    IsAdminUser,
    IsAuthenticated,
    IsAuthenticatedOrReadOnly,
    IsOwner,
)
from rowcast.identity.throttling import (
    AnonRateThrottle,
    BaseThrottle,
    ScopedRateThrottle,
    SimpleRateThrottle,
    UserRateThrottle,
)
from rowcast.identity.users import User
from rowcast.orm.bridge import wait
from rowcast.orm.expressions import F, Q
from rowcast.orm.model import ColumnNotLoaded, DoesNotExist, MultipleObjectsReturned, RelationNotLoaded, model
from rowcast.orm.queryset import get_object_or_404
from rowcast.orm.raw import raw
from rowcast.orm.writing import transaction
from rowcast.rest.decorators import action
from rowcast.rest.filters import BaseFilterBackend, FieldFilter, OrderingFilter, SearchFilter
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.mixins import (
    CreateModelMixin,
    DestroyModelMixin,
    ListModelMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
)
from rowcast.rest.pagination import BasePagination, CursorPagination, LimitOffsetPagination, PageNumberPagination
from rowcast.rest.response import Response, status
from rowcast.rest.routers import DefaultRouter, SimpleRouter
from rowcast.rest.serializers import Serializer
from rowcast.rest.viewset import ViewSet, ViewSetMixin
from rowcast.rest.viewsets import ModelViewSet, ReadOnlyModelViewSet

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
    "ColumnNotLoaded",
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
    "State",
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
    "background",
    "get_object_or_404",
    "model",
    "on_shutdown",
    "on_startup",
    "raw",
    "status",
    "transaction",
    "wait",
]
