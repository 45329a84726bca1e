"""Sessions under Starlette. Run: `uvicorn examples.starlette_app:app`, then for instance

curl -c jar -b jar localhost:8000/login -d '{"user": "ada"}'; curl -c jar -b jar localhost:8000/me
"""

import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_middleware import SessionManager, SessionMiddleware

manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)


async def me(request: Request) -> JSONResponse:
    visits = request.session.increment("visits")  # parallel requests add up
    cart = request.session.get("cart", {})
    return JSONResponse({"user": request.session.user_id, "visits": visits, "cart": cart})


async def login(request: Request) -> JSONResponse:
    user = await text_of(request, "user")
    request.session.login(user)  # your app checks a password first
    return JSONResponse({"user": user})


async def logout(request: Request) -> JSONResponse:
    request.session.logout()
    return JSONResponse({"user": None})


async def add_to_cart(request: Request) -> JSONResponse:
    name = await text_of(request, "name")
    cart = request.session.setdefault("cart", {})
    cart[name] = cart.get(name, 0) + 1  # nested changes are saved like any other
    return JSONResponse(cart)


async def devices(request: Request) -> JSONResponse:
    user, session = request.session.user_id, request.session
    if user is None:
        raise HTTPException(401, "Not signed in")
    if request.method == "DELETE":
        return JSONResponse({"signed_out": await manager.delete_user_sessions(user, keep=[session])})
    found = await manager.get_user_sessions(user)
    return JSONResponse([{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found])


async def text_of(request: Request, name: str) -> str:
    """The text under *name* in the JSON body; 400 where there is none."""
    try:
        value = (await request.json())[name]
    except (ValueError, TypeError, KeyError):
        value = None
    if not (isinstance(value, str) and value):
        raise HTTPException(400, f'Send {{"{name}": "some text"}}')
    return value


app = Starlette(
    routes=[
        Route("/me", me),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/cart", add_to_cart, methods=["POST"]),
        Route("/devices", devices, methods=["GET", "DELETE"]),
    ],
    middleware=[Middleware(SessionMiddleware, manager=manager)],
)
