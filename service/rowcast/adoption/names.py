"""Names of tables and columns as names of resources, models, fields and relations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Final

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_A_NAME: Final = re.compile(r"[^a-z0-9]+")
_UNCOUNTABLE: Final = frozenset(
    [
        "audit",
        "content",
        "data",
        "equipment",
        "feedback",
        "hardware",
        "info",
        "information",
        "media",
        "metadata",
        "money",
        "news",
        "series",
        "software",
        "species",
        "staff",
        "stock",
    ]
)
_PLURALS: Final[Mapping[str, str]] = {
    "analysis": "analyses", "axis": "axes", "basis": "bases", "calf": "calves", "child": "children", "crisis": "crises",
    "criterion": "criteria", "diagnosis": "diagnoses", "echo": "echoes", "foot": "feet", "goose": "geese",
    "half": "halves", "hero": "heroes", "hypothesis": "hypotheses", "index": "indexes", "knife": "knives",
    "leaf": "leaves", "life": "lives", "loaf": "loaves", "man": "men", "matrix": "matrices", "mouse": "mice",
    "person": "people", "phenomenon": "phenomena", "potato": "potatoes", "quiz": "quizzes", "shelf": "shelves",
    "synopsis": "synopses", "thesis": "theses", "thief": "thieves", "tomato": "tomatoes", "tooth": "teeth",
    "vertex": "vertices", "veto": "vetoes", "wife": "wives", "wolf": "wolves", "woman": "women",
}  # fmt: skip
_SINGULARS: Final[Mapping[str, str]] = {
    **{plural: singular for singular, plural in _PLURALS.items()},
    **{f"{word}s": word for word in ("cache", "cookie", "menu", "movie", "pie", "shoe", "tie", "toe", "zombie")},
    "indices": "index",
}
_SINGULAR_WITH_S: Final = frozenset(["alias", "atlas", "bias", "canvas", "chaos", "gas", "lens"])
_SINGULAR_ENDINGS: Final = ("ss", "us", "is")
_ENDINGS: Final = (
    ("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("zzes", "zz"), ("oes", "o"),
    ("ouses", "ouse"), ("auses", "ause"), ("uses", "us"), ("iases", "ias"), ("s", ""),
)  # fmt: skip
_KEY_SUFFIX: Final = re.compile(r"_(?:id|fk|key|uuid)$|^(?:id|fk)_")
_COMMON_WORDS: Final = frozenset(
    [
        "account",
        "action",
        "address",
        "answer",
        "attachment",
        "attempt",
        "category",
        "code",
        "comment",
        "detail",
        "document",
        "entry",
        "event",
        "field",
        "file",
        "group",
        "history",
        "image",
        "item",
        "key",
        "level",
        "line",
        "link",
        "list",
        "log",
        "member",
        "message",
        "method",
        "name",
        "note",
        "option",
        "order",
        "page",
        "payment",
        "permission",
        "photo",
        "post",
        "price",
        "product",
        "profile",
        "question",
        "rate",
        "record",
        "request",
        "result",
        "review",
        "role",
        "rule",
        "schedule",
        "section",
        "session",
        "setting",
        "status",
        "step",
        "tag",
        "task",
        "template",
        "token",
        "type",
        "user",
        "value",
        "variant",
        "version",
        "visit",
    ]
)
"""Second halves of Django's model names, which it writes as one word: ``orderitem``."""


def snake(name: str) -> str:
    """A name as words with underscores, all of them ASCII: lower-case letters and digits; empty if none is left.

    >>> [snake(name) for name in ("createdAt", "OrderID", "Straße", "2fa Code", "_private__x")]
    ['created_at', 'order_id', 'strasse', '2fa_code', 'private_x']
    """
    words = _WORD_START.sub("_", name).casefold()
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return _NOT_A_NAME.sub("_", plain).strip("_")


def identifier(name: str, otherwise: str) -> str:
    """The name as ``snake`` has it, where it may not begin with a digit: then ``otherwise`` comes before it."""
    words = snake(name)
    return words if words[:1].isalpha() else f"{otherwise}_{words}".strip("_")


def plural(name: str) -> str:
    """A name with its last word in the plural; one that is in the plural stays.

    >>> [plural(name) for name in ("film", "blog_posts", "category", "address", "status", "person", "staff", "day")]
    ['films', 'blog_posts', 'categories', 'addresses', 'statuses', 'people', 'staff', 'days']
    """
    head, last = _split(name)
    if last in _UNCOUNTABLE or last in _SINGULARS:
        return name
    if last in _PLURALS:
        return head + _PLURALS[last]
    if _ends_as_plural(last):
        return name
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return f"{head}{last[:-1]}ies"
    return f"{head}{last}es" if last.endswith(("s", "x", "z", "ch", "sh")) else f"{head}{last}s"


def singular(name: str) -> str:
    """A name with its last word in the singular; one that is in the singular stays.

    >>> [singular(name) for name in ("films", "categories", "addresses", "status", "people", "news", "houses")]
    ['film', 'category', 'address', 'status', 'person', 'news', 'house']
    """
    head, last = _split(name)
    if last in _UNCOUNTABLE or last in _PLURALS:
        return name
    if last in _SINGULARS:
        return head + _SINGULARS[last]
    if not _ends_as_plural(last):
        return name
    for ending, instead in _ENDINGS:
        if last.endswith(ending) and last != ending:
            return head + last.removesuffix(ending) + instead
    return name


def model(name: str) -> str:
    """The model of a resource: its name in the singular, in CamelCase.

    >>> model("order_items"), model("analyses")
    ('OrderItem', 'Analysis')
    """
    return "".join(word.capitalize() for word in singular(name).split("_"))


def relation(column: str) -> str:
    """The name of the relation of a foreign key with this column.

    >>> [relation(column) for column in ("artist_id", "authorId", "id_client", "parent", "id")]
    ['artist', 'author', 'client', 'parent', 'id']
    """
    words = identifier(column, "key")
    return _KEY_SUFFIX.sub("", words) or words


def common_prefix(names: Collection[str]) -> str:
    """The prefix with which all of at least three names begin, such as ``wp_`` or ``tbl``; empty if they share none.

    >>> common_prefix(["wp_posts", "wp_users", "wp_terms"]), common_prefix(["film", "film_actor", "filmset"])
    ('wp_', '')
    """
    if len(names) < 3:
        return ""
    first, last = min(names), max(names)
    length = next((place for place, char in enumerate(first) if char != last[place]), len(first))
    shared = first[:length]
    head = shared[: shared.rfind("_") + 1]
    if not head and shared.lower() in ("tbl", "t"):
        head = shared if all(name[len(shared) : len(shared) + 1].isupper() for name in names) else ""
    return head if all(name[len(head) : len(head) + 1].isalpha() for name in names) else ""


def django_model(name: str, apps: Iterable[str], hints: Collection[str] = (), others: Collection[str] = ()) -> str:
    """The model in the name of one of Django's tables, without its app, in words.

    Django writes a model as one word. ``hints`` are names of foreign keys to the table, ``others`` the models of the same
    database from which it may be made.

    >>> django_model("shop_orderitem", ["shop"], others=["order"]), django_model("shop_giftcard", ["shop"], ["gift_card"])
    ('order_item', 'gift_card')
    """
    app = max((app for app in apps if name.startswith(f"{app}_")), key=len, default=None)
    word = name if app is None else name.removeprefix(f"{app}_")
    for hint in hints:
        if hint.replace("_", "") == word:
            return hint
    for other in sorted(others, key=len, reverse=True):
        rest = word.removeprefix(other)
        if word.startswith(other) and (rest in _COMMON_WORDS or rest in others):
            return f"{other}_{rest}"
    return word


def unique_name(candidates: Iterable[str], taken: Collection[str]) -> str:
    """The first candidate that is free; otherwise the last one with a number."""
    last = ""
    for last in candidates:
        if last not in taken:
            return last
    number = 2
    while f"{last}_{number}" in taken:
        number += 1
    return f"{last}_{number}"


def _split(name: str) -> tuple[str, str]:
    head, separator, last = name.rpartition("_")
    return head + separator, last


def _ends_as_plural(word: str) -> bool:
    return (
        word.endswith("s") and word not in _SINGULAR_WITH_S and not word.endswith(_SINGULAR_ENDINGS) and len(word) > 2
    )
