"""Sessions under Flask. Run: `flask --app examples/flask_app.py run --port 8000`, then for instance

curl -c jar -b jar -X POST localhost:8000/login/ada; curl -c jar -b jar localhost:8000/me
"""

import os
from typing import Any, cast

import flask
from flask import Flask, abort

from session_middleware.flask import FlaskSession, init_app, manager_of

app = Flask(__name__)
app.config["SECRET_KEY"] = os.environ.get(
    "SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"
)
init_app(app, backend=os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"))

session = cast("FlaskSession", flask.session)  # Flask declares it as its own kind of session


@app.get("/me")
def me() -> dict[str, Any]:
    visits = session.increment("visits")  # parallel requests add up
    return {"user": session.user_id, "visits": visits, "cart": session.get("cart", {})}


@app.post("/login/<user>")
def login(user: str) -> dict[str, Any]:
    session.login(user)  # your app checks a password first
    return {"user": user}


@app.post("/logout")
def logout() -> dict[str, Any]:
    session.clear()  # the same as logout()
    return {"user": None}


@app.post("/cart/<name>")
def add_to_cart(name: str) -> dict[str, int]:
    cart: dict[str, int] = session.setdefault("cart", {})
    cart[name] = cart.get(name, 0) + 1  # nested changes are saved like any other
    return cart


@app.get("/devices")
def devices() -> list[dict[str, Any]]:
    found = manager_of(app).blocking.get_user_sessions(session.user_id or abort(401))
    return [{"id": one.id, "since": one.created_at, "this": one.id == session.id} for one in found]


@app.delete("/devices")
def sign_out_elsewhere() -> dict[str, int]:
    user = session.user_id or abort(401)
    return {"signed_out": manager_of(app).blocking.delete_user_sessions(user, keep=[session.id])}
