"""Sessions under plain ASGI, without a framework. Run: `uvicorn examples.asgi_app:app`, then for instance

curl -c jar -b jar -X POST localhost:8000/login/ada; curl -c jar -b jar localhost:8000/me
"""

import json
import os

from starlette.types import Receive, Scope, Send

from session_middleware import Session, SessionManager, SessionMiddleware

manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await start_and_stop(receive, send)
    elif scope["type"] == "http":
        path = scope["path"].strip("/").split("/")
        status, answer = await devices(scope) if path == ["devices"] else visit(scope, path)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def visit(scope: Scope, path: list[str]) -> tuple[int, object]:
    session: Session = scope["session"]
    match scope["method"], *path:
        case "GET", "me":
            visits = session.increment("visits")  # parallel requests add up
            return 200, {"user": session.user_id, "visits": visits, "cart": session.get("cart", {})}
        case "POST", "login", user if user:
            session.login(user)  # your app checks a password first
            return 200, {"user": user}
        case "POST", "logout":
            session.logout()
            return 200, {"user": None}
        case "POST", "cart", name:
            cart = session.setdefault("cart", {})
            cart[name] = cart.get(name, 0) + 1  # nested changes are saved like any other
            return 200, cart
    return 404, {"detail": "Not Found"}


async def devices(scope: Scope) -> tuple[int, object]:
    session: Session = scope["session"]
    if session.user_id is None:
        return 401, {"detail": "Not signed in"}
    if scope["method"] == "DELETE":
        return 200, {"signed_out": await manager.delete_user_sessions(session.user_id, keep=[session])}
    found = await manager.get_user_sessions(session.user_id)
    return 200, [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]


async def start_and_stop(receive: Receive, send: Send) -> None:
    """Answer the server, so that the middleware starts its cleanup and closes the backend at the end."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


app = SessionMiddleware(shop, manager=manager)
