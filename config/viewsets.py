"""The demo's own Python: two more actions of tasks."""

import datetime as dt

from rowcast import ModelViewSet, action, model

Task = model("tasks")


class TaskViewSet(ModelViewSet):
    """Things to do.

    Everybody may use the demo, so nothing here depends on the caller. To show users only their own tasks, write
    ``def get_queryset(self): return Task.objects.filter(user_id=self.request.user.id)``.
    """

    model = Task

    @action(detail=True, methods=["POST"])
    async def complete(self, request, id: str):
        """Mark a task as complete: POST /tasks/{id}/complete/"""
        task = await self.get_object(id)
        task.completed = True
        task.completed_at = dt.datetime.now(dt.UTC)
        await task.save()
        return {"status": "completed", "completed_at": task.completed_at}

    @action(detail=False, methods=["GET"])
    async def stats(self, request):
        """Count all, completed and remaining tasks: GET /tasks/stats/"""
        rows = self.get_queryset()
        total = await rows.count()
        completed = await rows.filter(completed=True).count()
        return {"total": total, "completed": completed, "remaining": total - completed}
