"""Throttles in YAML are checked when the service starts."""

from __future__ import annotations

import pytest

from rowcast.errors import ConfigurationError
from tests.conftest import Serve

NOTES = (
    "fields: {text: {type: string}}\nviewset: {permission_classes: [AllowAny], throttle_classes: [AnonRateThrottle]}"
)


pytestmark = pytest.mark.tables({"notes": NOTES})


async def test_throttle_of_a_resource_without_a_rate_is_an_error_at_start(serve: Serve) -> None:
    """A throttle named in YAML needs its rate, as one named in a class does."""
    with pytest.raises(ConfigurationError, match="anon"):
        await serve({"notes": NOTES})


async def test_throttle_of_a_resource_counts(serve: Serve) -> None:
    """With a rate, the request beyond it is a 429 with ``Retry-After``."""
    client = await serve({"notes": NOTES}, "throttle: {rates: {anon: 2/hour}}")
    answers = [await client.get("/notes/") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["Retry-After"]) > 0
