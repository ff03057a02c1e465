"""The service does what its OpenAPI document says, with data that the document allows and with data that it forbids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from traceback import format_exception_only
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from ..conftest import Serve

pytestmark = pytest.mark.asyncio(loop_scope="function")

EXAMPLES = {GenerationMode.POSITIVE: 6, GenerationMode.NEGATIVE: 4}  # of each operation


async def test_service_does_what_its_document_says(serve: Serve) -> None:
    """For every operation but the endless streams: no answer is a 5xx, and each is one that the document describes."""
    client = await serve()
    url = str(client.make_url("/")).rstrip("/")
    for n in range(3):
        category = await (await client.post("/categories/", json={"name": f"c{n}"})).json()
        tag = await (await client.post("/tags/", json={"name": f"t{n}"})).json()
        body = {"title": "x", "category_id": category["id"], "tags": [tag["id"]]}
        assert (await client.post("/tasks/", json=body)).status == 201
    document: dict[str, Any] = await (await client.get("/openapi.json")).json()

    failures: list[str] = []

    def prove() -> None:
        loaded = schemathesis.openapi.from_dict(document)
        for result in loaded.get_all_operations():
            operation = result.ok()
            if operation.path.endswith("/stream/"):
                continue
            for mode, examples in EXAMPLES.items():
                if mode is GenerationMode.NEGATIVE and operation.method.upper() == "OPTIONS":
                    continue  # describes an address, whether there is a row or not
                strategy = operation.as_strategy(generation_mode=mode)
                proof: Callable[[], None] = settings(
                    max_examples=examples,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate],
                )(given(case=strategy)(check))
                try:
                    proof()
                except Unsatisfiable:
                    pass  # nothing about this operation can be wrong
                except (Exception, BaseExceptionGroup) as error:
                    failures.append(f"{operation.label}, {mode.value}: {''.join(format_exception_only(error))[:2000]}")

    def check(case: Any) -> None:
        response = case.call(base_url=url, timeout=20)
        assert response.status_code < 500, response.text
        if '"code":"does_not_exist"' not in response.text:  # a schema cannot say which rows there are
            case.validate_response(response)

    await asyncio.to_thread(prove)
    assert not failures, "\n\n".join(failures)
