"""A session interface that saves nothing: the control that Flask's tests must catch."""

from typing import Any

from flask.sessions import SecureCookieSessionInterface


class SessionInterface(SecureCookieSessionInterface):
    def save_session(self, app: Any, session: Any, response: Any) -> None:
        pass
