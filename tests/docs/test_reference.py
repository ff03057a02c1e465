"""The pages on Python: every public name is documented, and every example runs."""

from __future__ import annotations

import re
from itertools import count
from textwrap import indent
from types import FunctionType
from typing import Any

import pytest

from rowcast import api
from rowcast.query.store import STORE
from rowcast.rest.plan import SERVICE

from ..conftest import DEMO, ROOT, Serve
from .test_docs import blocks

DOCS = ROOT / "docs"
MODULE = re.compile(r"# config/(\w+)\.py\n")


def test_every_public_name_is_documented() -> None:
    """Each name of ``rowcast.api`` has a row, and each row is such a name."""
    documented = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference" / "index.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(api.__all__)
    assert all(hasattr(api, name) for name in documented)


def modules() -> list[Any]:
    """The Python files on the pages; a ``urls.py`` or ``hooks.py`` belongs to the block before it."""
    found: list[Any] = []
    numbers = count(1)
    for page in (DOCS / "viewsets.md", DOCS / "serializers.md"):
        for block in blocks(page):
            if block.language != "python":
                continue
            match = MODULE.match(block.text)
            assert match is not None, block.text
            if match[1] in ("urls", "hooks"):
                found[-1].values[0][match[1]] = block.text
            else:
                found.append(pytest.param({match[1]: block.text}, id=f"{page.stem}-{next(numbers)}"))
    return found


@pytest.mark.parametrize("files", modules())
async def test_python_files_on_a_page_are_served(files: dict[str, str], serve: Serve) -> None:
    """With each of them, the demo starts, and creates, lists, shows and deletes tasks."""
    texts = {name: (ROOT / "config" / "resources" / f"{name}.yaml").read_text() for name in DEMO}
    client = await serve(texts, modules=files)
    async with client.post("/tasks/", json={"title": "one", "description": "d"}) as response:
        assert response.status == 201, await response.text()
        row = await response.json()
    for path in ("/tasks/", f"/tasks/{row['id']}/", *(("/titles/",) if "urls" in files else ())):
        async with client.get(path) as response:
            assert response.status == 200, await response.text()
    async with client.delete(f"/tasks/{row['id']}/") as response:
        assert response.status == 204, await response.text()


async def test_examples_with_models_run(serve: Serve) -> None:
    """The blocks of the page run in order, as one handler would run them."""
    client = await serve()
    STORE.set(client.app[SERVICE].store)
    text = "\n".join(block.text for block in blocks(DOCS / "models.md") if block.language == "python")
    names: dict[str, Any] = {}
    exec(f"async def example():\n{indent(text, '    ')}", names)
    example = names["example"]
    assert isinstance(example, FunctionType)
    await example()
