"""A whole config directory: its files together, and every problem reported in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from tests.conftest import DEMO, ROOT

from rowcast.configuration.load import Configuration, load
from rowcast.configuration.load import read as read_directory
from rowcast.errors import ConfigurationError
from rowcast.resources.tables import Tables
from rowcast.server.checking import check_configuration

from .conftest import Load, Problems

SAMPLE = """
name: tasks                 # URL prefix; default: the file's name
table: tasks                # default: name
model: Task                 # name in Python code; default: singular, CamelCase
fields:
  id:          {type: uuid, primary_key: true}            # uuid keys default to a version-7 uuid
  title:       {type: string, max_length: 200}
  description: {type: text, required: false, default: ""}
  completed:   {type: boolean, default: false}
  priority:    {type: string, choices: [low, normal, high], default: normal}
  view_count:  {type: integer, default: 0, min: 0, read_only: true}
  category:    {type: foreign_key, to: categories, null: true, on_delete: set_null, related_name: tasks}
  tags:        {type: many_to_many, to: tags}
  due_date:    {type: datetime, null: true}
  created_at:  {type: datetime, auto_now_add: true}
  updated_at:  {type: datetime, auto_now: true}
unique:  [[category, title]]
indexes: [[completed, priority]]
viewset:                                # every class attribute of the viewset may be set here
  class: viewsets:TaskViewSet           # default: ModelViewSet
  permission_classes: [IsAuthenticatedOrReadOnly]
  filterset_fields: {completed: [exact], priority: [exact, in], due_date: [exact, gte, lte, isnull], category__name: [exact, icontains]}
  search_fields: [title, description]
  ordering_fields: [created_at, due_date, priority, title]
  ordering: [-created_at]
  page_size: 20
  max_page_size: 100
"""
OTHERS = {"categories.yaml": "fields: {name: {type: string}}", "tags.json": '{"fields": {"name": {"type": "string"}}}'}


def test_the_documented_sample_loads(read: Load) -> None:
    """Together with the resources that it refers to, one of them in JSON."""
    configuration = read({"tasks.yaml": SAMPLE, **OTHERS})
    tasks = configuration.resources["tasks"]
    assert (tasks.name, tasks.table, tasks.model) == ("tasks", "tasks", "Task")
    assert tasks.unique == (("category", "title"),)
    assert tasks.indexes == (("completed", "priority"),)
    assert tasks.options["class"] == "viewsets:TaskViewSet"
    assert tasks.options["filterset_fields"]["category__name"] == ("exact", "icontains")
    assert set(configuration.resources.relations("categories")) == {"tasks"}
    assert set(configuration.resources.relations("tags")) == {"tasks"}


def test_the_demo_loads_and_is_open_on_purpose() -> None:
    """Everybody may write to it, and every file says that this is intended."""
    configuration = load(ROOT / "config", environ={})
    Tables(configuration.resources)
    for name in DEMO:
        assert configuration.resources[name].options["permission_classes"] == (("class", "AllowAny", ()),)
        assert "on purpose" in Path(configuration.files[name].file).read_text("utf-8")


def test_names_follow_from_the_file(read: Load) -> None:
    """The defaults of URL prefix, table and model."""
    resource = read({"blog-posts.yml": "fields: {}"}).resources["blog-posts"]
    assert (resource.name, resource.table, resource.model) == ("blog-posts", "blog_posts", "BlogPost")


def test_other_files_are_not_config(read: Load) -> None:
    """Other files in the directory, such as backups of editors, are not read."""
    files = {"a.yaml": "fields: {}", "b.yml~": "[", "c.txt": "[", ".d.yaml": "[", "e.yaml.bak": "["}
    assert list(read(files).resources) == ["a"]


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    """The same for a directory without resources."""
    with pytest.raises(
        ConfigurationError, match=r"none: directory does not exist; pass --config or set ROWCAST_CONFIG"
    ):
        load(tmp_path / "none", environ={})
    for there in (tmp_path, tmp_path / "resources"):
        there.mkdir(exist_ok=True)
        with pytest.raises(ConfigurationError, match=r"resources: there is no resource; add one such as tasks\.yaml"):
            load(tmp_path, environ={})


def test_a_field_with_a_name_that_cannot_be_is_a_problem_wherever_it_is_used(problems: Problems) -> None:
    """An underscore at the end would make ``size___gte`` ambiguous; options that name the field are read all the same."""
    found = problems(
        {
            "a.yaml": "fields: {size_: {type: integer}}\nviewset: {filterset_fields: {size_: [exact, gte]}, ordering: [size_]}"
        }
    )
    assert len(found) == 1, found
    assert "size_" in found[0]


def test_a_typo_is_reported_at_its_place(problems: Problems) -> None:
    """The message has file, line, column, and the nearest valid name."""
    text = """
        name: tasks
        fields:
          title:
            type: string
            max_length: 200

            requierd: true
        """
    assert problems({"tasks.yaml": dedent(text).strip("\n")}) == [
        "tasks.yaml:7:5: unknown key 'requierd'; did you mean required?"
    ]


def test_problems_of_all_files_are_reported_in_one_run(problems: Problems) -> None:
    """Even if one of the files cannot be read."""
    files = {
        "service.yaml": "srver: {}",
        "a.yaml": "fields: [",
        "b.yaml": "",
        "c.yaml": "- x",
        "d.yaml": "fields: {x: {type: strng}}",
        "e.yaml": "name: [x]\nfields: {y: {type: string, to: z}}",
        "Bad.yaml": "fields: {}",
    }
    assert sorted(line.split(": ")[0] for line in problems(files)) == sorted(
        [
            "Bad.yaml:1:1", "a.yaml:1:10", "b.yaml:1:1", "c.yaml:1:1", "d.yaml:1:20", "e.yaml:1:7", "e.yaml:2:28",
            "service.yaml:1:1",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        "fields: {name: {type: string}, size: {type: strng}, task: {type: foreign_key, to: tasks, related_name: cats}",
        "fields: {name: {type: string}, size: {type: strng}, task: {type: foreign_key, to: task, related_name: cats}}",
        "fields: {name: {type: strng}, size: {type: strng}, task: {type: foreignkey, to: tasks, related_name: cats}}",
        "name: [categories]\nfields: {name: {type: string}, size: {type: string}, "
        "task: {type: foreign_key, to: tasks, related_name: cats}}",
    ],
)
def test_a_broken_file_causes_no_false_problems_in_others(problems: Problems, broken: str) -> None:
    """References to it, to its fields or to its relations may be right and are not reported."""
    tasks = """
        fields: {title: {type: string}, category: {type: foreign_key, to: categories}}
        unique: [[title, category]]
        viewset:
          filterset_fields: [category__name, category, cats, category__size]
          search_fields: [^category__name]
          ordering: [-category__size]
          select_related: [category]
          prefetch_related: [cats]
        """
    assert {line.partition(":")[0] for line in problems({"categories.yaml": broken, "tasks.yaml": tasks})} == {
        "categories.yaml"
    }


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.yaml": "fields: {}", "b.yaml": "name: a\nfields: {}"},
         "b.yaml:2:7: name: 'a' is already declared in {}a.yaml"),
        ({"a.yaml": "table: t\nfields: {}", "b.yaml": "table: t\nfields: {}"},
         "b.yaml:2:8: table: the table t already belongs to a; set 'name' or 'table'"),
        ({"task.yaml": "table: t\nfields: {}", "tasks.yaml": "fields: {}"},
         "tasks.yaml:1:1: the model Task already belongs to task; set 'name' or 'model'"),
        ({"a.yaml": "fields: {}\nmodel: X", "b.yaml": "fields: {}\nmodel: X"},
         "b.yaml:3:8: model: the model X already belongs to a; set 'name' or 'model'"),
        ({"a.yaml": "table: alembic_version\nfields: {}"},
         "a.yaml:2:8: table: the table alembic_version already belongs to the service itself; set 'name' or 'table'"),
        ({"a.yaml": "fields: {b: {type: many_to_many, to: a}}", "c.yaml": "table: a_b\nfields: {}"},
         "a.yaml:2:10: 'b': its table a_b already belongs to c; rename the field"),
        ({"a.yaml": "fields: {b_c: {type: many_to_many, to: a}}",
          "d.yaml": "table: a_b\nfields: {c: {type: many_to_many, to: a}}"},
         "d.yaml:3:10: 'c': its table a_b_c already belongs to a.b_c; rename the field"),
        ({"a.yaml": "fields: {x: {type: foreign_key, to: b, related_name: y}}",
          "b.yaml": "fields: {y: {type: string}}"},
         "a.yaml:2:54: related_name: 'y' is taken in b by field 'y'"),
        ({"a.yaml": "fields: {x: {type: foreign_key, to: b, related_name: y_id}}",
          "b.yaml": "fields: {y: {type: foreign_key, to: a}}"},
         "a.yaml:2:54: related_name: 'y_id' is taken in b by field 'y'"),
        ({"a.yaml": "fields: {x: {type: foreign_key, to: a, related_name: X}}"},
         "a.yaml:2:54: related_name: must be a lower-case name such as open_tasks"),
    ],
)  # fmt: skip
def test_collisions_of_resources_are_reported(problems: Problems, tmp_path: Path, files: Any, problem: str) -> None:
    """Names, tables, models and relations belong to one resource only."""
    files = {name: f"# {name}\n{text}" if "1:1: the model" not in problem else text for name, text in files.items()}
    assert problems(files) == [problem.replace("{}", f"{tmp_path}/config/resources/")]


def test_two_relations_with_one_related_name_are_both_reported(problems: Problems) -> None:
    """Either of them may be the wrong one."""
    text = (
        "fields:\n  x: {type: foreign_key, to: a, related_name: y}\n  z: {type: many_to_many, to: a, related_name: y}"
    )
    assert problems({"a.yaml": text}) == [
        "a.yaml:2:47: related_name: 'y' is taken in a by the related_name of a.z",
        "a.yaml:3:48: related_name: 'y' is taken in a by the related_name of a.x",
    ]


def test_a_throttle_scope_names_a_rate(read: Load) -> None:
    """It must be a key of ``throttle.rates``."""
    files = {
        "service.yaml": "throttle: {rates: {uploads: 5/min}}",
        "a.yaml": "fields: {}\nviewset: {throttle_scope: uploads}",
    }
    assert read(files).resources["a"].options["throttle_scope"] == "uploads"


@pytest.mark.parametrize(
    "option",
    ["permission_classes: [{}]", "scope_unless: {}", "throttle_classes: [{a: b}]", "class: {}", "pagination_class: {}"],
)
def test_a_mapping_is_not_a_class(problems: Problems, option: str) -> None:
    """It ended in a traceback."""
    (line,) = problems({"a.yaml": f"fields: {{}}\nviewset: {{{option}}}"})
    assert line.endswith("must be the name of a class")


# --- whatever the input -----------------------------------------------------------------------------------------------

WORDS = """name table model fields unique indexes viewset type string text uuid integer decimal boolean datetime json
array foreign_key many_to_many primary_key required null blank default choices min max min_length max_length pattern
max_digits decimal_places of to on_delete set_null related_name read_only write_only auto_now tasks tags title id class
ordering filterset_fields search_fields ordering_fields select_related prefetch_related page_size permission_classes
exact in allowed_actions lookup_field server port database url auth jwt secret algorithms throttle rates ${env:A}
${env:DATABASE_URL} (a [ -title tags__title title__in _schema key value {0} {x}"""
TYPES = "string text uuid integer decimal json array date duration foreign_key many_to_many"

names = st.sampled_from(WORDS.split()) | st.text(max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
declared = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES.split())},
    optional={"to": st.sampled_from(["tasks", "tags", "x"]), "of": st.sampled_from(["integer", "string", "x"]),
              "default": values, "choices": values, "min": values, "max": values, "pattern": names, "null": values,
              "primary_key": st.booleans(), "max_length": values, "related_name": names, "write_only": st.booleans(),
              "max_digits": values, "decimal_places": values},
)  # fmt: skip
documents = values | st.fixed_dictionaries(
    {"fields": st.dictionaries(names, declared | values, max_size=4)},
    optional={"unique": values, "indexes": values, "name": names, "table": names, "model": names,
              "viewset": values | st.dictionaries(names, st.lists(names, max_size=3) | values)},
)  # fmt: skip


files = st.dictionaries(st.sampled_from(["service.yaml", "resources/tasks.yaml", "resources/tags.json"]), documents)
environs = st.dictionaries(st.sampled_from(["ROWCAST_PORT", "DATABASE_URL", "A", "ROWCAST_THROTTLE_RATES"]), names)


@given(files, environs)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_input_gives_a_configuration_or_its_problems(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Any], environ: dict[str, str]
) -> None:
    """Every problem has its place, and tables can be made of every configuration."""
    directory = tmp_path_factory.mktemp("config")
    (directory / "resources").mkdir()
    for name, document in files.items():
        (directory / name).write_text(_flow(document), "utf-8", errors="surrogatepass")
    try:
        configuration = load(directory, environ=environ)
        assert isinstance(configuration, Configuration)
        for table in Tables(configuration.resources).metadata.sorted_tables:
            CreateTable(table).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    except ConfigurationError as error:
        for line in str(error).splitlines():
            assert line.startswith((str(directory), "ROWCAST_", "DATABASE_URL")), line


@given(files, environs)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # simpler examples take minutes to find
)
def test_any_input_is_checked_together_with_python(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Any], environ: dict[str, str]
) -> None:
    """What is left of a config with mistakes can be bound to its classes; no mistake of YAML is left out."""
    directory = tmp_path_factory.mktemp("config")
    (directory / "resources").mkdir()
    for name, document in files.items():
        (directory / name).write_text(_flow(document), "utf-8", errors="surrogatepass")
    found = read_directory(directory, environ=environ)
    mistakes = found.problems.lines()
    with mock.patch.object(sys, "path", [*sys.path]):
        try:
            list(check_configuration(found))
            reported = []
        except ConfigurationError as error:
            reported = str(error).splitlines()
    assert {*mistakes} <= {*reported}


def _flow(value: object) -> str:
    """A value in YAML's flow style, which is almost JSON."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_flow(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case str():
            return '"' + "".join(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else char for char in value) + '"'
        case None:
            return "null"
    return str(value).lower()
