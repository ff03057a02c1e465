"""The options of a viewset: valid values, the names that they refer to, and their final form."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest

from rowcast.configuration import viewset_options
from rowcast.configuration.permission_expression import permission_tree
from rowcast.configuration.viewset_options import RESERVED_PARAMETERS, VIEWSET_OPTIONS, check
from rowcast.resources.actions import ALLOWABLE_ACTIONS
from rowcast.resources.resource import Resources

from .conftest import Load, Problems

FILES = {
    "tasks.yaml": """
        fields:
          id: {type: uuid, primary_key: true}
          title: {type: string}
          slug: {type: slug, unique: true}
          count: {type: integer, default: 0}
          page: {type: integer, default: 0}
          data: {type: json, default: {}}
          labels: {type: array, of: string, default: []}
          token: {type: string, write_only: true, default: x}
          due: {type: datetime, null: true}
          category: {type: foreign_key, to: categories, related_name: tasks}
          vault: {type: foreign_key, to: categories, write_only: true, null: true, related_name: secrets}
          tags: {type: many_to_many, to: tags, related_name: tasks}
        """,
    "categories.yaml": """
        fields: {name: {type: string}, owner: {type: foreign_key, to: people}, secret: {type: string, write_only: true}}
        """,
    "tags.yaml": "fields: {name: {type: string}}",
    "people.yaml": "fields: {code: {type: slug, primary_key: true}}",
}


@pytest.fixture
def resources(read: Load) -> Resources:
    return read(FILES).resources


REFERENCE = """serializer_class list_serializer_class permission_classes authentication_classes filterset_fields
search_fields ordering_fields ordering page_size max_page_size select_related prefetch_related allowed_actions
excluded_actions stream_enabled pagination_class filter_backends throttle_classes throttle_scope lookup_field count
strict_query"""


def test_every_attribute_of_the_reference_is_an_option() -> None:
    """Except for those that name the model: in a config file the resource itself is meant."""
    assert VIEWSET_OPTIONS.keys() >= set(REFERENCE.split())


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ({"filterset_fields": ["title", "count", "data", "labels", "category", "category_id", "tags", "tags__name"]},
         {"title": ("exact", "in"), "count": ("exact", "in"), "data": ("exact",), "labels": ("exact",),
          "category": ("exact", "in"), "category_id": ("exact", "in"), "tags": ("exact", "in"),
          "tags__name": ("exact", "in")}),
        ({"filterset_fields": {"due": ["gte", "isnull"], "category__owner__code": ["icontains"], "page": ["gte"]}},
         {"due": ("gte", "isnull"), "category__owner__code": ("icontains",), "page": ("gte",)}),
        ({"search_fields": ["title", "^slug", "=category__name", "$tags__name", "@category__owner"]},
         ("title", "^slug", "=category__name", "$tags__name", "@category__owner")),
        ({"ordering": ["-due", "category__name", "category"]}, ("-due", "category__name", "category")),
        ({"ordering_fields": ["due", "category__owner__code"]}, ("due", "category__owner__code")),
        ({"select_related": ["category", "category__owner"]}, ("category", "category__owner")),
        ({"prefetch_related": ["tags", "category__tasks", "tags__tasks__category"]},
         ("tags", "category__tasks", "tags__tasks__category")),
        ({"allowed_actions": list(ALLOWABLE_ACTIONS)}, ALLOWABLE_ACTIONS),
        ({"excluded_actions": ["destroy", "archive"]}, ("destroy", "archive")),
        ({"lookup_field": "slug"}, "slug"),
        ({"lookup_field": "id"}, "id"),
        ({"pagination_class": None}, None),
        ({"page_size": 50}, 50),
        ({"count": "none"}, "none"),
        ({"strict_query": False}, False),
        ({"permission_classes": ["A", "B"]}, (("class", "A", ()), ("class", "B", ()))),
        ({"throttle_classes": ["viewsets:Slow"]}, ("viewsets:Slow",)),
    ],
)  # fmt: skip
def test_an_option_is_normalized(resources: Resources, given: Mapping[str, Any], normal: object) -> None:
    """To the form that the rest of the service reads."""
    loaded = viewset_options.VIEWSET_SECTION.load(given)
    assert list(check(resources, "tasks", loaded, ["archive"])) == []
    [found] = viewset_options.normalize(resources, "tasks", loaded).values()
    assert found == normal


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("filterset_fields: [titel]", "20: filterset_fields[0]: tasks has no field 'titel'; did you mean title?"),
        ("filterset_fields: {titel: [exact]}", "20: tasks has no field 'titel'; did you mean title?"),
        ("filterset_fields: {title: [exat]}", "28: title[0]: 'exat' is unknown; did you mean exact?"),
        ("filterset_fields: {title: []}", "27: title: may not be empty"),
        ("filterset_fields: {title: exact}", "27: title: must be a list"),
        ("filterset_fields: 5", "19: filterset_fields: must be a list of fields, or a mapping from fields to lookups"),
        ("filterset_fields: {category__nam: [exact]}", "20: categories has no field 'nam'; did you mean name?"),
        ("filterset_fields: {title__x: [exact]}", "20: 'title' of tasks is not a relation, so 'x' cannot follow it"),
        (
            "filterset_fields: {count: [icontains]}",
            "28: count[0]: 'icontains' does not suit 'count'; "
            "valid here: exact, ne, gt, gte, lt, lte, range, in, not_in, isnull",
        ),
        ("filterset_fields: {token: [exact]}", "20: 'token' is write_only, so it cannot be used here"),
        (
            "filterset_fields: [category__secret]",
            "20: filterset_fields[0]: 'secret' is write_only, so it cannot be used here",
        ),
        (
            "filterset_fields: [vault__name]",
            "20: filterset_fields[0]: 'vault' is write_only, so it cannot be used here",
        ),
        (
            "filterset_fields: [page]",
            "20: filterset_fields[0]: 'page' cannot be filtered by: the parameter ?page= has its own meaning",
        ),
        (
            "filterset_fields: {page: [gte, exact]}",
            "20: 'page' cannot be filtered by: the parameter ?page= has its own meaning",
        ),
        (
            "filterset_fields: [title, title]",
            "27: filterset_fields[1]: 'title' defines the parameter ?title= a second time",
        ),
        ("filterset_fields: {title: [in, in]}", "20: 'title' defines the parameter ?title__in= a second time"),
        ("search_fields: [count]", "17: search_fields[0]: 'count' cannot be searched: only string fields can"),
        ("search_fields: [^titel]", "17: search_fields[0]: tasks has no field 'titel'; did you mean title?"),
        ("search_fields: [token]", "17: search_fields[0]: 'token' is write_only, so it cannot be used here"),
        ("search_fields: [title, ^title]", "24: search_fields[1]: 'title' is listed twice"),
        ("search_fields: title", "16: search_fields: must be a list"),
        ("ordering: [-titel]", "12: ordering[0]: tasks has no field 'titel'; did you mean title?"),
        (
            "ordering: [tags__name]",
            "12: ordering[0]: 'tags__name' leads to many values, so rows cannot be ordered by it",
        ),
        ("ordering: [token]", "12: ordering[0]: 'token' is write_only, so it cannot be used here"),
        ("ordering: [title, -title]", "19: ordering[1]: 'title' is listed twice"),
        (
            "ordering_fields: [-title]",
            "19: ordering_fields[0]: '-title' must be without the hyphen: clients choose the direction",
        ),
        ("select_related: [categry]", "18: select_related[0]: tasks has no relation 'categry'; did you mean category?"),
        ("select_related: [title]", "18: select_related[0]: tasks has no relation 'title'; valid here: category, tags"),
        ("select_related: [tags]", "18: select_related[0]: 'tags' leads to many rows; use prefetch_related for 'tags'"),
        ("select_related: [vault]", "18: select_related[0]: 'vault' is write_only, so it cannot be shown"),
        (
            "prefetch_related: [category]",
            "20: prefetch_related[0]: 'category' leads to one row; use select_related for it",
        ),
        ("prefetch_related: [tags__taks]", "20: prefetch_related[0]: tags has no relation 'taks'; did you mean tasks?"),
        ("page_size: 200", "12: page_size: page_size (200) is larger than max_page_size (100)"),
        ("max_page_size: 5", "16: max_page_size: page_size (20) is larger than max_page_size (5)"),
        ("page_size: 0", "12: page_size: must be at least 1"),
        ("allowed_actions: [lst]", "19: allowed_actions[0]: unknown action 'lst'; did you mean list?"),
        (
            "{allowed_actions: [list], excluded_actions: [list]}",
            "27: excluded_actions and allowed_actions cannot both be set; use one of them",
        ),
        ("lookup_field: title", "15: lookup_field: 'title' is not unique; valid here: id, slug"),
        ("lookup_field: slugg", "15: lookup_field: tasks has no field 'slugg'; did you mean slug?"),
        (
            "lookup_field: category__name",
            "15: lookup_field: 'category__name' is not unique; valid here: id, slug",
        ),
        ("count: no", "8: count: 'no' is unknown; did you mean none?"),
        ("stream_enabled: no", "17: stream_enabled: must be true or false"),
        ("pagination_class: 5", "19: pagination_class: must be the name of a class"),
        (
            "throttle_classes: [a b]",
            "20: throttle_classes[0]: 'a b' must be the name of a class, such as TaskViewSet or viewsets:TaskViewSet",
        ),
        ("throttle_scope: uploads", "17: throttle_scope: throttle.rates has no rate 'uploads'; none is valid here"),
        ("serch_fields: []", "1: unknown key 'serch_fields'; did you mean search_fields?"),
    ],
)
def test_a_wrong_option_is_reported_with_its_place(problems: Problems, text: str, problem: str) -> None:
    """It refers to a name that does not exist, is of the wrong kind, or is write_only."""
    column, _, message = problem.partition(": ")
    tasks = dedent(FILES["tasks.yaml"]).strip() + f"\nviewset:\n  {text}"
    assert problems({**FILES, "tasks.yaml": tasks}) == [f"tasks.yaml:15:{int(column) + 2}: {message}"]


@pytest.mark.parametrize("name", RESERVED_PARAMETERS)
def test_reserved_parameters_cannot_be_filters(problems: Problems, name: str) -> None:
    """A field may have such a name, and be filtered by other lookups."""
    text = f"fields: {{{name}: {{type: string}}}}\nviewset: {{filterset_fields: {{{name}: [%s]}}}}"
    assert problems({"a.yaml": text % "in"}) == []
    assert problems({"a.yaml": text % "exact"}) == [
        f"a.yaml:2:30: {name!r} cannot be filtered by: the parameter ?{name}= has its own meaning"
    ]


def test_checks_that_depend_on_the_class_wait_for_it(read: Load) -> None:
    """Its actions and its page size are not in the config."""
    text = "fields: {}\nviewset: {class: 'viewsets:X', page_size: 500, allowed_actions: [list, complete]}"
    assert read({"a.yaml": text}).resources["a"].options["allowed_actions"] == ("list", "complete")


def test_class_attributes_are_checked_by_the_same_table(resources: Resources) -> None:
    """They may be classes and tuples where YAML has names and lists, and fail with the same messages."""

    class Mine:
        pass

    given = {"permission_classes": (Mine,), "pagination_class": Mine, "search_fields": ("title",)}
    assert viewset_options.VIEWSET_SECTION.load(given) == given
    assert list(check(resources, "tasks", {"search_fields": ("titel",)})) == [
        (("search_fields", 0), "tasks has no field 'titel'; did you mean title?")
    ]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("A", ("class", "A", ())),
        ("a.b:C", ("class", "a.b:C", ())),
        ("A | B & C", ("or", ("class", "A", ()), ("and", ("class", "B", ()), ("class", "C", ())))),
        ("(A | B) & C", ("and", ("or", ("class", "A", ()), ("class", "B", ())), ("class", "C", ()))),
        ("~A & B", ("and", ("not", ("class", "A", ())), ("class", "B", ()))),
        ("~(A|~ B)", ("not", ("or", ("class", "A", ()), ("not", ("class", "B", ()))))),
        ("A | B | C", ("or", ("or", ("class", "A", ()), ("class", "B", ())), ("class", "C", ()))),
        ('IsOwner("owner_field")', ("class", "IsOwner", ("owner_field",))),
        ("m:P('a', \"b\") & B", ("and", ("class", "m:P", ("a", "b")), ("class", "B", ()))),
    ],
)
def test_a_permission_expression_is_read_as_python_reads_it(text: str, tree: object) -> None:
    """The complement binds tightest, then ``&``, then ``|``."""
    assert permission_tree(text) == tree


@pytest.mark.parametrize(
    ("text", "character"),
    [("", 1), ("A |", 4), ("A B", 3), ("(A", 3), ("A)", 2), ("& A", 1), ("A(b)", 3), ("A('b'", 6), ("A()", 3),
     ("A or B", 3), ("A ^ B", 3), ("'A'", 1), ("~" * 99 + "A", 51), ("(" * 9999, 51), ("a:", 2), ("A('b',)", 7)],
)  # fmt: skip
def test_a_wrong_permission_expression_says_where(text: str, character: int) -> None:
    """It names the character where reading stopped."""
    with pytest.raises(ValueError, match=rf"^no permission can be read at character {character} "):
        permission_tree(text)
