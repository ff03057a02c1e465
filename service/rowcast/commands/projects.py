"""``rowcast init`` and ``rowcast schemas``: the files of a project of one's own.

The templates are in the directory ``project``; ``@project@`` and ``@version@`` in them are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

import click

from rowcast import __version__
from rowcast.configuration.json_schema import json_schemas, schema_texts, write_schemas
from rowcast.errors import ConfigurationError

NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
NAME_MAX_CHARACTERS: Final = 50
DATABASES: Final = ("embedded", "existing")
FILES: Final[Mapping[str, str]] = {  # file of the project → template; {} is the kind of database
    ".dockerignore": "dockerignore",
    ".env.example": "environment.{}",
    ".gitignore": "gitignore",
    "Dockerfile": "Dockerfile",
    "README.md": "README.{}.md",
    "compose.yaml": "compose.{}.yaml",
    "config/resources/products.yaml": "products.yaml",
    "config/service.yaml": "service.yaml",
    "config/viewsets.py": "viewsets.py.txt",
    "pytest.ini": "pytest.ini",
    "requirements.txt": "requirements.txt",
    "tests/test_products.py": "test_products.py.txt",
}
_OF_OWN_DATABASE: Final = {"docker/create-role.sql": "create-role.sql"}


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--database", type=click.Choice(DATABASES), default=DATABASES[0], show_default=True,
    help="An embedded PostgreSQL for development, or one that is there already.",
)  # fmt: skip
def init(directory: Path, database: str) -> None:
    """Write a new project into a DIRECTORY, whose name is that of the project. No file is ever overwritten."""
    name = directory.resolve().name
    if not NAME.fullmatch(name) or len(name) > NAME_MAX_CHARACTERS:
        raise ConfigurationError(
            f"{name!r} is not a name for a project: use lower-case letters, digits and single hyphens or underscores "
            f"within, such as {_suggestion(name)}, and at most {NAME_MAX_CHARACTERS} characters"
        )
    texts = _texts(name, database)
    if there := sorted(path for path in texts if (directory / path).exists()):
        raise ConfigurationError(
            f"{directory} has a project already, and nothing was written: {', '.join(there)} "
            f"{'exists' if len(there) == 1 else 'exist'}"
        )
    for path, text in texts.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
        click.echo(file)
    steps = [] if directory.resolve() == Path.cwd() else [f"cd {directory}"]
    steps += ["cp .env.example .env", "edit .env"] if database == "existing" else []
    click.echo(f"\nNow: {' && '.join([*steps, 'rowcast serve'])}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("config", "schema"))
def schemas(directory: Path) -> None:
    """Write the JSON Schemas of config files, which editors use, into a DIRECTORY: config/schema by default."""
    write_schemas(directory)
    for name in json_schemas():
        click.echo(directory / name)


def _texts(name: str, database: str) -> dict[str, str]:
    """The text of each file of a project by its path."""
    templates = resources.files("rowcast.commands").joinpath("project")
    files = {**FILES, **(_OF_OWN_DATABASE if database == "embedded" else {})}
    made = {path: templates.joinpath(template.format(database)).read_text("utf-8") for path, template in files.items()}
    made = {path: text.replace("@project@", name).replace("@version@", __version__) for path, text in made.items()}
    return made | {f"config/schema/{file}": text for file, text in schema_texts().items()}


def _suggestion(name: str) -> str:
    """The nearest name that a project can have."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
    return made[:NAME_MAX_CHARACTERS].strip("-") or "shop"
