"""Sessions under FastAPI. Run: `uvicorn examples.fastapi_app:app`, then try it under /docs."""

import os

import msgspec
from fastapi import FastAPI

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.fastapi import CurrentSession, CurrentUser, RequiredUser, TypedSession

manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)
app = FastAPI(title="A shop with sessions")
app.add_middleware(SessionMiddleware, manager=manager)


class Line(msgspec.Struct):
    """One line of a cart."""

    count: int = 0


class Shop(msgspec.Struct):
    """What a session holds here, typed: each field is one key of it."""

    visits: int = 0
    cart: dict[str, Line] = {}


@app.get("/me")
async def me(user: CurrentUser, shop: TypedSession[Shop]) -> dict[str, object]:
    shop.visits += 1
    return {"user": user, "visits": shop.visits, "cart": counts(shop)}


@app.post("/login/{user}")
async def login(user: str, session: CurrentSession) -> dict[str, str]:
    session.login(user)  # your app checks a password first
    return {"user": user}


@app.post("/logout")
async def logout(session: CurrentSession) -> dict[str, None]:
    session.logout()
    return {"user": None}


@app.post("/cart/{name}")
def add_to_cart(name: str, shop: TypedSession[Shop]) -> dict[str, int]:
    shop.cart.setdefault(name, Line()).count += 1  # nested changes are saved like any other
    return counts(shop)


@app.get("/devices")
async def devices(user: RequiredUser, session: CurrentSession) -> list[dict[str, object]]:
    found = await manager.get_user_sessions(user)
    return [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]


@app.delete("/devices")
async def sign_out_elsewhere(user: RequiredUser, session: CurrentSession) -> dict[str, int]:
    return {"signed_out": await manager.delete_user_sessions(user, keep=[session])}


def counts(shop: Shop) -> dict[str, int]:
    return {name: line.count for name, line in shop.cart.items()}
