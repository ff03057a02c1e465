"""``.env`` in the working directory: variables for the commands that are run there."""

from __future__ import annotations

from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from rowcast.errors import ConfigurationError


def read_environment(path: Path, environ: MutableMapping[str, str]) -> None:
    """Add the variables of a file to those of an environment that does not have them; an empty one counts as there.

    Raises:
        ConfigurationError: names each line that is not a variable.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: cannot be read: it is not UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    wrong = [
        f"{path}:{binding.original.line + leading_lines(binding.original.string)}: "
        "write NAME=value, with quotes around a value that has spaces before # or several lines"
        for binding in parse_stream(StringIO(text))
        if binding.error or (binding.key is not None and binding.value is None)
    ]
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    for name, value in dotenv_values(stream=StringIO(text)).items():
        if value is not None:
            environ.setdefault(name, value)


def leading_lines(text: str) -> int:
    """How many empty lines a text begins with."""
    return text[: len(text) - len(text.lstrip())].count("\n")
