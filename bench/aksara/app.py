"""Aksara with viewsets and serializers, as its documentation writes it."""

import os

from aksara import Aksara, Model, ModelSerializer, ModelViewSet, configure, fields, include_viewset
from aksara.api.filters import AksaraFilterBackend, OrderingFilter
from aksara.api.pagination import PageNumberPagination
from aksara.api.schemas import generate_read_schema
from aksara.permissions import AllowAny

url, connections = os.environ["DATABASE_URL"], int(os.environ["CONNECTIONS"])
configure(
    database_url=url, debug=False, log_level="WARNING", log_requests=False, pool_min_size=connections,
    pool_max_size=connections, ai_enabled=False, mcp_enabled=False, enable_studio=False,
)  # fmt: skip


class Author(Model):
    name = fields.String(max_length=100)
    email = fields.Email()

    class Meta:
        table_name = "authors"


class Task(Model):
    title = fields.String(max_length=200)
    description = fields.Text(default="")
    completed = fields.Boolean(default=False)
    priority = fields.String(max_length=10, default="normal")
    view_count = fields.Integer(default=0)
    author = fields.ForeignKey(Author, on_delete="CASCADE")
    due_date = fields.DateTime(nullable=True)

    class Meta:
        table_name = "tasks"


class AuthorSerializer(ModelSerializer):
    class Meta:
        model = Author
        fields = ["id", "name", "email", "created_at", "updated_at"]


class TaskWithAuthorSerializer(ModelSerializer):
    class Meta:
        model = Task
        fields = [
            "id", "title", "description", "completed", "priority", "view_count", "author", "due_date", "created_at",
            "updated_at",
        ]  # fmt: skip
        expand = {"author": AuthorSerializer}


class TaskWithAuthorOut(generate_read_schema(Task)):
    author: generate_read_schema(Author)


class OpenViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    pagination_class = PageNumberPagination
    filter_backends = [AksaraFilterBackend, OrderingFilter]
    ordering = ["-created_at", "id"]


class AuthorViewSet(OpenViewSet):
    model = Author
    prefix = "/authors"


class TaskViewSet(OpenViewSet):
    model = Task
    prefix = "/tasks"
    filterable_fields = ["completed", "priority"]


class TaskWithAuthorViewSet(OpenViewSet):
    model = Task
    prefix = "/tasks-with-author"
    list_serializer_class = TaskWithAuthorSerializer
    read_schema_class = TaskWithAuthorOut

    def get_queryset(self, request=None, **filters):
        return super().get_queryset(request, **filters).select_related("author")


app = Aksara(
    database_url=url, min_pool_size=connections, max_pool_size=connections, auto_discover_views=False,
    enable_admin=False,
)  # fmt: skip
for viewset in (AuthorViewSet, TaskViewSet, TaskWithAuthorViewSet):
    include_viewset(app, viewset)
