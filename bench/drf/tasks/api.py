"""Serializers, viewsets and routes, as the framework's tutorial writes them."""

from rest_framework import pagination, routers, serializers, viewsets

from tasks.models import Author, Task

FIELDS = [
    "id", "title", "description", "completed", "priority", "view_count", "author_id", "due_date", "created_at",
    "updated_at",
]  # fmt: skip


class AuthorSerializer(serializers.ModelSerializer):
    class Meta:
        model = Author
        fields = ["id", "name", "email", "created_at", "updated_at"]


class TaskSerializer(serializers.ModelSerializer):
    author_id = serializers.PrimaryKeyRelatedField(source="author", queryset=Author.objects.all())

    class Meta:
        model = Task
        fields = FIELDS
        read_only_fields = ["view_count"]


class TaskWithAuthorSerializer(TaskSerializer):
    author = AuthorSerializer(read_only=True)

    class Meta(TaskSerializer.Meta):
        fields = [*FIELDS, "author"]


class AuthorViewSet(viewsets.ModelViewSet):
    queryset = Author.objects.all()
    serializer_class = AuthorSerializer


class TaskViewSet(viewsets.ModelViewSet):
    queryset = Task.objects.all()
    serializer_class = TaskSerializer
    filterset_fields = ["completed", "priority"]


class TaskWithAuthorViewSet(viewsets.ReadOnlyModelViewSet):
    queryset = Task.objects.select_related("author")
    serializer_class = TaskWithAuthorSerializer


class NewestFirst(pagination.CursorPagination):
    ordering = ("-created_at", "id")


class UncountedTaskViewSet(viewsets.ReadOnlyModelViewSet):
    queryset = Task.objects.all()
    serializer_class = TaskSerializer
    pagination_class = NewestFirst


router = routers.SimpleRouter()
router.register("authors", AuthorViewSet)
router.register("tasks", TaskViewSet)
router.register("tasks-with-author", TaskWithAuthorViewSet, "task-with-author")
router.register("uncounted-tasks", UncountedTaskViewSet, "uncounted-task")
urlpatterns = router.urls
