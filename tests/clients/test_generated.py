"""Clients that generators make of the documents with their default options: for the demo, and for every type of field.

The generators come from npm and PyPI when the tests run. Where these cannot be reached the tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio
from jsonschema import Draft7Validator

from rowcast.configuration.load import load
from rowcast.configuration.yaml import Problems
from rowcast.openapi.asyncapi import asyncapi_document
from rowcast.openapi.document import document
from rowcast.server.app import bind

from ..conftest import ROOT, configure, running
from ..databases import EMPTY, Databases
from ..unit.openapi.sample import FILES

NPM_PACKAGES: Final = ("openapi-typescript@7.13.0", "typescript@5.9.3", "@asyncapi/specs@6.11.1")
PYTHON_PACKAGE: Final = "openapi-python-client==0.29.1"
INSTALL_SECONDS: Final = 90
NPM: Final = shutil.which("npm")
REST: Final = (ROOT / "docs" / "rest.md").read_text()
OPEN: Final = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}})


def run(*command: str, cwd: Path, seconds: float = 120) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(*command: str, cwd: Path) -> str | None:
    """Why an installation fails; ``None`` if it does not."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it took longer than {INSTALL_SECONDS} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason"])[0]


@cache
def node_packages(folder: str) -> str | None:
    """Install the packages of npm; the reason if that cannot be done."""
    assert NPM is not None
    (Path(folder) / "package.json").write_text('{"private": true}')
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000")
    return installed(NPM, "install", *options, *NPM_PACKAGES, cwd=Path(folder))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of npm."""
    if NPM is None:
        pytest.skip("there is no npm on PATH")
    folder = tmp_path_factory.mktemp("node")
    if reason := node_packages(str(folder)):
        pytest.skip(f"npm cannot install {', '.join(NPM_PACKAGES)}: {reason}")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Python environment with openapi-python-client."""
    folder = tmp_path_factory.mktemp("python")
    uv = (sys.executable, "-m", "uv", "--quiet")
    run(*uv, "venv", "--no-config", "env", "--python", sys.executable, cwd=folder)
    place = str(folder / "env" / "bin" / "python")
    if reason := installed(*uv, "pip", "install", "--no-config", "--python", place, PYTHON_PACKAGE, cwd=folder):
        pytest.skip(f"uv cannot install {PYTHON_PACKAGE}: {reason}")
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The OpenAPI documents of the demo, of every type of field, and of the resources of docs/rest.md, which have every option."""
    every = configure(tmp_path_factory.mktemp("every"), FILES, OPEN)
    pages = tmp_path_factory.mktemp("rest")
    for path, text in re.findall(r"^```yaml\n# (config/\S+)\n(.*?)^```$", REST, re.MULTILINE | re.DOTALL):
        (pages / path).parent.mkdir(parents=True, exist_ok=True)
        (pages / path).write_text(text)
    rest = load(pages / "config", environ={})
    found = {}
    for name, configuration in (("demo", load(ROOT / "config", environ={})), ("every", every), ("rest", rest)):
        problems = Problems()
        bound = bind(configuration, "postgresql://", problems)
        problems.check()
        found[name] = document(bound.service, bound.routes, version="1")
    return found


USE_OF_TYPES = """
import type { components, paths } from "./NAME";

type Schemas = components["schemas"];
"""
USES = {
    "demo": """
const made: Schemas["TaskCreate"] = { title: "Write" };                          // all others have defaults
const change: Schemas["TaskPatch"] = { completed: true, due_date: null, tags: ["x"] };
const page = {} as paths["/tasks/"]["get"]["responses"]["200"]["content"]["application/json"];
const titles: (string | undefined)[] = page.results.map(row => row.title);
const problem = {} as Schemas["Problem"];
const messages: unknown = problem.errors?.title;
const row = {} as Schemas["Task"];
const title: string = row.title;
const back: Schemas["TaskPatch"] = row;                                          // a row can be sent back as it was read
// @ts-expect-error
const wrong: Schemas["TaskCreate"] = { title: 1 };
// @ts-expect-error
const missing: Schemas["TaskCreate"] = {};
export { made, change, titles, messages, title, back, wrong, missing };
""",
    "rest": """
const made: Schemas["BookCreate"] = { title: "Emma", author_id: 1 };
const event = {} as Schemas["BookEvent"];
const changed: string[] | undefined = event.changed;
export { made, changed };
""",
    "every": """
const made: Schemas["ThingCreate"] = {
  string: "ab", email: "a@example.com", slug: "a", integer: 1, decimal: "1.00", words: ["a"],
  document: { any: [1, { thing: null }] }, json: [1, "two", { three: 3 }], marks: ["a", { code: "b" }],
};
const all: Schemas["ThingPatch"] = {
  coded: "AB1", text: "", initials: null, chosen: "low", rated: 3, url: null, big: 1, float: 1.5, price: 1,
  boolean: true, date: "2026-01-31", time: "12:30", datetime: null, duration: "PT1S", numbers: [1], colours: ["red"],
  bags: [1, { a: [] }], box_id: null, secret: "x", data: "QQ==", ip: "10.0.0.1",
};
// @ts-expect-error
const wrong: Schemas["ThingCreate"] = { ...made, chosen: "lowest" };
const event = {} as Schemas["ThingEvent"];
const id: string = event.id;
export { made, all, wrong, id };
""",
}


@pytest.mark.parametrize("name", USES)
def test_openapi_typescript_makes_types_that_compile(
    node: Path, documents: dict[str, dict[str, Any]], name: str
) -> None:
    """With default options, ``tsc --strict`` takes the types and uses of them, and refuses wrong uses."""
    (node / f"{name}.json").write_text(json.dumps(documents[name]))
    (node / f"use-{name}.ts").write_text(USE_OF_TYPES.replace("NAME", name) + USES[name])
    binaries = node / "node_modules" / ".bin"
    run(str(binaries / "openapi-typescript"), f"{name}.json", "-o", f"{name}.ts", cwd=node)
    options = ("--strict", "--noEmit", "--target", "es2022", "--moduleResolution", "bundler", "--module", "esnext")
    run(str(binaries / "tsc"), *options, f"use-{name}.ts", cwd=node)


@pytest.mark.parametrize("name", ["demo", "every", "rest"])
def test_asyncapi_documents_fit_the_official_schema(
    node: Path, documents: dict[str, dict[str, Any]], name: str
) -> None:
    """The JSON Schema of AsyncAPI 3.0 that its authors publish."""
    schema = json.loads((node / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json").read_text())
    made = json.loads(json.dumps(asyncapi_document(documents[name], "https://api.example.com")))
    assert [f"{list(error.path)}: {error.message}" for error in Draft7Validator(schema).iter_errors(made)] == []
    assert "tasks_stream" in made["channels"] or name != "demo"


@pytest.mark.parametrize("name", ["demo", "every", "rest"])
def test_openapi_python_client_makes_a_client_without_warnings(
    python: Path, documents: dict[str, dict[str, Any]], name: str
) -> None:
    """Every operation and every schema is in it, and its modules can be imported."""
    generate(python, documents[name], name)
    run(
        str(python / "env" / "bin" / "python"), "-c",
        f"import importlib, pkgutil, {name}\n"
        f"for each in pkgutil.walk_packages({name}.__path__, '{name}.'): importlib.import_module(each.name)",
        cwd=python,
    )  # fmt: skip


def generate(python: Path, openapi: dict[str, Any], name: str) -> None:
    """Generate a client as the package ``name``; what the generator cannot use is a failure."""
    (python / f"{name}.json").write_text(json.dumps(openapi))
    (python / "no-hooks.yaml").write_text("post_hooks: []\n")  # which format the code
    options = ("--meta", "none", "--overwrite", "--config", "no-hooks.yaml")
    command = str(python / "env" / "bin" / "openapi-python-client")
    printed = run(command, "generate", "--path", f"{name}.json", "--output-path", name, *options, cwd=python)
    assert "Unable to process schema" not in printed, printed
    left_out = re.findall(r"WARNING parsing (\S+ \S+)", printed)  # it has no bodies of CSV
    assert [operation for operation in left_out if not operation.endswith("/import/")] == [], printed


USE_OF_CLIENT = """
import sys

from live import Client
from live.api.things import things_create, things_list, things_partial_update
from live.models import Problem, ThingCreate, ThingPatch

client = Client(base_url=sys.argv[1])
body = ThingCreate(
    string="ab", email="a@example.com", slug="a", integer=1, decimal="1.00", words=["a"], document={"a": [1, None]}
)
made = things_create.sync(client=client, body=body)
assert made.string == "ab" and made.document == {"a": [1, None]} and made.chosen == "normal", made
changed = things_partial_update.sync(made.id, client=client, body=ThingPatch(integer=2))
assert (changed.integer, changed.string) == (2, "ab"), changed
page = things_list.sync(client=client)
assert [row.id for row in page.results] == [made.id], page
refused = things_create.sync(client=client, body=ThingCreate.from_dict(body.to_dict() | {"integer": -1}))
assert isinstance(refused, Problem) and refused.code == "invalid" and "integer" in refused.errors, refused
print("done")
"""


@pytest_asyncio.fixture(loop_scope="function")
async def live(databases: Databases, tmp_path: Path) -> Any:
    """A service with every type of field."""
    configuration = configure(tmp_path / "config", FILES, OPEN)
    async with databases.copy(EMPTY) as url:
        sql = await asyncpg.connect(url)
        await sql.execute("CREATE EXTENSION citext")
        await sql.close()
        async with running(configuration, url) as client:
            yield client


async def test_generated_client_talks_to_the_service(python: Path, live: Any) -> None:
    """It creates, changes and lists rows, and reads a refusal."""
    openapi = await (await live.get("/openapi.json")).json()
    await asyncio.to_thread(generate, python, openapi, "live")
    (python / "use.py").write_text(USE_OF_CLIENT)
    url = str(live.make_url("")).rstrip("/")
    command = (str(python / "env" / "bin" / "python"), "use.py", url)
    assert await asyncio.to_thread(lambda: run(*command, cwd=python)) == "done\n"
