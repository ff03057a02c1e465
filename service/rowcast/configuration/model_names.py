"""The names of models, from those of their resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_IRREGULAR: Final[Mapping[str, str]] = {
    "people": "person", "children": "child", "movies": "movie", "caches": "cache", "indices": "index",
    **{name: name for name in ("news", "series", "species", "data")},
}  # fmt: skip
_ENDINGS: Final = (
    ("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("zzes", "zz"), ("ouses", "ouse"),
    ("auses", "ause"), ("uses", "us"), ("iases", "ias"), ("oes", "o"), ("ss", "ss"), ("us", "us"), ("is", "is"),
    ("s", ""),
)  # fmt: skip


def model_name(name: str) -> str:
    """The name of a resource in the singular and in CamelCase, by the first ending that fits; ``model`` overrides it.

    >>> [model_name(name) for name in ("tasks", "blog-posts", "categories", "boxes", "statuses", "news")]
    ['Task', 'BlogPost', 'Category', 'Box', 'Status', 'News']
    """
    *words, last = re.split("[-_]", name)
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    else:
        for plural, singular in _ENDINGS:
            if last.endswith(plural) and last != plural:
                last = last.removesuffix(plural) + singular
                break
    return "".join(word.capitalize() for word in (*words, last))
