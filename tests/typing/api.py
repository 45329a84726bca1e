"""The public API in use. Type-checked by mypy (strict) and pyright, never run.

`assert_type` holds what an editor shows; a line that must be refused carries an ignore, which the checkers
report as soon as it is no longer needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, assert_type

import msgspec
import pydantic
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from session_middleware import (
    EVENTS,
    BackendClosed,
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    CookieSettings,
    EventType,
    MemoryBackend,
    Policy,
    ResponseStartedError,
    Session,
    SessionCapacityError,
    SessionConflictError,
    SessionDataError,
    SessionError,
    SessionEvent,
    SessionLockError,
    SessionManager,
    SessionMiddleware,
    SessionNotFoundError,
    SQLiteBackend,
    Where,
    WrongProcess,
    get_session_manager,
    initialize_session_manager,
)
from session_middleware.fastapi import (
    CurrentSession,
    CurrentUser,
    RequiredUser,
    SessionCookie,
    TypedSession,
    current_user,
    get_session,
    require_user,
    session_dependency,
    typed_dependency,
)
from session_middleware.progress import progress_events
from session_middleware.typed import bind_model
from session_middleware.values import JsonValue


class StructShop(msgspec.Struct):
    visits: int = 0


class PydanticShop(pydantic.BaseModel):
    visits: int = 0


@dataclass
class DataShop:
    visits: int = 0


# --- entrances ---


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    session: Session = scope["session"]
    session.renew()


wrapped: ASGIApp = SessionMiddleware(plain, "key", "session", None, "/", "lax", True, None, False)
also_wrapped = SessionMiddleware(
    plain, Secret("key"), backend=SQLiteBackend("sessions.db"), skip=["/static/*"]
)
starlette = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="key", max_age=60)])
starlette.add_middleware(
    SessionMiddleware, manager=SessionManager(), passive=lambda scope: bool(scope["path"])
)
SessionMiddleware(plain, "key", same_site="anything")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- the session ---


def handler(session: Session) -> None:
    session["cart"] = {"tea": 1}
    session.update(theme="dark")
    session |= {"theme": "light"}
    session.setdefault("cart", {})["cake"] = 2
    assert_type(session.increment("visits", 2), int)
    session.login(7)
    session.cycle(grace=0)
    session.set_expiry(timedelta(days=30))
    session.set_expiry(None)
    session.invalidate()
    session.logout()
    session.clear()
    session.mark_accessed()
    session.mark_modified()
    assert_type(session.user_id, str | None)
    assert_type(session.expires_at, float | None)
    assert_type(session.is_new, bool)
    assert_type(session.priority, int)
    assert_type(session.metadata, dict[str, Any])
    assert_type(session.ended_because, str | None)
    session.user_id = "ada"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    session.login(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- the manager ---


async def operate(manager: SessionManager) -> None:
    async with manager:
        session = await manager.create_session("ada", {"a": 1}, conversation_id="c", priority=1)
        assert_type(session, Session)
        assert_type(await manager.get_session("id", touch=True), Session | None)
        assert_type(await manager.get_session_by_user(7), Session | None)
        assert_type(await manager.get_user_sessions("ada"), list[Session])
        assert_type(await manager.update_session("id", a=1, unset=["b"]), Session)
        assert_type(await manager.save(session), bool)
        assert_type(await manager.renew_session("id"), float)
        assert_type(await manager.delete_session("id", "revoked", user_id="ada"), bool)
        assert_type(await manager.delete_user_sessions("ada", keep=[session, "id"]), int)
        assert_type(await manager.count(), int)
        assert_type(await manager.cleanup_expired(), int)
        await manager.cycle_session("id", grace=0)
        async with manager.track_request("id") as held:
            assert_type(held, Session)
    assert_type(await manager.stop(timeout=5), bool)


async def operate_on_many(manager: SessionManager) -> None:
    assert_type(await manager.get_sessions(Where(user_id=7), limit=5, after="id"), list[Session])
    assert_type(await manager.get_sessions(status="failed"), list[Session])
    assert_type(await manager.get_sessions_info(), list[dict[str, JsonValue]])
    assert_type(await manager.end_sessions(network="192.0.2.0/24", dry_run=False, by="ops"), int)
    assert_type(await manager.delete_all(confirm=True), int)
    assert_type(await manager.cleanup(older_than=timedelta(days=1)), int)
    assert_type(await manager.cleanup_inactive(30), int)
    assert_type(await manager.bulk_update(["id"], lambda session: session.clear()), int)
    assert_type(await manager.get_statistics(), dict[str, Any])
    assert_type(await manager.get_health(), dict[str, Any])
    assert_type(await manager.get_stuck_sessions(), list[Session])
    assert_type(await manager.export_user(7), dict[str, JsonValue])
    assert_type(await manager.erase_user("ada"), int)
    assert_type(await manager.delete_user_sessions("ada", keep="id"), int)
    await manager.end_all_before(0.0, reason="key leaked", by="ops")
    await manager.reconfigure(idle_timeout=60.0, max_sessions=None)


async def operate_on_one(manager: SessionManager) -> None:
    assert_type(await manager.recover_session("id"), Session | None)
    ended = await manager.why_ended("id")
    assert_type(
        None if ended is None else (ended.reason, ended.at, ended.by), tuple[str, float, str | None] | None
    )
    async with manager.transaction("id", timeout=5) as alone:
        assert_type(alone, Session)
    assert_type(await manager.transact("id", len, attempts=3), int)
    assert_type(await manager.with_session_lock("id", len), int)
    await manager.set_status("id", "processing")
    await manager.set_progress("id", 1, 2, "half")
    await manager.put_item("id", 1, {"a": [1]})
    await manager.set_items("id", {1: "a"})
    await manager.fail("id", "no paper")
    await manager.complete("id")
    async for event in progress_events(manager, "id"):
        assert_type(event, bytes)


def observe(manager: SessionManager) -> None:
    def seen(event: SessionEvent) -> None:
        assert_type(event.name, str)
        assert_type(event.session_id, str | None)
        assert_type(EVENTS[event.name], EventType)

    unsubscribe: Callable[[], object] = manager.subscribe("session_created", seen)
    unsubscribe()
    assert_type(manager.get_metrics(), dict[str, Any])
    assert_type(manager.policy, Policy)
    assert_type([request.path for request in manager.active_requests()], list[str])
    with manager.blocking as blocking, blocking.track_request("id") as held:
        assert_type(held, Session)


def configure() -> None:
    manager = SessionManager(
        MemoryBackend(max_records=10),
        secret_key=b"key",
        policy=Policy.aal2(),
        idle_timeout=timedelta(hours=1),
    )
    assert_type(manager.cookie, CookieSettings)
    assert_type(initialize_session_manager(30), SessionManager)
    assert_type(get_session_manager(), SessionManager)


# --- errors ---


def errors(problem: SessionError) -> float | str | None:
    match problem:
        case SessionDataError():
            return problem.key
        case BackendUnavailable() | BackendFull() | BackendReadOnly() | BackendCorrupt() | BackendClosed():
            return problem.retryable
        case WrongProcess() | BackendError():
            return problem.unknown
        case ConfigurationError() | SessionNotFoundError():
            values: ValueError = problem
            return str(values)
        case SessionCapacityError() | SessionConflictError() | SessionLockError() | ResponseStartedError():
            return None
    return None


# --- FastAPI ---

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key="key", backend="sqlite:///sessions.db", idle_timeout=1800.0)
Sid = Annotated[Session, Depends(session_dependency("sid"))]


@app.get("/", dependencies=[Depends(require_user), Depends(SessionCookie("sid"))])
async def route(
    session: CurrentSession,
    named: Sid,
    user: CurrentUser,
    required: RequiredUser,
    struct: TypedSession[StructShop],
    model: TypedSession[PydanticShop],
    data: TypedSession[DataShop],
    other: Annotated[StructShop, Depends(typed_dependency(StructShop, get_session))],
) -> None:
    assert_type(session, Session)
    assert_type(named, Session)
    assert_type(user, str | None)
    assert_type(required, str)
    assert_type(struct, StructShop)
    assert_type(model, PydanticShop)
    assert_type(data, DataShop)
    assert_type(other, StructShop)
    assert_type(bind_model(session, StructShop), StructShop)
    assert_type(await current_user(session), str | None)
    struct.visit = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
