"""The ViewSets page of Django REST framework, sample by sample and row by row, in its async form.

Each heading of the page begins a test's name. ``await`` stands before what reads or writes; in plain handlers ``wait``.
"""

from __future__ import annotations

from typing import Any

import pytest

from ..sse import listen
from .conftest import Service, Start

SERIALIZERS = """
class UserSerializer(Serializer):
    class Meta:
        model = User
        fields = ("id", "name", "last_login")

class AccountSerializer(Serializer):
    class Meta:
        model = Account
        fields = ("id", "user_id", "balance")

class IsAccountAdminOrReadOnly(BasePermission):
    def has_permission(self, request, view):
        return request.method in ("GET", "HEAD", "OPTIONS") or request.user.is_staff

class PasswordSerializer(Serializer):
    password = fields.String(required=True, validate=validate.Length(min=8))

"""
USERS = (
    SERIALIZERS
    + """
class UserViewSet(ModelViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
"""
)


async def users(service: Service, *names: str) -> list[int]:
    """Create users; their keys."""
    return [await service.sql.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name) for name in names]


async def names(service: Service, path: str = "/users/", user: str | None = None) -> list[str]:
    """The names of a page of users."""
    return [row["name"] for row in (await service.get(path, user))["results"]]


# --- Overview, ViewSet ------------------------------------------------------------------------------------------------


async def test_overview(start: Start) -> None:
    """A queryset and a serializer are a viewset."""
    service = await start(USERS)
    assert await service.post("/users/", {"name": "ada"}) == {"id": 1, "name": "ada", "last_login": None}
    assert await names(service) == ["ada"]


async def test_viewset(start: Start) -> None:
    """The sample of a plain ``ViewSet``, registered with a router in ``urls.py``: in blocking style ``data`` waits."""
    service = await start(SERIALIZERS + """
class PeopleViewSet(ViewSet):
    def list(self, request):
        queryset = User.objects.all()
        serializer = UserSerializer(queryset, many=True)
        return Response(serializer.data)

    def retrieve(self, request, pk=None):
        queryset = User.objects.all()
        user = wait(get_object_or_404(queryset, pk=pk))
        serializer = UserSerializer(user)
        return Response(serializer.data)
""", urls="""
        router = DefaultRouter()
        router.register("people", PeopleViewSet, basename="person")
        """)  # fmt: skip
    key, _ = await users(service, "ada", "bob")
    assert [row["name"] for row in await service.get("/people/")] == ["ada", "bob"]
    assert await service.get(f"/people/{key}/") == {"id": key, "name": "ada", "last_login": None}
    for wrong in ("77", "x"):
        assert (await service.ask("GET", f"/people/{wrong}/"))[0] == 404
    assert (await service.ask("POST", "/people/", {}))[0] == 405


async def test_viewset__async(start: Start) -> None:
    """The same with coroutines."""
    service = await start(SERIALIZERS + """
class PeopleViewSet(ViewSet):
    async def list(self, request):
        return Response(UserSerializer(await User.objects.all(), many=True).data)

    async def retrieve(self, request, pk=None):
        return Response(UserSerializer(await get_object_or_404(User, pk=pk)).data)
""", urls="""
        router = SimpleRouter()
        router.register("people", PeopleViewSet, basename="person")
        """)  # fmt: skip
    (key,) = await users(service, "ada")
    assert [row["name"] for row in await service.get("/people/")] == ["ada"]
    assert (await service.get(f"/people/{key}"))["name"] == "ada"


# --- Class methods ----------------------------------------------------------------------------------------------------


async def test_as_view(start: Start) -> None:
    """``as_view`` makes a handler of aiohttp's, which binds methods to actions."""
    service = await start(USERS + """
    @action(detail=False)
    async def views(self, request):
        user_list = UserViewSet.as_view({'get': 'list'})
        answer = await user_list(request.http)
        assert answer.status == 200
        return answer
""")  # fmt: skip
    await users(service, "ada")
    assert await names(service, "/users/views/") == ["ada"]


async def test_as_view__initkwargs(start: Start) -> None:
    """``initkwargs`` are attributes of the instance."""
    service = await start(USERS + """
    @action(detail=False)
    async def views(self, request):
        view = UserViewSet.as_view({'get': 'named'}, name="Everybody", basename="x")
        return await view(request.http)

    async def named(self, request):
        return [self.name, self.basename, self.action]
""")  # fmt: skip
    assert await service.get("/users/views/") == ["Everybody", "x", "named"]


async def test_get_extra_actions(start: Start) -> None:
    """The functions that ``@action`` marked, with the attributes that it sets."""
    service = await start(USERS + """
    @action(detail=True, methods=["post"], url_path="change-password", permission_classes=[])
    async def set_password(self, request, pk=None): ...

    @action(detail=False)
    async def recent(self, request):
        extra_actions = UserViewSet.get_extra_actions()
        return [
            (each.__name__, each.detail, each.url_path, each.url_name, dict(each.mapping), sorted(each.kwargs))
            for each in extra_actions
        ]
""")  # fmt: skip
    assert await service.get("/users/recent/") == [
        ["recent", False, "recent", "recent", {"get": "recent"}, ["description", "name"]],
        [
            "set_password", True, "change-password", "set-password", {"post": "set_password"},
            ["description", "name", "permission_classes"],
        ],
    ]  # fmt: skip


# --- Instance methods -------------------------------------------------------------------------------------------------


async def test_reverse_action(start: Start) -> None:
    """An absolute address, by positional and by named arguments, of extra and of standard actions."""
    service = await start(USERS + """
    @action(detail=True, methods=["post"])
    async def set_password(self, request, pk=None): ...

    @action(detail=False)
    async def urls(self, request):
        return [
            self.reverse_action('set-password', args=['1']),
            self.reverse_action('set-password', kwargs={'pk': 1}),
            self.reverse_action('set-password', '1'),
            self.reverse_action('list'),
            self.reverse_action('detail', args=["a/b c"]),
        ]
""")  # fmt: skip
    origin = str(service.client.make_url("/")).rstrip("/")
    one = f"{origin}/users/1/set_password/"
    assert await service.get("/users/urls/") == [one, one, one, f"{origin}/users/", f"{origin}/users/a%2Fb%20c/"]


async def test_reverse_action__unknown_name(start: Start) -> None:
    """A name that no route has is the programmer's error, and the log has it with the names there are."""
    service = await start(USERS + """
    @action(detail=False)
    async def urls(self, request):
        try:
            return self.reverse_action('set-pasword')
        except LookupError as error:
            return str(error)

    @action(detail=True, methods=["post"])
    async def set_password(self, request, pk=None): ...
""")  # fmt: skip
    assert "did you mean set-password" in await service.get("/users/urls/")


async def test_get_extra_action_url_map(start: Start) -> None:
    """Names and addresses of the other extra actions; empty if ``detail`` is not set."""
    service = await start(USERS + """
    @action(detail=True, methods=['put'], name='Change Password')
    async def password(self, request, pk=None):
        return self.get_extra_action_url_map()

    @action(detail=False)
    async def recent_users(self, request):
        return [self.get_extra_action_url_map(), await (UserViewSet.as_view({'get': 'bare'})(request.http)) and None]

    async def bare(self, request):
        assert self.get_extra_action_url_map() == {}
""")  # fmt: skip
    (key,) = await users(service, "ada")
    origin = str(service.client.make_url("/")).rstrip("/")
    _, shown = await service.ask("PUT", f"/users/{key}/password/", {})
    assert shown == {"Change Password": f"{origin}/users/{key}/password/"}
    assert (await service.get("/users/recent_users/"))[0] == {"Recent Users": f"{origin}/users/recent_users/"}


# --- Instance attributes ----------------------------------------------------------------------------------------------

LOOK = """
class UserViewSet(ModelViewSet):
    \"\"\"People.\"\"\"
    model = User

    def look(self):
        return [self.basename, self.action, self.detail, self.suffix, self.name, self.description]

    async def list(self, request):
        return self.look()

    async def retrieve(self, request, pk=None):
        return self.look()

    @action(detail=True, description="Says who it is.")
    async def who_is(self, request, pk=None):
        return self.look()

    @action(detail=False, suffix="All")
    async def everyone(self, request):
        \"\"\"All of them.\"\"\"
        return self.look()
"""


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/users/", ["user", "list", False, "List", None, None]),
        ("/users/1/", ["user", "retrieve", True, "Instance", None, None]),
        ("/users/1/who_is/", ["user", "who_is", True, None, "Who Is", "Says who it is."]),
        ("/users/everyone/", ["user", "everyone", False, "All", None, "All of them."]),
    ],
)
async def test_instance_attributes(start: Start, path: str, seen: list[Any]) -> None:
    """``basename``, ``action``, ``detail``, ``suffix``, ``name`` and ``description`` are there during dispatch."""
    service = await start(LOOK)
    assert await service.get(path) == seen


async def test_instance_attributes__without_a_request(start: Start) -> None:
    """A viewset class can be made without arguments, and its attributes then say nothing."""
    service = await start(LOOK)
    from rowcast import ModelViewSet

    view = ModelViewSet()
    assert (view.basename, view.action, view.detail, view.name) == (None, "", None, None)
    assert service


async def test_instance_attributes__action(start: Start) -> None:
    """The sample's ``get_permissions`` by action; it may be a coroutine's list or hold instances."""
    service = await start(USERS + """
    def get_permissions(self):
        if self.action == 'list':
            return [IsAuthenticated()]
        return [IsAdminUser()]
""")  # fmt: skip
    (key,) = await users(service, "ada")
    assert (await service.ask("GET", "/users/"))[0] == 401
    assert (await service.ask("GET", "/users/", user="1"))[0] == 200
    assert (await service.ask("GET", f"/users/{key}/", user="1"))[0] == 403
    assert (await service.ask("GET", f"/users/{key}/", user="root"))[0] == 200


# --- GenericViewSet, ModelViewSet, ReadOnlyModelViewSet ---------------------------------------------------------------


async def test_genericviewset(start: Start) -> None:
    """Mixins give a ``GenericViewSet`` its actions and no other."""
    service = await start(
        SERIALIZERS
        + """
from rowcast import mixins, viewsets

class UserViewSet(mixins.RetrieveModelMixin,
                  mixins.ListModelMixin,
                  viewsets.GenericViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
"""
    )
    (key,) = await users(service, "ada")
    assert await names(service) == ["ada"]
    assert (await service.get(f"/users/{key}/"))["name"] == "ada"
    assert (await service.ask("POST", "/users/", {"name": "x"}))[0] == 405
    assert (await service.ask("DELETE", f"/users/{key}/"))[0] == 405
    assert (await service.ask("GET", "/users/stream/"))[0] == 404


ACCOUNTS = (
    SERIALIZERS
    + """
class AccountViewSet(ModelViewSet):
    queryset = Account.objects.all()
    serializer_class = AccountSerializer
    permission_classes = [IsAccountAdminOrReadOnly]
"""
)


async def test_modelviewset(start: Start) -> None:
    """The sample: everybody reads, staff write."""
    service = await start(ACCOUNTS)
    (user,) = await users(service, "ada")
    assert (await service.ask("POST", "/accounts/", {"user_id": user}, "1"))[0] == 403
    assert await service.post("/accounts/", {"user_id": user}, "root") == {"id": 1, "user_id": user, "balance": "0.00"}
    assert (await service.get("/accounts/"))["count"] == 1


PROVIDED = {
    "list": ("GET", "/users/", 200),
    "create": ("POST", "/users/", 201),
    "retrieve": ("GET", "/users/1/", 200),
    "update": ("PUT", "/users/1/", 200),
    "partial_update": ("PATCH", "/users/1/", 200),
    "destroy": ("DELETE", "/users/1/", 204),
}


@pytest.mark.parametrize("action", PROVIDED)
async def test_modelviewset__provided_actions(start: Start, action: str) -> None:
    """Each of the six, by name and by address."""
    service = await start(USERS)
    await users(service, "ada")
    method, path, status = PROVIDED[action]
    assert (await service.ask(method, path, {"name": "x"} if method[0] == "P" else None))[0] == status


async def test_modelviewset__dynamic_querysets(start: Start) -> None:
    """The sample's scope follows a relation of the caller's row."""
    service = await start(
        SERIALIZERS
        + """
class AccountViewSet(ModelViewSet):
    serializer_class = AccountSerializer
    permission_classes = [IsAccountAdminOrReadOnly]

    async def perform_authentication(self, request):
        request.user = await User.objects.get(name=request.headers["X-User"])

    def get_queryset(self):
        return self.request.user.accounts.all()
"""
    )
    ada, bob = await users(service, "ada", "bob")
    for user in (ada, bob):
        await service.sql.execute("INSERT INTO accounts (user_id) VALUES ($1)", user)
    assert [row["user_id"] for row in (await service.get("/accounts/", "ada"))["results"]] == [ada]
    assert (await service.ask("GET", "/accounts/2/", user="ada"))[0] == 404
    async with listen(service.client, "/accounts/stream/", headers={"X-User": "bob"}) as stream:
        await stream.next()
        for user in (ada, bob):
            await service.sql.execute("INSERT INTO accounts (user_id) VALUES ($1)", user)
        assert (await stream.next()).json()["data"]["user_id"] == bob


async def test_readonlymodelviewset(start: Start) -> None:
    """``list`` and ``retrieve`` are there, and no write is."""
    service = await start(
        SERIALIZERS
        + """
class AccountViewSet(ReadOnlyModelViewSet):
    queryset = Account.objects.all()
    serializer_class = AccountSerializer
"""
    )
    (user,) = await users(service, "ada")
    await service.sql.execute("INSERT INTO accounts (user_id) VALUES ($1)", user)
    assert (await service.get("/accounts/"))["count"] == 1
    assert (await service.get("/accounts/1/"))["user_id"] == user
    assert (await service.ask("POST", "/accounts/", {}))[0] == 405
    for method in ("PUT", "PATCH", "DELETE"):
        assert (await service.ask(method, "/accounts/1/", {}))[0] == 405


async def test_custom_viewset_base_classes(start: Start) -> None:
    """The sample's base class of three mixins, and a viewset made of it."""
    service = await start(
        SERIALIZERS
        + """
class CreateListRetrieveViewSet(CreateModelMixin,
                                ListModelMixin,
                                RetrieveModelMixin,
                                GenericViewSet):
    \"\"\"
    A viewset that provides `retrieve`, `create`, and `list` actions.

    To use it, override the class and set the `.queryset` and
    `.serializer_class` attributes.
    \"\"\"
    pass

class UserViewSet(CreateListRetrieveViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
"""
    )
    assert (await service.post("/users/", {"name": "ada"}))["id"] == 1
    assert await names(service) == ["ada"]
    assert (await service.ask("DELETE", "/users/1/"))[0] == 405


# --- Action decorator -------------------------------------------------------------------------------------------------


async def test_action__detail(start: Start) -> None:
    """``detail`` says whether the address holds a key."""
    service = await start(USERS + """
    @action(detail=True)
    async def one(self, request, pk=None):
        return pk

    @action(detail=False)
    async def all(self, request):
        return "all"
""")  # fmt: skip
    assert await service.get("/users/5/one/") == "5"
    assert await service.get("/users/all/") == "all"
    assert (await service.ask("GET", "/users/one/"))[0] == 404


async def test_action__methods(start: Start) -> None:
    """``methods`` are those it answers; GET without."""
    service = await start(USERS + """
    @action(detail=False)
    async def read(self, request):
        return request.method

    @action(detail=False, methods=["put", "PATCH"])
    async def write(self, request):
        return request.method
""")  # fmt: skip
    assert await service.get("/users/read/") == "GET"
    assert (await service.ask("POST", "/users/read/"))[0] == 405
    assert await service.ask("PUT", "/users/write/", {}) == (200, "PUT")
    assert await service.ask("PATCH", "/users/write/") == (200, "PATCH")
    assert (await service.ask("GET", "/users/write/"))[0] == 405


async def test_action__url_path(start: Start) -> None:
    """``url_path`` is the method's name unless given; it may hold parameters, by converter or regular expression."""
    service = await start(USERS + r"""
    @action(detail=False, url_path=r"since/{year:\d{4}}")
    async def since(self, request, year):
        return year

    @action(detail=True, url_path="years/(?P<year>[0-9]{4})/(?P<word>(a|b)+)$")
    async def years(self, request, pk, year, word):
        return [pk, year, word]

    @action(detail=False, url_path="named/{name}")
    async def named(self, request, **kwargs):
        return kwargs

    @action(detail=False, url_path="from/<int:year>/<word>")
    async def from_(self, request, year, word):
        return [year, word]
""")  # fmt: skip
    assert await service.get("/users/since/2026/") == "2026"
    assert (await service.ask("GET", "/users/since/26/"))[0] == 404
    assert await service.get("/users/7/years/1999/abba/") == ["7", "1999", "abba"]
    assert (await service.ask("GET", "/users/7/years/1999/c/"))[0] == 404
    assert await service.get("/users/from/1999/on/") == ["1999", "on"]
    assert (await service.ask("GET", "/users/from/x/on/"))[0] == 404
    assert await service.get("/users/named/x%20y/") == {"name": "x y"}


async def test_action__url_name(start: Start) -> None:
    """``url_name`` is the name with hyphens unless given; routes are called ``<basename>-<url_name>``."""
    service = await start(USERS + """
    @action(detail=False)
    async def recent_users(self, request): ...

    @action(detail=False, url_name="other")
    async def others(self, request): ...
""")  # fmt: skip
    names = set(service.service.routes)
    assert {"user-list", "user-detail", "user-recent-users", "user-other", "user-stream"} <= names


async def test_action__permission_classes(start: Start) -> None:
    """``permission_classes`` of an action takes the place of the viewset's, to open and to close."""
    service = await start(USERS + """
    permission_classes = [IsAuthenticated]

    @action(detail=False, permission_classes=[AllowAny])
    async def open(self, request):
        return "open"

    @action(detail=False, permission_classes=[])
    async def empty(self, request):
        return "empty"

    @action(detail=False, permission_classes=[IsAdminUser | IsAuthenticated & ~IsAuthenticated])
    async def closed(self, request):
        return "closed"
""")  # fmt: skip
    assert (await service.ask("GET", "/users/"))[0] == 401
    assert await service.get("/users/open/") == "open"
    assert await service.get("/users/empty/") == "empty"
    assert (await service.ask("GET", "/users/closed/", user="1"))[0] == 403
    assert await service.get("/users/closed/", "root") == "closed"


async def test_action__serializer_class(start: Start) -> None:
    """``serializer_class`` of an action is what ``get_serializer`` and ``serialize`` use there."""
    service = await start(USERS + """
    @action(detail=True, methods=["post"], serializer_class=PasswordSerializer)
    async def set_password(self, request, pk=None):
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data
""")  # fmt: skip
    assert await service.post("/users/1/set_password/", {"password": "long enough"}) == {"password": "long enough"}
    status, problem = await service.ask("POST", "/users/1/set_password/", {"password": "short", "name": "x"})
    assert (status, set(problem["errors"])) == (400, {"password", "name"})


async def test_action__filter_backends(start: Start) -> None:
    """``filter_backends`` of an action are what ``filter_queryset`` applies there."""
    service = await start(
        SERIALIZERS
        + """
class Initial(BaseFilterBackend):
    query_parameters = ("initial",)

    def filter_queryset(self, request, queryset, view):
        return queryset.filter(name__startswith=request.query_params["initial"])

class UserViewSet(ModelViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer
    filterset_fields = ["name"]

    @action(detail=False, filter_backends=[Initial])
    async def initials(self, request):
        return await self.filter_queryset(self.get_queryset()).values("name")

    @action(detail=False, filter_backends=[])
    async def unfiltered(self, request):
        return await self.filter_queryset(self.get_queryset()).count()
"""
    )
    await users(service, "ada", "bob", "alan")
    assert await service.get("/users/initials/?initial=a&name=bob") == [{"name": "ada"}, {"name": "alan"}]
    assert await service.get("/users/unfiltered/?name=bob") == 3
    assert await names(service, "/users/?name=bob") == ["bob"]


PASSWORDS = """
    @action(detail=True, methods=['post'])
    async def set_password(self, request, pk=None):
        user = await self.get_object()
        serializer = PasswordSerializer(data=request.data)
        if serializer.is_valid():
            user.password = serializer.validated_data['password']
            await user.save()
            return Response({'status': 'password set'})
        return Response(serializer.errors, status=status.HTTP_400_BAD_REQUEST)

    @action(detail=False)
    async def recent_users(self, request):
        recent_users = User.objects.all().order_by('-last_login')

        page = self.paginate_queryset(recent_users)
        if page is not None:
            serializer = self.get_serializer(page, many=True)
            return self.get_paginated_response(serializer.data)

        serializer = self.get_serializer(recent_users, many=True)
        return Response(serializer.data)
"""


@pytest.mark.parametrize("blocking", [False, True])
async def test_action__set_password(start: Start, blocking: bool) -> None:
    """The sample with coroutines and, with ``wait`` in their place, in blocking style."""
    text = USERS + PASSWORDS
    if blocking:
        text = text.replace("async def", "def")
        for call in ("self.get_object()", "user.save()"):
            text = text.replace(f"await {call}", f"wait({call})")
    service = await start(text)
    (key,) = await users(service, "ada")
    path = f"/users/{key}/set_password/"
    assert await service.post(path, {"password": "correct horse"}) == {"status": "password set"}
    assert await service.sql.fetchval("SELECT password FROM users") == "correct horse"
    assert await service.ask("POST", path, {"password": "short"}) == (
        400, {"password": ["Shorter than minimum length 8."]}
    )  # fmt: skip
    assert (await service.ask("POST", "/users/99/set_password/", {"password": "correct horse"}))[0] == 404


@pytest.mark.parametrize("blocking", [False, True])
async def test_action__recent_users(start: Start, blocking: bool) -> None:
    """The sample pages rows; without pagination it shows them all."""
    text = USERS + PASSWORDS
    if blocking:
        text = text.replace("async def recent", "def recent")
    service = await start(text + "\n    page_size = 1\n")
    rows = "('old', '2001-01-01'), ('new', '2020-01-01')"
    await service.sql.execute(f"INSERT INTO users (name, last_login) VALUES {rows}")
    page = await service.get("/users/recent_users/")
    assert (page["count"], [row["name"] for row in page["results"]]) == (2, ["new"])
    assert page["next"].endswith("/users/recent_users/?page=2")
    assert await names(service, "/users/recent_users/?page=2") == ["old"]
    service = await start(text + "\n    pagination_class = None\n")
    assert [row["name"] for row in await service.get("/users/recent_users/")] == ["new", "old"]


async def test_multiple_http_methods(start: Start) -> None:
    """One function for two methods, named by strings or by ``HTTPMethod``."""
    service = await start(USERS + """
    @action(detail=True, methods=['post', 'delete'])
    async def unset_password(self, request, pk=None):
        return [request.method, pk]

    @action(detail=True, methods=[HTTPMethod.POST, HTTPMethod.DELETE])
    async def unset(self, request, pk=None):
        return [request.method, pk]
""")  # fmt: skip
    for path in ("/users/1/unset_password/", "/users/1/unset/"):
        assert await service.ask("POST", path) == (200, ["POST", "1"])
        assert await service.ask("DELETE", path) == (200, ["DELETE", "1"])
        assert (await service.ask("GET", path))[0] == 405


async def test_customizing_url_and_name(start: Start) -> None:
    """The sample's route: its address, its name, and its permission."""
    service = await start(SERIALIZERS + """
class IsAdminOrIsSelf(BasePermission):
    def has_permission(self, request, view):
        return request.user.is_staff or request.user.id == view.kwargs["id"]
""" + USERS.removeprefix(SERIALIZERS) + """
    @action(detail=True, methods=['post'],
            url_path='change-password',
            url_name='change_password',
            permission_classes=[IsAdminOrIsSelf])
    async def set_password(self, request, pk=None):
        return self.reverse_action("change_password", args=[pk])
""")  # fmt: skip
    assert "user-change_password" in service.service.routes
    path = "/users/1/change-password/"
    assert (await service.post(path, user="1")).endswith(path)
    assert (await service.ask("POST", path, user="2"))[0] == 403


async def test_routing_additional_http_methods(start: Start) -> None:
    """``@password.mapping.delete`` gives one address a second method, with a function of its own."""
    service = await start(USERS + """
    @action(detail=True, methods=['put'], name='Change Password')
    async def password(self, request, pk=None):
        \"\"\"Update the user's password.\"\"\"
        return ["set", pk, self.action, self.name]

    @password.mapping.delete
    async def delete_password(self, request, pk=None):
        \"\"\"Delete the user's password.\"\"\"
        return ["deleted", pk, self.action, self.name]
""")  # fmt: skip
    assert await service.ask("PUT", "/users/1/password/", {}) == (200, ["set", "1", "password", "Change Password"])
    assert await service.ask("DELETE", "/users/1/password/") == (
        200, ["deleted", "1", "delete_password", "Change Password"]
    )  # fmt: skip
    assert (await service.ask("POST", "/users/1/password/"))[0] == 405
    assert (await service.ask("DELETE", "/users/1/delete_password/"))[0] == 404


# --- ViewSetMixin -----------------------------------------------------------------------------------------------------


async def test_viewsetmixin(start: Start) -> None:
    """The sample: ``as_view`` binds methods to actions, and needs nothing but the mixin."""
    service = await start("""
class MyViewSet(ViewSetMixin):
    async def list(self, request):
        return [self.action, request.method]

    async def create(self, request):
        return Response([self.action, request.method], status=status.HTTP_201_CREATED)

class TagViewSet(ModelViewSet):
    model = Tag

    @action(detail=False, methods=['get', 'post'])
    async def mixed(self, request):
        view = MyViewSet.as_view({'get': 'list', 'post': 'create'})
        return await view(request.http)
""")
    assert await service.ask("GET", "/tags/mixed/") == (200, ["list", "GET"])
    assert await service.ask("POST", "/tags/mixed/") == (201, ["create", "POST"])


async def test_viewsetmixin__initialize_request(start: Start) -> None:
    """``initialize_request`` sets ``action`` by the method, and may be overridden."""
    service = await start(USERS + """
    def initialize_request(self, request, *args, **kwargs):
        made = super().initialize_request(request, *args, **kwargs)
        self.seen = [self.action, kwargs]
        return made

    async def retrieve(self, request, pk=None):
        return self.seen

    async def update(self, request, pk=None):
        return self.seen
""")  # fmt: skip
    assert await service.get("/users/1/") == ["retrieve", {"id": "1"}]
    assert await service.ask("PUT", "/users/1/", {}) == (200, ["update", {"id": "1"}])
