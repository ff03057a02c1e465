"""``log.access``: which requests are in the log, and what of them."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from ..conftest import Serve

NOTES = {
    "notes": "fields: {id: {type: integer, primary_key: true}}\nviewset: {class: viewsets:Notes, permission_classes: [AllowAny]}"
}
PYTHON = """
from rowcast import ModelViewSet, action

class Notes(ModelViewSet):
    @action(detail=False)
    def fail(self, request):
        raise RuntimeError("on purpose")
"""

pytestmark = pytest.mark.tables({"notes": "fields: {id: {type: integer, primary_key: true}}"})


@pytest.mark.parametrize(
    ("access", "slow_after", "statuses"),
    [("off", "0s", []), ("errors", "0s", [500]), ("slow", "1h", [500]), ("slow", "0s", [200, 404, 500]),
     ("all", "1h", [200, 404, 500])],
)  # fmt: skip
async def test_requests_are_logged_as_the_setting_says(
    serve: Serve, access: str, slow_after: str, statuses: list[int]
) -> None:
    """Without their queries, and with their routes."""
    settings = json.dumps({"log": {"access": access, "slow_after": slow_after}})
    client = await serve(NOTES, settings, modules={"viewsets": PYTHON})
    with capture_logs() as logs:
        for path in ("/notes/?fields=id", "/notes/7/", "/notes/fail/"):
            await client.get(path, headers={"X-Request-ID": "request-4711"})
    found = [entry for entry in logs if entry["event"] == "request"]
    assert [entry["http.response.status_code"] for entry in found] == statuses
    assert {entry["request_id"] for entry in found} <= {"request-4711"}
    assert "fields=id" not in str(found)
    if len(found) == 3:
        assert [entry["url.path"] for entry in found] == ["/notes/", "/notes/7/", "/notes/fail/"]
        assert found[0]["http.request.method"] == "GET"
        assert found[0]["http.server.request.duration"] > 0
