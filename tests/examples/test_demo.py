"""The demo's own Python: ``config/viewsets.py``."""

from __future__ import annotations

from ..conftest import Serve


async def test_demo_completes_and_counts_tasks(serve: Serve) -> None:
    """Anybody may complete a task and read how many are done."""
    client = await serve()
    made = [await (await client.post("/tasks/", json={"title": title})).json() for title in ("a", "b")]
    async with client.post(f"/tasks/{made[0]['id']}/complete/") as response:
        answer = await response.json()
        assert (response.status, answer["status"]) == (200, "completed")
    async with client.get(f"/tasks/{made[0]['id']}/") as response:
        row = await response.json()
    assert (row["completed"], row["completed_at"]) == (True, answer["completed_at"])
    async with client.get("/tasks/stats/") as response:
        assert await response.json() == {"total": 2, "completed": 1, "remaining": 1}
