"""A Streamlit app of several pages that keeps its visitors' work; the pages are in `streamlit_pages.py`.

    pip install "session_middleware[streamlit]"
    uvicorn examples.streamlit_app:app

Type into the form, reload, restart the server: it is still there. Sign in as Ada to see the page for editors.
"""

import os
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from session_middleware import SessionMiddleware
from session_middleware.streamlit import session_of


async def sign_in(request: Request) -> RedirectResponse:
    form = await request.form()  # your app checks a password here
    session_of(request).login(str(form["user"]))
    return RedirectResponse("/", status_code=303)


async def sign_out(request: Request) -> RedirectResponse:
    session_of(request).logout()
    return RedirectResponse("/", status_code=303)


app = st.App(
    Path(__file__).with_name("streamlit_pages.py"),
    routes=[
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ],
    middleware=[
        Middleware(
            SessionMiddleware,
            secret_key=os.environ.get("SESSION_SECRET_KEY", "at least 32 random bytes, kept to yourself"),
            backend=os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
            eager=True,  # the page gets its cookie before the script runs
        ),
    ],
)
