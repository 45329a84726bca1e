"""The app that the gunicorn test serves. Told so, it has used its sessions before gunicorn forks."""

import os
from typing import Any, cast

import flask

from session_middleware.flask import FlaskSession, init_app, manager_of

app = flask.Flask(__name__)
app.config["SECRET_KEY"] = "vY0sN2bq8LZkXw5Rj1TgPd7HcM4uEa9F"
init_app(app, backend=os.environ["SESSION_BACKEND"])
if os.environ.get("USED_BEFORE_THE_FORK"):
    manager_of(app).blocking.create_session("before the fork")
session = cast("FlaskSession", flask.session)


@app.post("/login/<user>")
def login(user: str) -> dict[str, Any]:
    session.login(user)
    return {"process": os.getpid()}


@app.post("/put/<name>")
def put(name: str) -> dict[str, Any]:
    session[name] = 1
    session.increment("count")
    return {"process": os.getpid()}


@app.post("/logout")
def logout() -> dict[str, Any]:
    session.logout()
    return {"process": os.getpid()}


@app.get("/values")
def values() -> dict[str, Any]:
    return {"values": dict(session), "user": session.user_id, "process": os.getpid()}
