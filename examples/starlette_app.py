"""Sessions under Starlette. Run: `uvicorn examples.starlette_app:app`, then for instance

curl -c jar -b jar -X POST localhost:8000/login/ada; curl -c jar -b jar localhost:8000/me
"""

import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from session_middleware import Session, SessionManager, SessionMiddleware

manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)


async def me(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]  # request.session, which Starlette declares as a plain dict
    visits = session.increment("visits")  # parallel requests add up
    return JSONResponse({"user": session.user_id, "visits": visits, "cart": session.get("cart", {})})


async def login(request: Request) -> JSONResponse:
    user = request.path_params["user"]
    request.scope["session"].login(user)  # your app checks a password first
    return JSONResponse({"user": user})


async def logout(request: Request) -> JSONResponse:
    request.session.clear()  # the same as logout()
    return JSONResponse({"user": None})


async def add_to_cart(request: Request) -> JSONResponse:
    name = request.path_params["name"]
    cart = request.session.setdefault("cart", {})
    cart[name] = cart.get(name, 0) + 1  # nested changes are saved like any other
    return JSONResponse(cart)


async def devices(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    if session.user_id is None:
        raise HTTPException(401, "Not signed in")
    if request.method == "DELETE":
        ended = await manager.delete_user_sessions(session.user_id, keep=[session])
        return JSONResponse({"signed_out": ended})
    found = await manager.get_user_sessions(session.user_id)
    answer = [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]
    return JSONResponse(answer)


routes = [
    Route("/me", me),
    Route("/login/{user}", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/cart/{name}", add_to_cart, methods=["POST"]),
    Route("/devices", devices, methods=["GET", "DELETE"]),
]
app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, manager=manager)])
