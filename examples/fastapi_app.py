"""Sessions under FastAPI. Run: `uvicorn examples.fastapi_app:app`, then look at /docs."""

import os

import msgspec
from fastapi import Body, FastAPI
from fastapi.responses import RedirectResponse

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.fastapi import CurrentSession, CurrentUser, RequiredUser, TypedSession

manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)
app = FastAPI(title="A shop with sessions")
app.add_middleware(SessionMiddleware, manager=manager)


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Shop(msgspec.Struct):
    """What a session holds here, typed. Each field is one key of the session."""

    visits: int = 0
    cart: list[Item] = []


@app.get("/", include_in_schema=False)
def index() -> RedirectResponse:
    return RedirectResponse("/docs")


@app.get("/me")
async def me(user: CurrentUser, shop: TypedSession[Shop]) -> dict[str, object]:
    shop.visits += 1
    return {"user": user, "visits": shop.visits, "cart": msgspec.to_builtins(shop.cart)}


@app.post("/login")
async def login(session: CurrentSession, user: str = Body(embed=True, min_length=1)) -> dict[str, str]:
    session.login(user)  # your app checks a password first
    return {"user": user}


@app.post("/logout")
async def logout(session: CurrentSession) -> dict[str, None]:
    session.logout()
    return {"user": None}


@app.post("/cart")
def add_to_cart(shop: TypedSession[Shop], name: str = Body(embed=True)) -> dict[str, int]:
    found = next((item for item in shop.cart if item.name == name), None)
    if found is None:
        shop.cart.append(Item(name))
    else:
        found.count += 1  # nested changes are saved like any other
    return {item.name: item.count for item in shop.cart}


@app.get("/devices")
async def devices(user: RequiredUser, session: CurrentSession) -> list[dict[str, object]]:
    found = await manager.get_user_sessions(user)
    return [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]


@app.delete("/devices")
async def sign_out_elsewhere(user: RequiredUser, session: CurrentSession) -> dict[str, int]:
    return {"signed_out": await manager.delete_user_sessions(user, keep=[session])}
