"""``rowcast check`` binds all that ``serve`` would, without a database, and reports every mistake in one run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..conftest import rowcast, write_config

RESOURCES = {
    "tasks": """\
fields: {title: {type: string}}
viewset:
  class: viewsets:TaskViewSet
  page_size: 10
""",
    "notes": """\
fields: {text: {type: string}, owner: {type: string}}
viewset:
  permission_classes: ['IsAdminUser | IsOwner("owner")']
""",
}
VIEWSETS = """\
from rowcast import *

class TaskViewSet(ModelViewSet):
    model = model("tasks")
    page_size = 20
    search_fields = ["title"]

    @action(detail=True)
    async def done(self, request, id): ...
"""


def check(
    directory: Path, viewsets: str = VIEWSETS, service: str = "{}", urls: str = "", **resources: str
) -> list[str]:
    """The lines of the command, without the directory in front; the last is the exit code."""
    place = Path(tempfile.mkdtemp(dir=directory))  # Python modules are imported once from each directory
    modules = {"viewsets": viewsets} | ({"urls": urls} if urls else {})
    write_config(place / "config", {**RESOURCES, **resources}, service, modules)
    code, output = rowcast(place, "check")
    return [*output.replace(f"{place}/", "").splitlines(), str(code)]


def test_valid_config_is_reported_with_the_attributes_that_yaml_overrides(tmp_path: Path) -> None:
    """An attribute that both a class and YAML set is reported, and is not a mistake."""
    assert check(tmp_path) == [
        "config/resources/tasks.yaml:4:3: page_size is set here, so viewsets.TaskViewSet's has no effect",
        "config: 2 resources, no problems.",
        "0",
    ]
    assert not list(tmp_path.glob("*/data"))


def test_a_resource_of_tenants_without_a_scope_is_reported(tmp_path: Path) -> None:
    """It has the column, or a foreign key to the resource, by which another resource's scope divides its rows."""
    key = "id: {type: integer, primary_key: true}"
    lines = check(
        tmp_path,
        orgs=f"fields: {{{key}}}",
        bills=f"fields: {{{key}, org: {{type: foreign_key, to: orgs}}, owner: {{type: string}}}}\n"
        "viewset: {scope: {org: $claims.org, owner: $user.id}}",
        items=f"fields:\n  {key}\n  payer: {{type: foreign_key, to: orgs}}\n",
        logs=f"fields:\n  {key}\n  payer: {{type: foreign_key, to: orgs}}\nviewset: {{scope: {{payer: $claims.org}}}}",
    )
    assert [line for line in lines if "has no scope" in line] == [
        "config/resources/items.yaml:3:3: items has no scope, but payer_id, by which the scope of bills divides its rows: "
        "every caller may see the rows of all",
        "config/resources/notes.yaml:1:32: notes has no scope, but owner, by which the scope of bills divides its rows: "
        "every caller may see the rows of all",
    ]
    assert lines[-1] == "0"


def test_every_wrong_class_of_every_file_is_reported_at_its_place(tmp_path: Path) -> None:
    """Of settings and of resources, with the nearest name."""
    lines = check(
        tmp_path,
        service="auth:\n  default_permission_classes: [AllowAny, IsAuthentic]\n"
        "  default_authentication_classes: ['viewsets:Keys']\nthrottle: {classes: [AnonThrottle]}\n",
        notes="fields: {text: {type: string}}\nviewset:\n  class: viewsets:NoteViewSet\n"
        "  permission_classes: [AllowAny, 'IsAdmin | AllowAny']\n  pagination_class: PagePagination\n",
        tags="fields: {text: {type: string}}\nviewset: {class: 'nowhere:TagViewSet'}",
    )
    for place, message in (
        (
            "resources/notes.yaml:3:10",
            "class: viewsets:NoteViewSet: there is no ViewSet of that name; did you mean TaskViewSet?",
        ),
        (
            "resources/notes.yaml:4:34",
            "permission_classes[1]: 'IsAdmin' is not a BasePermission of Rowcast, did you mean IsAdminUser?",
        ),
        ("resources/notes.yaml:5:21", "pagination_class: 'PagePagination' is not a BasePagination"),
        ("resources/tags.yaml:2:18", "class: nowhere cannot be imported"),
        ("service.yaml:2:42", "default_permission_classes[1]: 'IsAuthentic' is not a BasePermission"),
        ("service.yaml:3:36", "default_authentication_classes[0]: viewsets:Keys: there is no BaseAuthentication"),
        (
            "service.yaml:4:22",
            "classes[0]: 'AnonThrottle' is not a BaseThrottle of Rowcast, did you mean AnonRateThrottle?",
        ),
    ):
        assert any(line.startswith(f"config/{place}: {message}") for line in lines), (place, lines)
    assert (len(lines), lines[-1]) == (8, "1")


def test_wrong_python_is_reported_where_yaml_names_it(tmp_path: Path) -> None:
    """Near misses of options, signatures, and all of the attributes of a class at once."""
    wrong = VIEWSETS + "    search_field = []\n    ordering = ['-titel']\n"
    wrong = wrong.replace("async def done(self, request, id)", "async def done(self)")
    lines = check(tmp_path, wrong)
    assert lines[:2] == [
        "config/resources/tasks.yaml:3:3: viewsets.TaskViewSet.ordering.0: tasks has no field 'titel'; did you mean title?",
        "config/resources/tasks.yaml:3:3: viewsets.TaskViewSet.search_field is not an option; did you mean search_fields?",
    ]
    assert lines[2:] == ["1"]
    lines = check(tmp_path, VIEWSETS.replace("(self, request, id)", "(self, request)"))
    assert lines[0].startswith("config/resources/tasks.yaml:3:3: TaskViewSet.done does not take 'id' of its address")
    lines = check(tmp_path, VIEWSETS + "\n1 / 0\n")
    assert (
        "config/resources/tasks.yaml:3:10: class: viewsets cannot be imported: viewsets.py:11: ZeroDivisionError"
        in lines[0]
    )


def test_actions_that_yaml_allows_must_be_those_of_the_class(tmp_path: Path) -> None:
    """Only the class has their names, so they are checked after it is imported."""
    tasks = RESOURCES["tasks"] + "  allowed_actions: [list, done, dnoe]\n"
    assert check(tmp_path, tasks=tasks)[:-1] == [
        "config/resources/tasks.yaml:5:33: allowed_actions[2]: unknown action 'dnoe'; did you mean done?"
    ]
    assert check(tmp_path, tasks=tasks.replace(", dnoe", ""))[-1] == "0"


def test_owner_field_must_be_a_column(tmp_path: Path) -> None:
    """In YAML, in a class, on an action, and as the default; a class that overrides the check is not examined."""
    notes = RESOURCES["notes"].replace('IsOwner("owner")', 'IsOwner("ownr")')
    assert check(tmp_path, notes=notes)[:-1] == [
        "config/resources/notes.yaml:3:24: IsOwner('ownr'): rows have no such column; did you mean owner?"
    ]
    for line in (
        "permission_classes = [IsAuthenticated & ~IsOwner]",
        "@action(detail=True, permission_classes=[IsOwner])\n    def a(self, request, id): ...",
    ):
        lines = check(tmp_path, VIEWSETS + f"    {line}\n")
        assert (
            "config/resources/tasks.yaml:3:3: viewsets.TaskViewSet.permission_classes: IsOwner('user_id')" in lines[0]
        )
    assert len(check(tmp_path, service="auth: {default_permission_classes: [IsOwner]}")) == 2
    other = "class Mine(IsOwner):\n    def has_object_permission(self, request, view, obj): return True\n"
    fine = VIEWSETS.replace("class TaskViewSet", other + "class TaskViewSet") + "    permission_classes = [Mine]\n"
    assert check(tmp_path, fine)[-1] == "0"


def test_addresses_must_be_distinct(tmp_path: Path) -> None:
    """Two resources with one basename, and what ``urls.py`` registers."""
    lines = check(tmp_path, notes="model: TASK\n" + RESOURCES["notes"])
    assert lines[0].startswith("config/resources/tasks.yaml:3:3: /tasks/ and /notes/ have the same basename 'task'")
    urls = "from rowcast import *\nrouter = DefaultRouter()\nrouter.register('health', ViewSet)\n"
    assert check(tmp_path, urls=urls)[0].startswith("config/urls.py: /health/ is the service's own address")
    assert "cannot be imported" in check(tmp_path, urls="from nowhere import x")[0]


def test_settings_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    """A string that is not a key, and a throttle without its rate."""
    lines = check(tmp_path, service="auth: {jwt: {secret: '-----BEGIN PUBLIC KEY-----', algorithms: [RS256]}}")
    assert "auth.jwt.secret: is not a public key" in lines[0]
    assert lines[-1] == "1"
    lines = check(tmp_path, service="throttle: {classes: [AnonRateThrottle]}")
    assert all("AnonRateThrottle has no rate" in line for line in lines[:-1])
    assert lines[-1] == "1"


def test_class_may_stand_for_the_viewset(tmp_path: Path) -> None:
    """``viewset: module:Class``, and a plain ``ViewSet``, which takes options about requests but none about rows."""
    plain = "from rowcast import *\n\nclass NoteViewSet(ViewSet):\n    throttle_scope = 'x'\n    async def list(self, request): ...\n"
    tasks = "fields: {title: {type: string}}\nviewset: viewsets:NoteViewSet\n"
    notes = RESOURCES["notes"] + "  class: viewsets:NoteViewSet\n  throttle_scope: y\n"
    rates = "throttle: {rates: {y: 1/min}}"
    assert check(tmp_path, plain, rates, tasks=tasks, notes=notes) == [
        "config/resources/notes.yaml:5:3: throttle_scope is set here, so viewsets.NoteViewSet's has no effect",
        "config: 2 resources, no problems.",
        "0",
    ]
    lines = check(tmp_path, plain, rates, tasks=tasks, notes=notes + "  page_size: 5\n")
    assert lines == [
        "config/resources/notes.yaml:6:3: 'page_size' needs rows, but NoteViewSet is a plain ViewSet: derive it from "
        "GenericViewSet or ModelViewSet. Of options it takes permission_classes, authentication_classes, throttle_classes, "
        "throttle_scope, require_idempotency_key",
        "1",
    ]
    for wrong, message in (
        (
            "viewsets:NotViewSet",
            "class: viewsets:NotViewSet: there is no ViewSet of that name; did you mean NoteViewSet?",
        ),
        ("ModelViewset", "class: 'ModelViewset' is not a ViewSet of Rowcast, did you mean ModelViewSet?"),
    ):
        lines = check(tmp_path, plain, tasks=f"fields: {{title: {{type: string}}}}\nviewset: {wrong}\n")
        assert lines[0].startswith(f"config/resources/tasks.yaml:2:1: {message}"), lines


def test_proxies_without_a_name_are_reported(tmp_path: Path) -> None:
    """Behind a proxy clients use a name, which every request would be refused for."""
    lines = check(tmp_path, service="server:\n  trusted_proxies: 1\n")
    assert "config/service.yaml:2:3: behind a proxy, server.allowed_hosts has to list the names" in lines[1]
    assert lines[-1] == "0"
    assert len(check(tmp_path, service="server: {trusted_proxies: 1, allowed_hosts: [api.example.com]}")) == 3


def test_problems_of_yaml_and_python_are_reported_in_one_run(tmp_path: Path) -> None:
    """Of one resource and of others, and of the settings: what is left of the config is bound to its classes."""
    wrong = VIEWSETS + "    search_field = []\n"
    lines = check(
        tmp_path,
        wrong,
        service="server: {prot: 1}\nauth: {default_permission_classes: [IsAuthentic]}",
        tasks=RESOURCES["tasks"] + "  filterset_fields: [titel]\n",
        notes=RESOURCES["notes"].replace('IsOwner("owner")', 'IsOwner("ownr")') + "  page_sise: 3\n",
        tags="fields: {text: {type: string, max: 3}}\nviewset: {class: 'viewsets:TagViewSet'}",
    )
    expected = (
        ("config/resources/notes.yaml:3:24", "IsOwner('ownr'): rows have no such column"),
        ("config/resources/notes.yaml:4:3", "unknown key 'page_sise'"),
        ("config/resources/tags.yaml:1:31", "'max' does not apply"),
        ("config/resources/tags.yaml:2:18", "class: viewsets:TagViewSet: there is no ViewSet of that name"),
        ("config/resources/tasks.yaml:3:3", "viewsets.TaskViewSet.search_field is not an option"),
        ("config/resources/tasks.yaml:5:22", "filterset_fields[0]: tasks has no field 'titel'"),
        ("config/service.yaml:1:10", "unknown key 'prot'"),
    )
    for place, message in expected:
        assert any(line.startswith(f"{place}: {message}") for line in lines), (place, lines)
    assert (len(lines), lines[-1]) == (len(expected) + 1, "1")


def test_python_that_is_wrong_because_yaml_is_is_not_reported(tmp_path: Path) -> None:
    """A name of an unreadable file or field is not also unknown to a class."""
    wrong = VIEWSETS + "    ordering = ['-title']\n\nOther = model('others')\n"
    lines = check(tmp_path, wrong, tasks=RESOURCES["tasks"].replace("type: string", "type: strng"))
    assert [line.partition(": ")[0] for line in lines] == ["config/resources/tasks.yaml:1:24", "1"]
    lines = check(tmp_path, VIEWSETS.replace('model("tasks")', 'model("Tag")'), tags="fields: {")
    assert len(lines) == 2, lines
    lines = check(tmp_path, VIEWSETS + "\n1 / 0\n", tags="fields: {")
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        "config/resources/tags.yaml:1:10", "config/resources/tasks.yaml:3:10",
    ]  # fmt: skip


def test_python_is_imported_even_if_tables_clash(tmp_path: Path) -> None:
    """Such resources cannot be bound, but what they name is looked up."""
    lines = check(
        tmp_path,
        VIEWSETS + "\nfrom nowhere import nothing\n",
        tags="table: tasks\nfields: {text: {type: string}}",
    )
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        "config/resources/tasks.yaml:1:1", "config/resources/tasks.yaml:3:10",
    ]  # fmt: skip


def test_keys_that_cannot_be_used_are_reported_with_all_else(tmp_path: Path) -> None:
    """A public key that is none, beside a wrong class."""
    pem = "-----BEGIN PUBLIC KEY-----x"
    lines = check(tmp_path, service=f"auth: {{jwt: {{algorithms: [RS256], secret: '{pem}'}}}}", tags="fields: {a: {}}")
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        "config/resources/tags.yaml:1:10", "config/service.yaml:1:8",
    ]  # fmt: skip
