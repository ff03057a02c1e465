"""The parameters of ``POST /books/import/``, which its description has as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "on": (),
    "dry_run": ("false", "true"),
    "errors": ("fail", "skip"),
    "max_errors": (),
    "empty": ("default", "null", "text"),
}
"""The parameters, and the values that one may have, of which the first is the default."""
MAX_ERRORS_DEFAULT: Final = 100
MAX_ERRORS_LIMIT: Final = 10_000
