"""Sessions under plain ASGI, without a framework. Run: `uvicorn examples.asgi_app:app`, then for instance

curl -c jar -b jar localhost:8000/login -d '{"user": "ada"}'; curl -c jar -b jar localhost:8000/me
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
    if scope["type"] == "http":
        status, answer = await answer_to(scope, await text_of(receive))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


async def answer_to(scope: Scope, text: str | None) -> tuple[int, object]:
    session: Session = scope["session"]
    match scope["method"], scope["path"]:
        case "GET", "/me":
            visits = session.increment("visits")  # parallel requests add up
            return 200, {"user": session.user_id, "visits": visits, "cart": session.get("cart", {})}
        case "POST", "/login" | "/cart" if not text:
            return 400, {"detail": "Send an object with some text"}
        case "POST", "/login":
            session.login(text or "")  # your app checks a password first
            return 200, {"user": text}
        case "POST", "/logout":
            session.logout()
            return 200, {"user": None}
        case "POST", "/cart":
            cart = session.setdefault("cart", {})
            cart[text] = cart.get(text, 0) + 1  # nested changes are saved like any other
            return 200, cart
        case "GET" | "DELETE" as method, "/devices":
            return await devices(session, method)
    return 404, {"detail": "Not Found"}


async def devices(session: Session, method: str) -> tuple[int, object]:
    if session.user_id is None:
        return 401, {"detail": "Not signed in"}
    if method == "DELETE":
        return 200, {"signed_out": await manager.delete_user_sessions(session.user_id, keep=[session])}
    found = await manager.get_user_sessions(session.user_id)
    return 200, [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]


async def text_of(receive: Receive) -> str | None:
    """The text in the JSON body, `{"name": "tea"}`; None where there is none."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        [value] = json.loads(body or b"{}").values()
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


app = SessionMiddleware(shop, manager=manager)
