"""`session_middleware.fastapi`: what OpenAPI says, who is let in, and typed values on load and at commit.

Reading order: the drop-in under FastAPI, the dependencies, typed values (for each of the three kinds of
model), then what they refuse.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware.sessions import SessionMiddleware as Starlettes
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from session_middleware import (
    ConfigurationError,
    Session,
    SessionDataError,
    SessionEvent,
    SessionManager,
    SessionMiddleware,
)
from session_middleware.fastapi import (
    CurrentSession,
    CurrentUser,
    RequiredUser,
    TypedSession,
    get_session,
    require_user,
    session_dependency,
    typed_dependency,
)
from session_middleware.typed import bind_model

KEY = "0123456789abcdef0123456789abcdef"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class StructItem(msgspec.Struct):
    name: str = ""


class StructShop(msgspec.Struct):
    visits: int = 0
    items: list[StructItem] = []
    tags: set[str] = set()
    colour: Colour = Colour.RED
    seen: datetime | None = None


class PydanticItem(pydantic.BaseModel):
    name: str = ""


class PydanticShop(pydantic.BaseModel):
    visits: int = pydantic.Field(0, ge=0, alias="numberOfVisits")
    items: list[PydanticItem] = []
    tags: set[str] = set()
    colour: Colour = Colour.RED
    seen: datetime | None = None

    model_config = pydantic.ConfigDict(populate_by_name=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def count(self) -> int:
        return len(self.items)


@dataclass
class DataItem:
    name: str = ""


@dataclass
class DataShop:
    visits: int = 0
    items: list[DataItem] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    colour: Colour = Colour.RED
    seen: datetime | None = None


KINDS = {StructShop: StructItem, PydanticShop: PydanticItem, DataShop: DataItem}


class Browser(TestClient):
    """A client of one app with the events of its manager."""

    def __init__(self, app: FastAPI, url: str = "memory://", **settings: Any) -> None:
        self.manager = SessionManager(url, secret_key=KEY, **settings)
        self.events: list[SessionEvent] = []
        self.manager.subscribe(None, self.events.append)
        app.add_middleware(SessionMiddleware, manager=self.manager)
        super().__init__(app, base_url="https://testserver")

    def named(self, name: str) -> list[SessionEvent]:
        return [event for event in self.events if event.name == name]


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/values")
    async def values(session: CurrentSession) -> dict[str, Any]:
        return {**session}

    @app.post("/values")
    async def write(request: Request, session: CurrentSession) -> None:
        session.update(await request.json())

    @app.post("/login/{user}")
    async def login(user: str, session: CurrentSession) -> None:
        session.login(user)

    return app


@pytest.fixture
def browser(app: FastAPI) -> Browser:
    return Browser(app)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


Change = Callable[[Any], object]


def changing(app: FastAPI, kind: Any, change: Change) -> None:
    """`POST /shop`: a sync endpoint that changes the model."""

    def handler(shop: Any) -> None:
        change(shop)

    handler.__annotations__["shop"] = TypedSession[kind]
    app.post("/shop")(handler)


def values_after(browser: Browser) -> Any:
    return browser.get("/values").json()


# --- a drop-in under FastAPI ---


def test_request_session_is_the_session_of_the_dependency(app: FastAPI, browser: Browser) -> None:
    @app.get("/same")
    def same(request: Request, session: CurrentSession) -> bool:
        return request.session is session and type(session) is Session

    assert browser.get("/same").json() is True


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_what_comes_after_the_response_is_saved(app: FastAPI, url: str, tmp_path: Any) -> None:
    browser = Browser(app, f"sqlite:///{tmp_path}/s.db" if url == "sqlite" else url)

    async def mark(session: CurrentSession) -> AsyncIterator[None]:
        yield
        session["by a yield dependency"] = True

    @app.get("/late", dependencies=[Depends(mark)])
    def late(session: CurrentSession, tasks: BackgroundTasks) -> StreamingResponse:
        def stream() -> Iterator[str]:
            yield "a"
            session["by a stream"] = True
            yield "b"

        tasks.add_task(session.__setitem__, "by a background task", True)
        return StreamingResponse(stream(), background=tasks)

    with browser:
        browser.post("/values", json={"here": True})
        assert browser.get("/late").text == "ab"
        expected = {"here", "by a yield dependency", "by a stream", "by a background task"}
        assert set(values_after(browser)) == expected


def test_a_response_of_an_http_exception_below_500_saves_too(app: FastAPI, browser: Browser) -> None:
    @app.get("/gone")
    async def gone(session: CurrentSession) -> None:
        session["tried"] = True
        raise HTTPException(404)

    assert browser.get("/gone").status_code == 404
    assert values_after(browser) == {"tried": True}


# --- dependencies ---


def test_openapi_shows_the_cookie_once_and_on_the_operations_that_use_it(app: FastAPI) -> None:
    @app.get("/open")
    async def anyone() -> None: ...

    @app.get("/user")
    async def user(user: RequiredUser, shop: TypedSession[StructShop], who: CurrentUser) -> None: ...

    described = app.openapi()
    assert described["components"]["securitySchemes"] == {
        "SessionCookie": {"type": "apiKey", "in": "cookie", "name": "session"}
    }
    for path in ("/values", "/user"):
        assert described["paths"][path]["get"]["security"] == [{"SessionCookie": []}]
        assert "parameters" not in described["paths"][path]["get"]
        assert "requestBody" not in described["paths"][path]["get"]
    assert "security" not in described["paths"]["/open"]["get"]


def test_openapi_names_the_cookie_that_the_app_chose() -> None:
    app = FastAPI()
    named = session_dependency("sid", "Sid")

    @app.get("/typed")
    async def typed(shop: Annotated[StructShop, Depends(typed_dependency(StructShop, named))]) -> int:
        shop.visits += 1
        return shop.visits

    browser = Browser(app, session_cookie="sid")
    assert app.openapi()["components"]["securitySchemes"] == {
        "Sid": {"type": "apiKey", "in": "cookie", "name": "sid"}
    }
    assert [browser.get("/typed").json() for _ in range(3)] == [1, 2, 3]
    assert list(browser.cookies) == ["sid"]


def test_asking_for_the_session_is_no_look_at_it(app: FastAPI, browser: Browser) -> None:
    @app.get("/unlooked")
    async def unlooked(session: CurrentSession) -> None: ...

    assert "vary" not in browser.get("/unlooked").headers
    assert browser.get("/values").headers["vary"] == "Cookie"


def test_the_session_works_under_another_cookie_name(app: FastAPI) -> None:
    browser = Browser(app, session_cookie="sid")
    browser.post("/values", json={"a": 1})
    assert values_after(browser) == {"a": 1}


def test_two_middlewares_have_a_dependency_each() -> None:
    app = FastAPI()
    dependencies = [session_dependency(name) for name in ("shop", "admin")]

    @app.get("/")
    async def both(
        shop: Annotated[Session, Depends(dependencies[0])],
        admin: Annotated[Session, Depends(dependencies[1])],
    ) -> list[int]:
        return [shop.increment("a"), admin.increment("a", 10)]

    for name in ("shop", "admin"):
        app.add_middleware(SessionMiddleware, KEY, name)
    client = TestClient(app, base_url="https://testserver")
    assert [client.get("/").json() for _ in range(2)] == [[1, 10], [2, 20]]


def test_an_unknown_cookie_name_is_told_with_those_there_are() -> None:
    app = FastAPI(dependencies=[Depends(session_dependency("sid"))])
    app.get("/")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"\['session'\]"):
        Browser(app).get("/")


@pytest.mark.parametrize("theirs", [False, True])
def test_without_our_middleware_the_remedy_is_told(app: FastAPI, theirs: bool) -> None:
    if theirs:
        app.add_middleware(Starlettes, secret_key=KEY)
    with pytest.raises(ConfigurationError, match="add SessionMiddleware from session_middleware"):
        TestClient(app).get("/values")


def test_nobody_signed_in_gets_401_without_a_challenge(app: FastAPI, browser: Browser) -> None:
    @app.get("/mine")
    async def mine(user: RequiredUser) -> str:
        return user

    @app.get("/ours", dependencies=[Depends(require_user)])
    def ours(user: CurrentUser) -> str | None:
        return user

    for path in ("/mine", "/ours"):
        refused = browser.get(path)
        assert (refused.status_code, refused.json()) == (401, {"detail": "Not signed in"})
        assert "www-authenticate" not in refused.headers
        assert "session" not in browser.cookies
    browser.post("/login/ada")
    assert [browser.get(path).json() for path in ("/mine", "/ours")] == ["ada", "ada"]


def test_current_user_is_none_for_an_anonymous_visitor(app: FastAPI, browser: Browser) -> None:
    @app.get("/who")
    async def who(user: CurrentUser) -> str | None:
        return user

    assert browser.get("/who").json() is None
    browser.post("/values", json={"user_id": 7})
    assert browser.get("/who").json() == "7"


def test_websockets_have_the_same_dependencies(app: FastAPI, browser: Browser) -> None:
    @app.websocket("/ws")
    async def ws(socket: WebSocket, user: RequiredUser, shop: TypedSession[StructShop]) -> None:
        await socket.accept()
        shop.visits += 1
        shop.items.append(StructItem("tea"))
        await socket.send_json([user, shop.visits])
        await socket.close()

    with pytest.raises(WebSocketDisconnect) as refused, browser.websocket_connect("wss://testserver/ws"):
        pass
    assert refused.value.code == 1008
    browser.post("/login/ada")
    for visits in (1, 2):
        with browser.websocket_connect("wss://testserver/ws") as socket:
            assert socket.receive_json() == ["ada", visits]
    assert values_after(browser) == {"visits": 2, "items": [{"name": "tea"}] * 2}


def test_overrides_replace_the_session_below_everything(app: FastAPI, browser: Browser) -> None:
    @app.get("/both")
    async def both(user: RequiredUser, shop: TypedSession[StructShop]) -> list[Any]:
        return [user, shop.visits]

    app.dependency_overrides[get_session] = lambda: Session(user_id="ada", visits=3)
    assert browser.get("/both").json() == ["ada", 3]
    app.dependency_overrides[require_user] = lambda: "bob"
    assert browser.get("/both").json() == ["bob", 3]


# --- typed values ---


def test_a_new_visitor_gets_the_defaults_and_no_session(app: FastAPI, browser: Browser, kind: Any) -> None:
    found: list[Any] = []
    changing(app, kind, found.append)
    browser.post("/shop")
    assert found == [kind()]
    assert browser.named("session_created") == []
    assert "session" not in browser.cookies


def test_values_are_loaded_with_their_types(app: FastAPI, browser: Browser, kind: Any) -> None:
    found: list[Any] = []
    changing(app, kind, found.append)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    stored = {
        "visits": 2,
        "items": [{"name": "tea"}],
        "tags": ["a"],
        "colour": "blue",
        "seen": at.isoformat(),
    }
    browser.post("/values", json={**stored, "another": "key", "count": 9})
    browser.post("/shop")
    expected = kind(
        visits=2, items=[KINDS[kind]("tea") if kind is not PydanticShop else PydanticItem(name="tea")]
    )
    expected.tags, expected.colour, expected.seen = {"a"}, Colour.BLUE, at
    assert found == [expected]


CHANGES: dict[str, tuple[Change, Any]] = {
    "an assignment": (lambda shop: setattr(shop, "visits", 5), {"visits": 5}),
    "a nested change": (lambda shop: setattr(shop.items[0], "name", "rum"), {"items": [{"name": "rum"}]}),
    "a replaced list": (lambda shop: setattr(shop, "items", []), {"items": []}),
    "a grown set": (lambda shop: shop.tags.add("b"), {"tags": ["b"]}),
    "an enum": (lambda shop: setattr(shop, "colour", Colour.BLUE), {"colour": "blue"}),
    "back to the default": (lambda shop: setattr(shop, "visits", 0), {"visits": 0}),
}
BEFORE = {"visits": 1, "items": [{"name": "tea"}], "another": "key"}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_in_the_model_is_saved_and_nothing_else(
    app: FastAPI, browser: Browser, kind: Any, name: str
) -> None:
    change, expected = CHANGES[name]
    changing(app, kind, change)
    browser.post("/values", json=BEFORE)
    browser.events.clear()
    browser.post("/shop")
    [saved] = browser.named("session_data_saved")
    assert (saved.fields["saved_keys"], saved.fields["deleted_keys"]) == (list(expected), [])
    assert values_after(browser) == BEFORE | expected


def test_times_come_back_as_they_went_in(app: FastAPI, browser: Browser, kind: Any) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    found: list[Any] = []
    changing(app, kind, lambda shop: (found.append(shop.seen), setattr(shop, "seen", at)))
    browser.post("/shop")
    browser.post("/shop")
    assert found == [None, at]


def test_reading_the_model_writes_nothing(app: FastAPI, browser: Browser, kind: Any) -> None:
    changing(app, kind, lambda shop: (list(shop.items), shop.visits))
    browser.post("/values", json=BEFORE)
    browser.events.clear()
    assert "set-cookie" not in browser.post("/shop").headers
    assert browser.named("session_data_saved") == []


@pytest.mark.parametrize("kind_of_late", ["stream", "background", "yield"])
def test_what_changes_in_the_model_after_the_response_is_saved(
    app: FastAPI, browser: Browser, kind: Any, kind_of_late: str
) -> None:
    typed = Depends(typed_dependency(kind))

    def change(shop: Any) -> Iterator[str]:
        yield "a"
        shop.visits += 1
        shop.items.append(KINDS[kind]())

    async def dependency(shop: Any = typed) -> AsyncIterator[None]:
        yield
        list(change(shop))

    @app.post("/late", dependencies=[Depends(dependency)] if kind_of_late == "yield" else [])
    async def late(tasks: BackgroundTasks, shop: Any = typed) -> Response:
        if kind_of_late == "background":
            tasks.add_task(lambda: list(change(shop)))
        return StreamingResponse(change(shop) if kind_of_late == "stream" else iter("a"), background=tasks)

    browser.post("/values", json=BEFORE)
    browser.post("/late")
    assert values_after(browser) == BEFORE | {"visits": 2, "items": [{"name": "tea"}, {"name": ""}]}


@pytest.mark.parametrize("problem", [RuntimeError("on purpose"), HTTPException(503)], ids=["raise", "answer"])
def test_a_server_error_saves_no_typed_change(
    app: FastAPI, browser: Browser, kind: Any, problem: Exception
) -> None:
    def fail(shop: Any) -> None:
        shop.visits = 5
        raise problem

    changing(app, kind, fail)
    browser.post("/values", json=BEFORE)
    with suppress(RuntimeError):
        browser.post("/shop")
    assert values_after(browser) == BEFORE


def test_one_model_is_the_same_object_wherever_it_is_asked_for(app: FastAPI, browser: Browser) -> None:
    async def visit(shop: TypedSession[StructShop]) -> StructShop:
        shop.visits += 1
        return shop

    @app.get("/nested")
    async def nested(
        session: CurrentSession,
        visited: Annotated[StructShop, Depends(visit, use_cache=False)],
        again: Annotated[StructShop, Depends(typed_dependency(StructShop), use_cache=False)],
        other: TypedSession[DataShop],
    ) -> list[Any]:
        return [visited is again, again is bind_model(session, StructShop), other.visits]

    assert [browser.get("/nested").json() for _ in range(2)] == [[True, True, 0], [True, True, 1]]


def test_the_model_and_the_session_may_be_changed_side_by_side(app: FastAPI, browser: Browser) -> None:
    @app.post("/both")
    async def both(session: CurrentSession, shop: TypedSession[StructShop]) -> None:
        session["another"] = 1
        session["visits"] = 7
        shop.items.append(StructItem("tea"))
        await browser.manager.save(session)
        shop.tags.add("late")

    browser.post("/both")
    assert values_after(browser) == {
        "another": 1,
        "visits": 7,
        "items": [{"name": "tea"}],
        "tags": ["late"],
    }


def test_a_logout_takes_the_model_along(app: FastAPI, browser: Browser, kind: Any) -> None:
    typed = Depends(typed_dependency(kind))

    @app.post("/leave")
    async def leave(session: CurrentSession, shop: Any = typed) -> None:
        shop.visits = 5
        session.logout()

    browser.post("/values", json=BEFORE)
    browser.post("/leave")
    assert "session" not in browser.cookies
    assert values_after(browser) == {}
    assert browser.named("session_data_save_failed") == []


def test_after_a_logout_the_model_begins_anew(app: FastAPI, browser: Browser) -> None:
    @app.post("/anew")
    async def anew(session: CurrentSession, shop: TypedSession[StructShop]) -> None:
        shop.visits = 5
        session.logout()
        bind_model(session, StructShop).tags.add("new")

    browser.post("/values", json=BEFORE)
    browser.post("/anew")
    assert values_after(browser) == {"tags": ["new"]}


class Privileged(msgspec.Struct):
    role: str = "guest"
    visits: int = 0


def test_a_privilege_changed_in_the_model_gives_a_new_cookie(app: FastAPI, browser: Browser) -> None:
    changing(app, Privileged, lambda model: setattr(model, "role", "admin"))
    browser.post("/values", json=BEFORE)
    before = browser.cookies["session"]
    browser.post("/shop")
    assert browser.cookies["session"] != before
    assert values_after(browser)["role"] == "admin"


def test_a_privilege_changed_too_late_is_an_event(app: FastAPI, browser: Browser) -> None:
    @app.post("/late")
    async def late(tasks: BackgroundTasks, model: TypedSession[Privileged]) -> None:
        tasks.add_task(lambda: (setattr(model, "role", "admin"), setattr(model, "visits", 2)))

    browser.post("/values", json=BEFORE)
    browser.post("/late")
    [failed] = browser.named("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("response_started", ["role"])
    assert values_after(browser) == BEFORE | {"visits": 2}


class Renamed(msgspec.Struct, rename="camel", omit_defaults=True):
    last_page: str | msgspec.UnsetType = msgspec.UNSET
    seen_count: dict[int, int] = {}


def test_a_struct_keeps_its_encoded_names_and_unset_removes(app: FastAPI, browser: Browser) -> None:
    def change(model: Renamed) -> None:
        model.last_page = "/a" if model.last_page is msgspec.UNSET else msgspec.UNSET
        model.seen_count[1] = model.seen_count.get(1, 0) + 1

    changing(app, Renamed, change)
    browser.post("/shop")
    assert values_after(browser) == {"lastPage": "/a", "seenCount": {"1": 1}}
    browser.post("/shop")
    assert values_after(browser) == {"seenCount": {"1": 2}}


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    seen: datetime | None = None
    pair: tuple[int, int] = (0, 0)


def test_a_strict_pydantic_model_reads_what_it_wrote(app: FastAPI, browser: Browser) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    found: list[Any] = []
    changing(app, Strict, lambda model: (found.append(model.model_copy()), setattr(model, "seen", at)))
    browser.post("/values", json={"another": "key"})
    browser.post("/shop")
    browser.post("/shop")
    assert found == [Strict(), Strict(seen=at)]


# --- what they refuse ---


@pytest.mark.parametrize(
    ("key", "value"),
    [("visits", "s3cret"), ("items", [{"name": 31415}]), ("items", "s3cret"), ("colour", "s3cret")],
)
def test_values_that_do_not_fit_are_told_by_key_and_never_by_value(
    app: FastAPI, browser: Browser, kind: Any, key: str, value: Any
) -> None:
    changing(app, kind, bool)
    browser.post("/values", json={key: value})
    with pytest.raises(SessionDataError, match=rf"session\['{key}'\] does not fit {kind.__name__}") as told:
        browser.post("/shop")
    assert told.value.key == key
    assert (told.value.__cause__, told.value.__context__) == (None, None)
    assert "s3cret" not in str(told.value)
    assert "31415" not in str(told.value)


def test_an_app_may_answer_misfits_itself(app: FastAPI, browser: Browser, kind: Any) -> None:
    async def begin_anew(request: Request, problem: Exception) -> Response:
        del request.session[getattr(problem, "key", "")]
        return Response(status_code=409)

    app.add_exception_handler(SessionDataError, begin_anew)
    changing(app, kind, bool)
    browser.post("/values", json={"visits": "many", "another": "key"})
    assert [browser.post("/shop").status_code for _ in range(2)] == [409, 200]
    assert values_after(browser) == {"another": "key"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("visits", "5"), ("visits", "s3cret"), ("items", [object()]), ("items", 3), ("colour", "green")],
)
def test_a_change_that_would_not_load_again_is_refused_at_commit(
    app: FastAPI, browser: Browser, kind: Any, key: str, value: Any
) -> None:
    changing(app, kind, lambda shop: (setattr(shop, key, value), setattr(shop, "tags", {"x"})))
    browser.post("/values", json=BEFORE)
    with pytest.raises(SessionDataError, match=rf"session\['{key}'\] does not fit") as told:
        browser.post("/shop")
    assert "s3cret" not in str(told.value)
    [failed] = browser.named("session_data_save_failed")
    assert (failed.fields["reason"], failed.fields["keys"]) == ("serialization_error", [key])
    assert values_after(browser) == BEFORE


def test_a_server_error_stays_the_answer_whatever_the_model_holds(app: FastAPI, kind: Any) -> None:
    def fail(shop: Any) -> None:
        shop.items = [object()]
        raise HTTPException(503, "on purpose")

    changing(app, kind, fail)
    assert Browser(app).post("/shop").json() == {"detail": "on purpose"}


def test_a_constraint_that_is_broken_later_is_refused_at_commit(app: FastAPI, browser: Browser) -> None:
    changing(app, PydanticShop, lambda shop: setattr(shop, "visits", -1))
    with pytest.raises(SessionDataError, match=r"session\['visits'\] does not fit PydanticShop: .*greater"):
        browser.post("/shop")


class RequiredStruct(msgspec.Struct):
    name: str


class RequiredModel(pydantic.BaseModel):
    name: str


@dataclass
class RequiredData:
    name: str


class Row(msgspec.Struct, array_like=True):
    name: str = ""


@pytest.mark.parametrize("model", [RequiredStruct, RequiredModel, RequiredData])
def test_a_field_without_default_is_told_when_the_app_is_made(model: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{model.__name__}.name needs a default"):
        TypedSession[model]


@pytest.mark.parametrize("model", [int, dict[str, int], "Shop", Row])
def test_a_class_that_cannot_be_bound_is_told_when_the_app_is_made(model: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"pass a msgspec.Struct|array_like"):
        TypedSession[model]


def test_a_backend_outage_refuses_typed_changes_with_503(app: FastAPI, kind: Any) -> None:
    browser = Browser(app)

    async def degraded(session: CurrentSession) -> Session:
        session.life.degraded = True
        return session

    typed = Depends(typed_dependency(kind, degraded))

    @app.post("/degraded")
    async def handler(shop: Any = typed) -> None:
        shop.visits = 5

    assert browser.post("/degraded").status_code == 503


def test_without_fastapi_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['fastapi'] = None; import session_middleware.fastapi"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith(
        'session_middleware.fastapi needs FastAPI: pip install "session_middleware[fastapi]"'
    )
