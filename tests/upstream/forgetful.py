"""The control: a middleware that gives every request an empty session and keeps nothing of it."""

from starlette.middleware.sessions import Session
from starlette.middleware.sessions import SessionMiddleware as Starlettes
from starlette.types import Receive, Scope, Send

__all__ = ["Session", "SessionMiddleware"]


class SessionMiddleware(Starlettes):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = Session()
        await self.app(scope, receive, send)
