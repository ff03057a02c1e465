"""The demo's own Python: what tasks can do beyond being created, read, changed and deleted."""

import datetime as dt

from rowcast import ModelViewSet, action, model

Task = model("tasks")


class TaskViewSet(ModelViewSet):
    """Things to do.

    Everybody may use the demo, so nothing here depends on the caller. A service with callers would show each their own:
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
        """How many tasks there are, and how many are done: GET /tasks/stats/"""
        rows = self.get_queryset()
        total = await rows.count()
        completed = await rows.filter(completed=True).count()
        return {"total": total, "completed": completed, "remaining": total - completed}
