"""FastAPI: the session, its user, and typed values as dependencies.

    app.add_middleware(SessionMiddleware, secret_key=KEY, backend="sqlite:///sessions.db")

    @app.post("/cart")
    async def add(item: Item, user: RequiredUser, shop: TypedSession[Shop]) -> int:
        shop.cart.append(item)
        return len(shop.cart)

Reading order: `CurrentSession`, `CurrentUser` and `RequiredUser`, `TypedSession`. All of them work in routes
and WebSockets, async or not, below other dependencies, and under `app.dependency_overrides`. In OpenAPI they
are the security scheme `SessionCookie`. `CurrentSession` by itself is no look at the session; the others are.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from session_middleware.errors import ConfigurationError
from session_middleware.session import Session
from session_middleware.typed import bind_model, form_of

try:
    from fastapi import Depends, HTTPException, WebSocketException, status
    from fastapi.openapi.models import APIKey
    from fastapi.requests import HTTPConnection
    from fastapi.security.base import SecurityBase
except ModuleNotFoundError as problem:
    raise ImportError(
        'session_middleware.fastapi needs FastAPI: pip install "session_middleware[fastapi]"'
    ) from problem

__all__ = [
    "CurrentSession",
    "CurrentUser",
    "RequiredUser",
    "SessionCookie",
    "TypedSession",
    "current_user",
    "get_session",
    "require_user",
    "session_dependency",
    "typed_dependency",
]

M = TypeVar("M")
SessionDependency: TypeAlias = Callable[..., Awaitable[Session]]
_COOKIE = "session"  # the middleware's default


class SessionCookie(SecurityBase):
    """The session cookie as a security scheme of OpenAPI. It checks nothing: the middleware has done so."""

    def __init__(self, cookie_name: str = _COOKIE, scheme_name: str = "SessionCookie") -> None:
        self.scheme_name = scheme_name
        self.model = APIKey.model_validate({"in": "cookie", "name": cookie_name})

    async def __call__(self) -> None:
        """Nothing: a dependency only so that FastAPI finds it."""


@cache
def session_dependency(cookie_name: str = _COOKIE, scheme_name: str = "SessionCookie") -> SessionDependency:
    """A dependency that answers the session of this cookie, for apps whose cookie has another name.

        Sid = Annotated[Session, Depends(session_dependency("sid"))]

    Where two of our middlewares serve one app, each cookie has a dependency of its own. Under the default
    name it is also the session of the only middleware there is, though OpenAPI then names the wrong cookie.
    The same arguments give the same function, so that overrides and FastAPI's cache find it.
    """
    scheme = SessionCookie(cookie_name, scheme_name)

    async def named_session(connection: HTTPConnection, _: Annotated[None, Depends(scheme)]) -> Session:
        return _session_in(connection.scope, cookie_name)

    return named_session


def _session_in(scope: Mapping[str, Any], cookie_name: str) -> Session:
    sessions: Mapping[str, Session] = scope.get("session_middleware") or {}
    if cookie_name in sessions:
        return sessions[cookie_name]
    if len(sessions) == 1 and cookie_name == _COOKIE:
        return next(iter(sessions.values()))
    if sessions:
        raise ConfigurationError(
            f"session_dependency: found sessions for the cookies {sorted(sessions)}, pass one of these names"
        )
    raise ConfigurationError(
        "there is no session here: add SessionMiddleware from session_middleware to the app "
        "(app.add_middleware(SessionMiddleware, secret_key=...)), and leave this route out of its `skip`"
    )


get_session: SessionDependency = session_dependency()
CurrentSession: TypeAlias = Annotated[Session, Depends(get_session)]
"""The session of the request or WebSocket. Raises `ConfigurationError` where no middleware of ours is."""


async def current_user(session: CurrentSession) -> str | None:
    """The id of who is signed in, or None."""
    return session.user_id


CurrentUser: TypeAlias = Annotated[str | None, Depends(current_user)]


async def require_user(connection: HTTPConnection, user: CurrentUser) -> str:
    """The id of who is signed in; where that is nobody, 401 (a WebSocket: closed with 1008)."""
    if user is not None:
        return user
    if connection.scope["type"] == "websocket":
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "Not signed in")
    raise HTTPException(status.HTTP_401_UNAUTHORIZED, "Not signed in")


RequiredUser: TypeAlias = Annotated[str, Depends(require_user)]


def typed_dependency(model: type[M], session: SessionDependency = get_session) -> Callable[..., Awaitable[M]]:
    """What `TypedSession[model]` depends on; over the session of another dependency where one is passed.

    Raises `ConfigurationError` for a class that cannot be bound, so when the app is made.
    """
    form_of(model)
    wanted: Any = model
    return _typed_dependency(wanted, session)


@cache
def _typed_dependency(model: type[Any], session: SessionDependency) -> Callable[..., Awaitable[Any]]:
    async def typed_session(found: Annotated[Session, Depends(session)]) -> object:
        return bind_model(found, model)

    return typed_session


if TYPE_CHECKING:
    TypedSession: TypeAlias = Annotated[M, "the values of the session"]
else:

    class TypedSession:
        """`TypedSession[Model]`: the values of the session as a msgspec.Struct, pydantic model or dataclass.

        Each field is one key of the session and needs a default, which a new visitor gets. What a handler
        (or a background task, or a stream) changes in it, nested or not, is saved with the session;
        unchanged, it writes nothing. Values that do not fit raise `SessionDataError` naming the key, when
        they are loaded and when they are saved; an app whose models change registers an exception handler
        for it. More in `session_middleware.typed`.
        """

        def __class_getitem__(cls, model: type[M]) -> object:
            return Annotated[model, Depends(typed_dependency(model))]
