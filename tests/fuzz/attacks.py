"""The hostile generators: each makes one attack after another, from a source of chance alone.

A generator is a function of ``Random`` and the service, and is in ``GENERATORS`` by its name. The same chance makes the same
attack, except for keys, cursors and positions, which are the service's.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import jwt

from tests.http.library import COMPUTED, KINDS, every_lookup
from tests.unit.openapi.sample import LOOKUPS

from .configuration import SECRET
from .service import Service
from .values import BODY_BYTES, COLUMNS, THINGS, body_of, expression, number, text, value
from .wire import Header, deflated, gzipped, quoted, request

LINE_BYTES = 60_000  # of a target: as much as the service reads, nearly
KIND_LOOKUPS = {**every_lookup(KINDS), **COMPUTED}
ZONES = ("Europe/Berlin", "America/St_Johns", "UTC", "posixrules", "../etc/passwd")


@dataclass(frozen=True)
class Attack:
    """What is sent on one connection, and what may come back."""

    pieces: tuple[bytes, ...]
    methods: tuple[bytes, ...] = ()  # of the requests, for those without a body in their response
    pause: float = 0.0  # seconds between pieces
    incomplete: bool = False  # the service may wait for more, or close without a response
    most: int = 1  # responses at most: one more would be to a request that was smuggled in
    enough: bytes = b""  # where to stop reading
    leaves: bool = False  # the client is gone before the response
    copies: int = 1  # connections that send it at the same time


Generator = Callable[[Random, Service], Attack]
GENERATORS: dict[str, Generator] = {}


def generator(function: Generator) -> Generator:
    """Add a function to ``GENERATORS``."""
    GENERATORS[function.__name__] = function
    return function


def write(chance: Random, service: Service, body: bytes, *resources: str) -> bytes:
    """A request that writes a body to one of the resources."""
    resource = chance.choice(resources or ("things", "kinds", "finds", "books", "boxes", "tags"))
    method = chance.choice(("POST", "PATCH", "PUT"))
    if method == "POST" or not service.ids.get(resource):
        return request("POST", f"/{resource}/", body)
    return request(method, f"/{resource}/{quoted(chance.choice(service.ids[resource]))}/", body)


def get(chance: Random, path: str, *pairs: tuple[str, str | bytes]) -> bytes:
    """A request for a list or its stream with parameters, which are not encoded if the path is."""
    query = "&".join(f"{name}={quoted(each)}" for name, each in pairs)
    return request("GET", f"{path}?{query}"[:LINE_BYTES])


# --- generators -------------------------------------------------------------------------------------------------------


@generator
def values_in_bodies(chance: Random, service: Service) -> Attack:
    """Numbers of 5,000 digits, nesting, NUL, surrogates and long lists in every field."""
    resource, fields = chance.choice((("things", THINGS), ("kinds", COLUMNS)))
    return Attack((write(chance, service, body_of(chance, fields), resource),))


@generator
def many_rows(chance: Random, service: Service) -> Attack:
    """Arrays of bodies, of anything else, with keys that are there twice; and keys and filters of what is to be changed."""
    resource, fields = chance.choice((("things", THINGS), ("kinds", COLUMNS)))
    ids = [str(each) for each in service.ids.get(resource) or ["1"]]
    most = chance.choice(("0", "5", "-1", "", "9" * 30, "é"))
    headers: tuple[Header, ...] = (("Prefer", f"max-affected={most}"),) if chance.random() < 0.3 else ()
    if chance.random() < 0.3:
        name = chance.choice(("id__in", "pk__in", "filter", "string", "id"))
        items = ",".join(chance.choice((*ids, "x", "1", "%00")) for _ in range(chance.choice((0, 1, 3, 2000))))
        return Attack((request("DELETE", f"/{resource}/?{name}={quoted(items)}"[:LINE_BYTES], None, *headers),))
    rows = []
    for _ in range(chance.choice((0, 1, 3, 3, 1001))):
        row = body_of(chance, fields)[:2000]
        key = json.dumps(chance.choice((*ids, *ids, 1, None, "x"))).encode()
        rows.append(row if chance.random() < 0.5 else b'{"id":%b,%b' % (key, row[1:]))
    body = b"[%b]" % b",".join(rows)
    method = chance.choice(("POST", "PATCH", "PUT"))
    on = chance.choice(("?on=id", "?on=string&existing=keep", "?on=", "?on=id&on=id", "")) if method == "PUT" else ""
    return Attack((request(method, f"/{resource}/{on}", body, *headers),))


@generator
def big_integers(chance: Random, service: Service) -> Attack:
    """Strings and numbers that are, nearly are, or are not integers of 64 bits, in bodies, filters, keys and sums."""
    sent = chance.choice((
        str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), "-0", "+5", "1.0", "1e3", "", " 1", "\u0661", "0x10",
        "9" * chance.choice((18, 19, 20, 5000)), number(chance),
    ))  # fmt: skip
    quoted_value = json.dumps(sent)
    written = chance.choice((sent or "null", quoted_value, quoted_value, f"[{quoted_value}]"))
    body = f'{{"size": {written}, "after_id": {chance.choice(("null", written))}}}'.encode(errors="surrogatepass")
    attacks = (
        request("POST", "/huge/", body),
        request("POST", "/huge/", b"[%b]" % body),
        request("PATCH", f"/huge/{quoted(sent) or '1'}/"[:LINE_BYTES], body),
        get(chance, "/huge/", (chance.choice(("size", "size__in", "size__gt", "after")), sent)),
        get(chance, "/huge/", ("filter", f'{{"size__gt": {written}}}')),
        get(chance, "/huge/aggregate/", ("group_by", "size"), ("sum", "size"), ("sum_size__gte", sent)),
    )
    return Attack((chance.choice(attacks),))


@generator
def preferences(chance: Random, service: Service) -> Attack:
    """``Prefer`` that is right, wrong, quoted, cut, long and not text, on every method and in batches."""
    parts = ("return=minimal", "return=representation", "count=none", "count=estimated", "count=exact", "handling=strict",
             "max-affected=1", "max-affected=0", "max-affected=1e9", "return", "=", '"', 'x="a, \\"b', ";p=1", "respond-async", "\xff",
             "count=é", "RETURN = minimal", ",,", "wait=" + "9" * 3000)  # fmt: skip
    headers: list[Header] = [
        ("Prefer", ", ".join(chance.choice(parts) for _ in range(chance.choice((1, 2, 5, 200)))))
        for _ in range(chance.choice((1, 1, 2)))
    ]
    resource = chance.choice(("tags", "boxes", "marks", "things", "log-lines"))
    row = f"/{resource}/{quoted(str(chance.choice(service.ids.get(resource) or ['1'])))}/"
    body = b'{"name":"preferred-%d"}' % chance.randrange(10**6)
    method, path, sent = chance.choice((
        ("GET", f"/{resource}/", None), ("QUERY", f"/{resource}/", b"{}"), ("HEAD", f"/{resource}/", None), ("GET", row, None),
        ("POST", f"/{resource}/", body), ("POST", f"/{resource}/", b"[%b]" % body), ("PATCH", row, body), ("PUT", row, body),
        ("PUT", f"/{resource}/?on=name", body), ("OPTIONS", f"/{resource}/", None),
        ("POST", "/batch/", b'{"operations":[{"method":"POST","path":"/%b/","body":%b}]}' % (resource.encode(), body)),
    ))  # fmt: skip
    methods = (b"HEAD",) if method == "HEAD" else ()
    return Attack((request(method, path, sent, *headers),), methods=methods)


@generator
def imports(chance: Random, service: Service) -> Attack:
    """Files of rows with hostile cells, headers, quotes, lengths and parameters, as CSV and NDJSON, compressed or not."""
    fields = list(THINGS)
    resource = chance.choice(("things", "things", "seats"))
    if chance.random() < 0.5:
        media_type = "text/csv"
        names = [chance.choice((*fields, "nothing", "", "string")) for _ in range(chance.choice((1, 2, 3, 40)))]
        lines = [",".join(names).encode(errors="replace")]
        for _ in range(chance.choice((0, 1, 5, 700))):
            cells = (_cell(chance) for _ in range(len(names) if chance.random() < 0.9 else chance.randint(0, 5)))
            lines.append(b",".join(cells))
        body = chance.choice((b"\n", b"\r\n", b"\r")).join(lines)
    else:
        media_type = "application/x-ndjson"
        body = b"\n".join(body_of(chance, THINGS)[:3000] for _ in range(chance.choice((0, 1, 5, 300))))
    if chance.random() < 0.2:
        body = body[: chance.randrange(len(body) + 1)] + chance.choice((b'"', b"\xff", b"\0", b"\n\n", b"{"))
    values_of = {
        "on": ("id", "string", "", "row,box,day", "é"),
        "errors": ("skip", "skip", "fail", "x"),
        "dry_run": ("true", "false", "1"),
        "max_errors": ("0", "10000", "-1", "9" * 40, "٣"),
        "empty": ("null", "text", "default", "%00"),
        "nothing": ("1",),
    }
    chosen = chance.sample(list(values_of), chance.choice((0, 1, 2, 3)))
    query = "&".join(f"{name}={quoted(chance.choice(values_of[name]))}" for name in chosen)
    headers: list[Header] = [("Content-Type", media_type)]
    if chance.random() < 0.2:
        packed, encoding = chance.choice(((gzipped, "gzip"), (deflated, "deflate")))
        body = packed(body)[: None if chance.random() < 0.5 else 50]
        headers.append(("Content-Encoding", encoding))
    return Attack((request("POST", f"/{resource}/import/?{query}", body, *headers),))


def _cell(chance: Random) -> bytes:
    """A cell of CSV: right, hostile, or with quotes in wrong places."""
    sent = value(chance)
    text = sent if isinstance(sent, bytes) else str(sent).encode(errors="surrogatepass")
    cell = chance.choice((text[:200], b"1", b"", b'""', b"a", b"[1,2]", b'{"a":1}', b"true"))
    return b'"' + cell.replace(b'"', b'""') + b'"' if chance.random() < 0.3 else cell


@generator
def nested_rows(chance: Random, service: Service) -> Attack:
    """Children in lists and objects, with keys of their own, of other parents and of nothing, inside one another."""
    relations = {"authors": ("books", "pupils"), "books": ("reviews",), "boxes": ("things", "seats")}
    targets = {"pupils": "authors"}
    own: dict[str, tuple[dict[str, Any], ...]] = {
        "authors": ({"name": "a"}, {"name": _as_string(text(chance))}),
        "books": ({"title": "t"}, {"title": "t", "author_id": None}, {"tags": [1, None]}),
        "boxes": ({"name": "n"},),
        "reviews": ({"stars": 3}, {"stars": 9}),
        "seats": ({"row": "r", "day": "2026-01-01"}, {"row": "r", "day": "x", "box_id": 1}),
        "things": ({"string": "abc", "email": "a@b.de", "slug": "a", "integer": 1, "decimal": 1, "document": {}, "words": ["w"]},),
    }  # fmt: skip

    def row(resource: str, depth: int) -> Any:
        if chance.random() < 0.03:
            return chance.choice((None, 1, [], "x"))
        made = dict(chance.choice(own[resource]))
        if chance.random() < 0.4:
            made["id"] = chance.choice((*(service.ids.get(resource) or ()), 1, None, "x", 2**70, {}))
        if depth < chance.choice((2, 3, 12)):
            made |= {
                name: children(targets.get(name, name), depth + 1)
                for name in relations.get(resource, ())
                if chance.random() < 0.6
            }
        return made

    def children(resource: str, depth: int) -> Any:
        def some() -> Any:
            if chance.random() < 0.05:
                return chance.choice((None, {}, "x", 1))
            most = chance.choice((0, 1, 1, 2, 3)) if depth < 4 else 1
            return [row(resource, depth) for _ in range(most)]

        if chance.random() < 0.6:
            return some()
        return {name: some() for name in ("create", "update", "delete", "creat") if chance.random() < 0.5}

    resource = chance.choice(("authors", "books", "boxes"))
    ids = service.ids.get(resource) or ["1"]
    address = chance.choice((f"/{resource}/", f"/{resource}/{quoted(chance.choice(ids))}/"))
    many = [row(resource, 0) for _ in range(chance.choice((1, 3)))]
    body = json.dumps(chance.choice((row(resource, 0), row(resource, 0), many))).encode()
    method = chance.choice(("POST", "PATCH", "PUT"))
    query = chance.choice(("", "", "", "?on=name", "?filter={}")) if method != "POST" else ""
    return Attack((request(method, f"{address}{query}", body),), copies=chance.choice((1, 1, 1, 4)))


@generator
def values_in_filters(chance: Random, service: Service) -> Attack:
    """The same, in every lookup of every type."""
    resource, lookups = chance.choice((("kinds", KIND_LOOKUPS), ("things", LOOKUPS)))
    name = chance.choice(list(lookups))
    lookup = chance.choice([each for each in lookups[name] if "regex" not in each])
    parameter = name if lookup == "exact" else f"{name}__{lookup}"
    sent = (
        value(chance) if chance.random() < 0.5 else chance.choice(("1", "1,9", "2024", "0", "2024-02-29", "12,24", "a"))
    )
    zone = [("tz", value(chance) if chance.random() < 0.3 else chance.choice(ZONES))] if chance.random() < 0.3 else []
    path = f"/{resource}/" if chance.random() < 0.8 else f"/{resource}/stream/"
    return Attack((get(chance, path, (parameter, sent), *zone),), enough=b"event: ready")


@generator
def aggregates(chance: Random, service: Service) -> Attack:
    """Functions, groups, conditions on results, zones, orders and pages: right ones, wrong ones, and hostile values.

    Some are streams, with positions of other streams and with snapshots, left as soon as they have begun.
    """
    names = (
        "group_by",
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "count_distinct",
        "ordering",
        "tz",
        "filter",
        "page",
        "page_size",
    )
    results = ("count", "sum_integer", "avg_decimal", "max_datetime", "min_string")
    fields = (*COLUMNS, "*", "datetime__trunc_month", "date__trunc_week", "datetime__trunc_hour", "nothing")
    pairs: dict[str, str | bytes] = {}
    for _ in range(chance.randint(0, 6)):
        if chance.random() < 0.3:
            name = f"{chance.choice(results)}__{chance.choice(('gt', 'gte', 'lt', 'lte', 'ne', 'in'))}"
            pairs[name] = value(chance) if chance.random() < 0.5 else chance.choice(("1", "0.5", "2026-01-01"))
            continue
        name = chance.choice(names)
        right = ",".join(chance.sample(fields, chance.choice((1, 1, 2, 9))))
        usual = {"tz": chance.choice(ZONES), "ordering": f"-{chance.choice(results)}", "page": "2", "page_size": "0"}
        pairs[name] = value(chance) if chance.random() < 0.3 else usual.get(name, right)
    if chance.random() < 0.5:
        return Attack((get(chance, "/kinds/aggregate/", *pairs.items()),))
    for name in ("ordering", "page", "page_size"):
        if chance.random() < 0.9:
            pairs.pop(name, None)
    own: dict[str, str | bytes] = {"snapshot": "true", "last_event_id": chance.choice(service.positions)}
    if chance.random() < 0.7:
        name = chance.choice(list(own))
        pairs[name] = own[name] if chance.random() < 0.8 else value(chance)
    return Attack((get(chance, "/kinds/aggregate/stream/", *pairs.items()),), enough=b"event: ready")


@generator
def exports(chance: Random, service: Service) -> Attack:
    """Whole lists with hostile values in filters, orders and ``Accept``; some clients leave before the end."""
    resource, lookups = chance.choice((("kinds", KIND_LOOKUPS), ("things", LOOKUPS)))
    name = chance.choice(list(lookups))
    lookup = chance.choice([each for each in lookups[name] if "regex" not in each])
    pairs: dict[str, str | bytes] = {name if lookup == "exact" else f"{name}__{lookup}": value(chance)}
    if chance.random() < 0.5:
        pairs = {
            chance.choice(("excel", "fields", "ordering", "expand", "page", "cursor")): chance.choice(
                ("true", name, "1")
            )
        }
    query = "&".join(f"{key}={quoted(each)}" for key, each in pairs.items())
    types = (
        "text/csv",
        "application/x-ndjson",
        "text/csv;q=0.5, */*;q=0.4",
        "text/csv;q=\xff",
        ",;q=,text/csv;;q=1e999",
    )
    headers = (("Accept", chance.choice(types)), ("Accept-Encoding", chance.choice(("gzip", "gzip;q=nan", "*", ""))))
    target = f"/{resource}/?{query}"[:LINE_BYTES]
    sent = request("GET", target, None, *headers)
    return Attack((sent,), leaves=chance.random() < 0.2)


@generator
def groups(chance: Random, service: Service) -> Attack:
    """The same, in groups of conditions: deep, long, cut, with keys that are there twice; in addresses, bodies and streams."""
    resource, lookups = chance.choice((("kinds", KIND_LOOKUPS), ("things", LOOKUPS)))
    group = _group(chance, lookups, chance.choice((0, 1, 3, 6, 60)))
    if chance.random() < 0.2:
        group = group[: chance.randrange(len(group) + 1)]
    if chance.random() < 0.5:
        body = f'{{"filter": {group}, "tz": "{chance.choice(ZONES)}", "page_size": {chance.choice(("1", "0", "true", "[]", number(chance)))}}}'
        return Attack((request("QUERY", f"/{resource}/", body.encode(errors="surrogatepass")),))
    path = chance.choice((f"/{resource}/", f"/{resource}/", f"/{resource}/stream/"))
    return Attack((get(chance, path, ("filter", group[:LINE_BYTES])),), enough=b"event: ready")


def _group(chance: Random, lookups: Mapping[str, Sequence[str]], depth: int) -> str:
    """A group of conditions as JSON, or nearly, with groups around it; nothing is put around one that fills a body."""
    group = _flat_group(chance, lookups, chance.choice((0, 1, 2, 60)))
    for level in range(depth):
        if len(group) > BODY_BYTES:
            break
        conditions = _conditions(chance, lookups, chance.choice((0, 1, 2, 60) if level < 3 else (0, 0, 0, 1)))
        operator = chance.choice(("and", "or", "not"))
        inner = [group, _flat_group(chance, lookups, 1)] if chance.random() < 0.2 else [group]
        chance.shuffle(inner)
        listed = (operator != "not") != (chance.random() < 0.02)
        members = [*conditions, f'"{operator}": {"[" if listed else ""}{", ".join(inner)}{"]" if listed else ""}']
        group = "{" + ", ".join(members) + "}"
    return group


def _flat_group(chance: Random, lookups: Mapping[str, Sequence[str]], count: int) -> str:
    return "{" + ", ".join(_conditions(chance, lookups, count)) + "}"


def _conditions(chance: Random, lookups: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """The members of a group that are conditions."""
    members = []
    for _ in range(count):
        name = chance.choice([*lookups, "nothing", "and", "or", "not", "filter", ""])
        lookup = chance.choice([each for each in lookups.get(name, ["exact"]) if "regex" not in each])
        sent = value(chance)[: chance.choice((20, 300, BODY_BYTES))]
        argument = sent if chance.random() < 0.5 and isinstance(sent, str) else json.dumps(str(sent))
        members.append(f'"{name}{"" if lookup == "exact" else "__" + lookup}": {argument}')
    return members


@generator
def values_in_pages(chance: Random, service: Service) -> Attack:
    """The same, in the parameters of pages, and as keys."""
    if chance.random() < 0.3:
        resource = chance.choice(("tags", "boxes", "kinds", "countries", "marks"))
        return Attack(
            (request(chance.choice(("GET", "DELETE")), f"/{resource}/{quoted(value(chance))[:LINE_BYTES]}/"),)
        )
    resource = chance.choice(("boxes", "kinds", "things", "log-lines"))
    name = chance.choice(("page", "page_size", "limit", "offset", "cursor", "ordering", "fields", "expand", "search"))
    return Attack((get(chance, f"/{resource}/", (name, value(chance))),))


@generator
def long_lists(chance: Random, service: Service) -> Attack:
    """``in`` with as many values as fit, of every type, and quotes that never end."""
    name = chance.choice([name for name, lookups in KIND_LOOKUPS.items() if "in" in lookups])
    item = chance.choice(
        ("1", "1.5", "a", '"a"', "x" * 20, "2026-01-01", "P1D", "0190f0a4-7a5c-7000-8000-000000000000", "true", "", '"')
    )
    separator = chance.choice((",", ",", ", ", ",,", '","'))
    items = separator.join(
        item if chance.random() < 0.5 else f"{item}{n}" for n in range(LINE_BYTES // (len(item) + len(separator) + 5))
    )
    path = chance.choice(("/kinds/", "/kinds/", "/kinds/stream/"))
    lookup = chance.choice(("in", "in", "range"))
    return Attack((request("GET", f"{path}?{name}__{lookup}={items}"[:LINE_BYTES]),), enough=b"event: ready")


@generator
def parameters(chance: Random, service: Service) -> Attack:
    """Ten thousand parameters: unknown, misspelt, repeated."""
    name = chance.choice(
        ("a", "", "strin", "string__", "string__exac", "box__", "box__name__", "%00", "page", "fields")
    )
    count = chance.choice((3, 999, LINE_BYTES // (len(name) + 5)))
    repeats = chance.random() < 0.3
    pairs = (f"{name}{'' if repeats else n}={chance.choice(('', 1))}" for n in range(count))
    return Attack(
        (
            request(
                "GET",
                f"/{chance.choice(('things', 'kinds', 'loose', 'things/stream'))}/?{'&'.join(pairs)}"[:LINE_BYTES],
            ),
        )
    )


@generator
def keys(chance: Random, service: Service) -> Attack:
    """Ninety thousand keys in a body: unknown, misspelt, repeated, long."""
    name = chance.choice(("a", "string", "strin", "x" * 1000, "\\u0000", ""))
    count = min(90_000, BODY_BYTES // (len(name) + 11))
    repeats = chance.random() < 0.3
    members = ",".join(f'"{name}{n % 80_000 if repeats else n}":1' for n in range(count))
    return Attack((write(chance, service, b"{%b}" % members.encode()),))


@generator
def names(chance: Random, service: Service) -> Attack:
    """Paths of relations and lists of names that grow without end."""
    step = chance.choice(
        ("author", "books", "author__books", "tags__books", "mentor", "pupils__mentor", "x", "authr", "", "_")
    )
    path = "__".join([step] * chance.choice((1, 4, 8, 9, 500)))
    count = chance.choice((1, 3, 33, 5000))
    listed = ",".join(path if chance.random() < 0.3 else f"{path}{n}" for n in range(count))
    name = chance.choice(("expand", "fields", "ordering", path))
    return Attack((request("GET", f"/{chance.choice(('books', 'authors', 'tags'))}/?{name}={listed}"[:LINE_BYTES]),))


@generator
def expressions(chance: Random, service: Service) -> Attack:
    """Regular expressions and searches that explode."""
    found = expression(chance)
    kind = chance.randrange(5)
    if kind == 0:
        words = " ".join(
            chance.choice((found, "a", '"', '"a b', "-a", "a*", "&", "|", "!", "(", ":*", "'"))
            for _ in range(chance.randint(1, 20))
        )
        return Attack((get(chance, f"/{chance.choice(('finds', 'things', 'books'))}/", ("search", words)),))
    path = chance.choice(("/things/", "/things/", "/things/stream/"))
    return Attack(
        (get(chance, path, (f"string__{chance.choice(('regex', 'iregex', 'search'))}", found)),), enough=b"event: ready"
    )


@generator
def cursors(chance: Random, service: Service) -> Attack:
    """Cursors that the service issued, cut, glued, changed, and sent to other lists."""
    link = chance.choice(service.links)
    path, _, query = link.partition("?")
    match = re.search(r"cursor=([^&]*)", query)
    cursor = bytearray(match[1].encode() if match else b"AAAA")
    other = re.search(r"cursor=([^&]*)", chance.choice(service.links))
    for _ in range(chance.randint(0, 3)):
        place = chance.randrange(len(cursor) + 1)
        match chance.randrange(6):
            case 0:
                del cursor[place:]
            case 1:
                cursor += (other[1] if other else "").encode()
            case 2:
                cursor[place:place] = chance.choice((b"=", b"%00", b"-", b"A" * 5000, b".", b"%FF"))
            case 3 if place < len(cursor):
                cursor[place] = chance.choice(b"ABCabc019-_")
            case 4:
                letters = re.sub(rb"[^\w-]", b"", bytes(cursor))
                changed = bytearray(base64.urlsafe_b64decode(letters[: len(letters) // 4 * 4]))
                if changed:
                    changed[chance.randrange(len(changed))] = chance.randrange(256)
                cursor = bytearray(base64.urlsafe_b64encode(bytes(changed)))
            case _:
                cursor = bytearray(
                    base64.urlsafe_b64encode(
                        chance.choice((b"[]", b"{}", b"null", b"[" * 3000, b'["1e999999"]', b"\x80\x04."))
                    )
                )
    path = chance.choice((path, "/things/", "/marks/", "/kinds/"))
    more = chance.choice(("", "&ordering=string", "&ordering=-float", "&page_size=1", "&box__name=x"))
    return Attack((request("GET", f"{path}?cursor={cursor.decode()}{more}"[:LINE_BYTES]),))


INFLATED = (b" " * 50_000_000, b"[" * 20_000_000, b'{"text":"' + b"a" * 30_000_000 + b'"}', b'{"text":"a"}')
PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    gzipped, lambda data: gzipped(data, 2), deflated, lambda data: deflated(data, raw=True)
)  # fmt: skip


@cache
def packed(inflated: int, packer: int) -> bytes:
    """One of the bodies of ``bombs``, since packing it takes longer than the attack."""
    return PACKERS[packer](INFLATED[inflated])


@generator
def bombs(chance: Random, service: Service) -> Attack:
    """Bodies that are small on the wire and large in memory, cut, glued or labelled wrongly."""
    encoding = chance.choice(
        ("gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "GZIP", "x-gzip", "deflate, gzip")
    )
    data = packed(chance.randrange(len(INFLATED)), chance.randrange(len(PACKERS)))
    match chance.randrange(5):
        case 0:
            data = data[: chance.randrange(len(data))]
        case 1:
            data += chance.choice((b"\0" * 1000, data[:100_000], b"trailing"))
        case 2:
            data = data[:40] + bytes(chance.randbytes(20)) + data[60:]
    method, target = chance.choice(
        (
            ("POST", "/things/"),
            ("PATCH", "/things/x/"),
            ("GET", "/things/"),
            ("POST", "/nothing/"),
            ("DELETE", "/tags/0/"),
        )
    )
    return Attack((request(method, target, data[:BODY_BYTES], ("Content-Encoding", encoding)),))


@generator
def framing(chance: Random, service: Service) -> Attack:
    """Chunks and lengths that contradict each other: what follows must not become a request of its own."""
    hidden = b"GET /health/live HTTP/1.1\r\nHost: hidden\r\nX-Request-ID: smuggled-in\r\n\r\n"
    body = b'{"name": "x"}'
    head: list[Header] = [("Connection", chance.choice(("close", "close", "keep-alive", "close, Transfer-Encoding")))]
    size = b"%x" % len(body)
    chunked = chance.choice((
        size + b"\r\n" + body + b"\r\n0\r\n\r\n", size + b";a=b;c\r\n" + body + b"\r\n0\r\n\r\n", b"0" * 20 + size + b"\r\n" + body + b"\r\n0\r\n\r\n",
        b"0x" + size + b"\r\n" + body + b"\r\n0\r\n\r\n", b"-1\r\n" + body, b"ffffffffffffffff\r\n" + body, size + b" \r\n" + body + b"\r\n0\r\n\r\n",
        size + b"\n" + body + b"\n0\n\n", b"+" + size + b"\r\n" + body + b"\r\n0\r\n\r\n", size + b"\r\n" + body + b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n",
        b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n", size + b";" + b"a" * 70_000 + b"\r\n" + body + b"\r\n0\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
        b"", b"zz\r\n", size, size + b"\r\n" + body[:5],
    ))  # fmt: skip
    match chance.randrange(7):
        case 0:
            head += [("Transfer-Encoding", "chunked"), ("Content-Length", str(len(chunked)))]
        case 1:
            head += [
                (
                    "Transfer-Encoding",
                    chance.choice(
                        ("chunked, chunked", "xchunked", " chunked", "chunked\t", "identity", "gzip, chunked", "")
                    ),
                )
            ]
        case 2:
            head += [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")]
        case 3:
            chunked = body
            head += [("Content-Length", str(len(body))), ("Content-Length", str(len(body) + chance.choice((0, 1, 40))))]
        case 4:
            chunked = body
            length = chance.choice(("-1", "+13", "013", "1_3", "13 ", "0x0d", "13,13", "", "9" * 30, "13\0", "1e1"))
            head += [("Content-Length", length)]
        case _:
            head += [("Transfer-Encoding", chance.choice(("chunked", "Chunked")))]
    return Attack((request("POST", "/boxes/", chunked, *head) + hidden,), incomplete=True, most=2)


@generator
def pipelines(chance: Random, service: Service) -> Attack:
    """Several requests in one go, and cut into pieces at any byte."""
    kinds = (
        request("GET", "/boxes/", close=False), request("GET", "/nothing/", close=False), request("OPTIONS", "/things/", close=False),
        request("POST", "/boxes/", b'{"name": "x"}', close=False), request("POST", "/boxes/", b'{"name": ', close=False),
        request("GET", "/things/?page_size=50", close=False), request("DELETE", "/boxes/0/", close=False),
    )  # fmt: skip
    chosen = [chance.choice(kinds) for _ in range(chance.choice((1, 3, 10, 60)))]
    data = b"".join(chosen) + request("GET", "/health/live")
    if chance.random() < 0.5:
        return Attack((data,), most=len(chosen) + 1)
    cuts = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.choice((1, 5, 40)))))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return Attack(tuple(pieces), pause=0.002, most=len(chosen) + 1)


HEADERS = (
    "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Content-Type", "Cookie", "Expect", "Forwarded", "Host",
    "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Last-Event-ID", "Origin", "Access-Control-Request-Method", "Prefer",
    "Range", "Referer", "Sec-WebSocket-Key", "TE", "Trailer", "Upgrade", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Proto",
    "X-HTTP-Method-Override", "X-Request-ID", "Content-Encoding", "Content-Range", "Date", "Via", "Idempotency-Key",
)  # fmt: skip


@generator
def headers(chance: Random, service: Service) -> Attack:
    """Every header that a service may read, with values that split lines, are giant, or are not what they should be."""
    name = chance.choice(HEADERS)
    many = chance.choice((1, 100, 9000, 66_000))
    hostile = chance.choice((
        b"a\r\nX-Injected: 1", b"a\nX-Injected: 1", b"a\rX-Injected: 1", b"a\r\n\tfolded", b"a\0b", b"\xff\xfe", b'"' * many, b"," * many,
        b"*/*;q=" + b"9" * many, b"a/b;" * many, b"*/*," * (many // 4), b"application/json;q=nan", b"application/json; charset=nonsense",
        b"multipart/form-data; boundary=" + b"a" * many, b"application/json;" + b"a=b;" * (many // 4), b"W/" * many, b'W/"a",' * (many // 6), b"*",
        b"bytes=" + b"0-," * (many // 3), b"bytes=0-99999999999999999999", b"Bearer " + b"a" * many, b"Bearer a.b.c", b"Basic AAAA", b"Token", b" ",
        b"a=b; " * (many // 5), b"100-continue", b"websocket", b"[::1", b"a:b:c", b"evil.example", b"9" * many, b"javascript:alert(1)", b"%0d%0aX-Injected:1",
        b"for=" + b'"[' * many, b"-1", b"for=1;" * (many // 6), b"\xc4\xb0", b"Thu, 01 Jan 1970 00:00:00 GMT" * (many // 29 + 1),
    ))  # fmt: skip
    target = chance.choice(
        ("/things/", "/boxes/", "/nothing/", "/things/stream/", f"/kinds/{service.ids['kinds'][0]}/", "/openapi.json")
    )
    method = chance.choice(("GET", "OPTIONS", "POST", "PATCH", "DELETE"))
    body = b'{"name": "x"}' if method in ("POST", "PATCH") else None
    repeated = [(name, hostile)] * chance.choice((1, 1, 2, 300)) if len(hostile) < 300 else [(name, hostile)]
    return Attack((request(method, target, body, *repeated),), incomplete=True, enough=b"event: ready", most=2)


@generator
def targets(chance: Random, service: Service) -> Attack:
    """Request lines: odd methods, targets, encodings and versions."""
    path = chance.choice((
        b"/", b"//", b"/" * 5000, b"/things", b"/things/stream/", b"/./things/", b"/../" * 200, b"/things/%2e%2e/", b"*", b"/openapi.json", b"/docs",
        b"/%", b"/%zz", b"/%ff%fe/", b"/\xff/", b"/things/%00/", b"/things/%2F/", b"/" + b"a" * 60_000, b"/" + b"a/" * 20_000, b"/stream/?resources=things,kinds",
        b"http://evil.example/things/", b"http://[::1/", b"http://a@b:99999/things/", b"https://x", b"ftp://x/", b"x:y", b"?", b"#", b"/things/?#?", b"http://",
        b"/things/?" + b"&" * 5000, b"/things/?=" + b"=" * 5000, b"/things/;x", b"/things/?string=%zz", b"/stream/?resources=" + b"things," * 3000,
    ))  # fmt: skip
    method = chance.choice(
        (
            b"GET",
            b"GET",
            b"HEAD",
            b"OPTIONS",
            b"BREW",
            b"get",
            b"TRACE",
            b"CONNECT",
            b"A" * 3000,
            b"G\xc3\x84T",
            b"PRI",
            b"PUT",
            b"",
        )
    )
    ending = chance.choice(
        (
            b" HTTP/1.1",
            b" HTTP/1.1",
            b" HTTP/1.0",
            b" HTTP/2.0",
            b" HTTP/0.9",
            b"",
            b" HTTP/1.1 x",
            b" ICY/1.1",
            b" HTTP/1.10",
        )
    )
    data = method + b" " + path + ending + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return Attack((data,), methods=(method,), incomplete=True, enough=b"event: ready", most=2)


@generator
def tokens(chance: Random, service: Service) -> Attack:
    """Credentials: garbage, and signed tokens with impossible claims."""
    extreme: Any = chance.choice(
        (10**400, -(10**400), 1e308, 2**63, -1, 0, None, True, [], {}, "x", "9" * 5000, 253402300800, 4102444800)
    )
    claims: dict[str, Any] = {"sub": "1", "aud": "rowcast", "exp": 4102444800}
    registered = ("exp", "nbf", "iat", "sub", "aud", "iss", "is_staff", "jti")
    for name in chance.choice((("org",), ("since",), ("sub",), chance.sample(registered, chance.choice((1, 1, 2))))):
        claims[name] = chance.choice((extreme, text(chance) if name != "aud" else "x"))
    claims = {name: each.decode("latin-1") if isinstance(each, bytes) else each for name, each in claims.items()}
    encoded = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    header = base64.urlsafe_b64encode(
        json.dumps({"alg": chance.choice(("HS256", "none", "RS256", ["HS256"], None, "HS256" * 500)), "kid": chance.choice((None, [], "../x", 1))}).encode()
    ).rstrip(b"=").decode()  # fmt: skip
    try:
        signed = jwt.encode(claims, SECRET)
    except (TypeError, ValueError):  # it refuses to make some of them
        key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        plain = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode() + "." + encoded
        signature = key.sign(plain.encode(), SECRET.encode())
        signed = plain + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    token = chance.choice(
        (
            *[signed] * 6,
            f"{header}.{encoded}.",
            f"{header}.{encoded}.AAAA",
            "rc_" + "a" * chance.choice((1, 43, 9000)),
            "." * 3000,
            "a.b.c",
        )
    )
    if chance.random() < 0.3:
        return Attack(
            (get(chance, chance.choice(("/things/stream/", "/owned/stream/")), ("access_token", token)),),
            enough=b"event: ready",
        )
    return Attack(
        (
            request(
                "GET",
                chance.choice(("/things/", "/box-parts/", "/owned/", "/owned/")),
                None,
                ("Authorization", f"Bearer {token}"[:LINE_BYTES]),
            ),
        )
    )


@generator
def streams(chance: Random, service: Service) -> Attack:
    """Streams with impossible positions, many filters and snapshots, left as soon as they have begun."""
    position = bytearray(chance.choice(service.positions).encode())
    for _ in range(chance.randint(0, 3)):
        place = chance.randrange(len(position) + 1)
        position[place:place] = chance.choice((b"-", b".", b":", b"9" * 300, b"0", b"%00", b",", b"z", b"\xff"))
    pairs: list[tuple[str, str | bytes]] = []
    if chance.random() < 0.7:
        pairs.append(("last_event_id", chance.choice((bytes(position), number(chance), text(chance)))))
    if chance.random() < 0.5:
        pairs.append(
            (
                chance.choice(
                    ("snapshot", "fields", "expand", "string__icontains", "integer__in", "marks", "box__name")
                ),
                chance.choice(("true", value(chance))),
            )
        )
    path = chance.choice(
        (
            "/things/stream/",
            "/kinds/stream/",
            "/stream/",
            "/log-lines/stream/",
            f"/things/{service.ids['things'][0]}/stream/",
        )
    )
    if path == "/stream/":
        pairs.append(("resources", chance.choice(("things", "things,kinds", "things," * 500, text(chance)))))
    return Attack((get(chance, path, *pairs),), enough=b"event: ready")


@generator
def stream_queries(chance: Random, service: Service) -> Attack:
    """Many streams by one body: names, resources, parameters and positions of all kinds, groups of filters, and too many of them."""

    def params(resource: str) -> Any:
        fields = list({"things": THINGS, "kinds": COLUMNS}.get(resource, THINGS))
        filters: dict[str, Any] = {
            f"{chance.choice(fields)}{chance.choice(('', '__in', '__gte', '__isnull', '__x'))}": chance.choice(
                (_as_string(value(chance)), 1, True, None, [1, "x"], {"or": []}, 2**70)
            )
        }
        for _ in range(chance.choice((0, 0, 1, 3, 40))):
            filters = {chance.choice(("and", "or")): [filters, {}]} if chance.random() < 0.7 else {"not": filters}
        made: dict[str, Any] = {
            "filter": chance.choice((filters, json.dumps(filters), filters, [filters])),
            "fields": chance.choice((fields[:2], [], ["nothing"], ",".join(fields), [1, 2.5])),
            "expand": chance.choice(([], ["box"], "marks", "box__things", ["nothing"])),
            "snapshot": True,
            "access_token": "x",
            _as_string(text(chance))[:300]: chance.choice((1, None, {}, [[]])),
        }
        return {
            name: each
            for name, each in made.items()
            if chance.random() < (0.4 if name in ("filter", "fields", "expand") else 0.05)
        }

    def query() -> Any:
        resource = chance.choice(("things", "things", "kinds", "boxes", "owned", "nothing", "things,kinds", ""))
        made: dict[str, Any] = {"resource": resource, "params": params(resource)}
        if chance.random() < 0.5:
            made["last_event_id"] = chance.choice(
                (*service.positions[:3], "x", "9" * 400, "", None, 1, _as_string(text(chance)))
            )
        if chance.random() < 0.1:
            made[chance.choice(("resource", "params", "more"))] = chance.choice(
                (None, [], 1, {"a": {"b": {}}}, "x" * 5000)
            )
        return chance.choice((made,) * 12 + (None, [], "things"))

    names = chance.choice(
        (("a",), ("a", "b"), ("a", "b", "é☃"), ("",), ("x" * 101,), ("a\nb", "a\u2028"), tuple(map(str, range(101))))
    )
    body = json.dumps(
        chance.choice(({"queries": {name: query() for name in names}},) * 12 + ({"queries": []}, {}, [], None))
    ).encode()
    if chance.random() < 0.1:
        body = chance.choice(
            (
                body[:-3],
                body.replace(b'"a"', b'"a":{},"a"', 1),
                body.replace(b"{}", b'{"a":' * 400 + b"1" + b"}" * 400),
                b"\xff",
                b"",
            )
        )
    path = chance.choice(("/stream/",) * 8 + ("/stream", "/stream/?resources=things", "/things/stream/"))
    return Attack((request("QUERY", path, body),), enough=b"event: ready")


def _as_string(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


@generator
def batches(chance: Random, service: Service) -> Attack:
    """Operations with members, references and paths that are right, wrong or hostile, and too many of them."""
    names = ("a", "b", "", "a.b", "$ref", "a" * 300)

    def part(depth: int = 0) -> Any:
        match chance.randrange(7):
            case 0 if depth < 3:
                return {
                    chance.choice(("string", "$$ref", "$ref", "x")): part(depth + 1)
                    for _ in range(chance.randint(0, 2))
                }
            case 1 if depth < 3:
                return [part(depth + 1) for _ in range(chance.randint(0, 3))]
            case 2 | 3:
                return {"$ref": chance.choice(names)}
            case 4:
                return chance.choice((None, True, -1, 1.5, 2**70, {}, []))
        return _as_string(text(chance))

    def operation() -> Any:
        resource = chance.choice(
            ("things", "kinds", "boxes", "books", "tags", "marks", "nothing", "batch", "things/stream")
        )
        key = chance.choice(("", "{a}/", "{b}/", "{}/", "1/", "%00/", "?x={a}", "{a}{b}?{a}", "a" * 5000))
        made: dict[str, Any] = {
            "method": chance.choice(("POST", "POST", "POST", "PATCH", "PUT", "DELETE", "GET", "QUERY", "post", 1)),
            "path": chance.choice(
                (f"/{resource}/{key}", f"/{resource}/", f"/{resource}/", f"//{resource}", part(), "/")
            ),
        }
        for name, member in (("body", {"name": "x"}), ("body", {"name": part(), "string": part()}), ("body", part()), ("ref", chance.choice(names)), ("ref", "a"),
                            ("if_match", chance.choice(('"1"', "*", "x\r\ny: z", 1))), ("else", 1)):  # fmt: skip
            if chance.random() < (0.05 if name in ("else", "if_match") else 0.4):
                made[name] = member
        return chance.choice((made, made, made, made, made, part()))

    operations = [operation() for _ in range(chance.choice((0, 1, 1, 2, 3, 10, 150)))]
    body = json.dumps(chance.choice(({"operations": operations},) * 9 + (operations,))).encode()
    if chance.random() < 0.1:
        body = body.replace(
            b'"x"', chance.choice((b"[" * 400 + b"]" * 400, b'{"a":' * 300 + b"1" + b"}" * 300, b"9" * 5000))
        )
    headers = (("If-Match", "*"), ("Upgrade", "websocket"), ("Content-Encoding", "gzip"), ("Expect", "100-continue"))
    return Attack(
        (
            request(
                "POST",
                chance.choice(("/batch/", "/batch")),
                body,
                *((chance.choice(headers),) if chance.random() < 0.1 else ()),
            ),
        )
    )


@generator
def retries(chance: Random, service: Service) -> Attack:
    """Unsafe requests with a few keys, also wrong ones, one after the other and at once, with the same body or another one."""
    keys = (
        "0123456789abcdef",
        '"0123456789abcdef"',
        "k" * 255,
        "k" * 256,
        "short",
        "",
        '"',
        '"\\',
        '"a\\"b"',
        "\xe9" * 20,
    )
    bodies = (b'{"name": "x"}', b'{"name": "y"}', b"[]", b'[{"name": "z"}]', b"{", b"")
    path = chance.choice(("/boxes/", "/boxes/?a=1", "/boxes/0/", "/nothing/"))
    method = chance.choice(("POST", "POST", "PUT", "PATCH", "DELETE", "GET", "QUERY"))
    chosen = chance.choices(keys, k=chance.choice((1, 1, 1, 2)))
    sent = request(method, path, chance.choice(bodies), *(("Idempotency-Key", key) for key in chosen))
    return Attack((sent,), copies=chance.choice((1, 1, 5)))


@generator
def leavers(chance: Random, service: Service) -> Attack:
    """Clients that are gone in the middle of a request or of its response."""
    data = chance.choice((
        write(chance, service, body_of(chance, THINGS), "things"), request("GET", "/things/?page_size=50"), request("GET", "/things/stream/?snapshot=true"),
        request("POST", "/boxes/", b'{"name": "x"}'), request("GET", "/openapi.json"),
    ))  # fmt: skip
    cut = chance.choice((len(data), chance.randint(1, len(data))))
    return Attack((data[:cut],), leaves=True, incomplete=True)


@generator
def mutations(chance: Random, service: Service) -> Attack:
    """Good requests with a few bytes changed."""
    data = bytearray(chance.choice((
        request("GET", "/things/?string__icontains=a&page_size=5&ordering=-created&fields=id,string"), request("GET", "/books/?expand=author,tags&year__range=1,2"),
        write(chance, service, b'{"string":"ab","email":"a@b.de","slug":"a","integer":1,"decimal":"1.5","document":{"a":[1,2]},"words":["a"]}', "things"),
        request("POST", "/boxes/", b"d\r\n" + b'{"name": "x"}' + b"\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked")),
        request("PATCH", "/marks/mark01/", b'{"code": "mark01"}', ("If-Match", '"1"')),
    )))  # fmt: skip
    head = data.index(b"\r\n\r\n") + 4
    target = (data.index(b"/"), data.index(b" HTTP"))
    start, end = chance.choice((target, target, (0, head), (head, len(data)) if head < len(data) else target))
    for _ in range(chance.choice((1, 1, 2, 6))):
        place = min(chance.randrange(start, max(end, start + 1)), len(data) - 1)
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randint(1, 8)]
            case 2:
                data[place:place] = data[chance.randrange(len(data)) :][: chance.randint(1, 30)]
            case _:
                data[place:place] = bytes(chance.choices(b'%\r\n\0 ?/:\xff"{[&=,', k=chance.randint(1, 4)))
        if not data:
            break
    return Attack((bytes(data),), incomplete=True, most=3)


@generator
def crowds(chance: Random, service: Service) -> Attack:
    """Another generator's attack on many connections at once."""
    chosen = chance.choice([each for name, each in GENERATORS.items() if name != "crowds"])
    return replace(chosen(chance, service), copies=chance.choice((4, 12, 30)))
