"""Visitors who write, sign in and log out, and the ledger of what a store may hold afterwards.

Reading order: `STEPS`, the app and its `Visitor`; `Line`, one line of what happened; `Ledger`, which follows
the lines and then judges a store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from session_middleware import SessionManager, WSGISessionMiddleware
from session_middleware.backends.base import Backend
from session_middleware.testing.clock import ManualClock
from tests.wsgi.harness import KEY, Client

__all__ = ["STEPS", "Ledger", "Line", "Visitor", "site", "stored_in"]

Line: TypeAlias = Mapping[str, Any]

NAMES = ("ada", "bob", "eve")
ROUNDS = (
    ("write", "write", "login"),
    ("login", "write", "write"),
    ("grow", "cycle", "write"),
    ("read", "logout", "grow"),
    ("logout", "write", "cycle"),
    ("write", "read", "logout"),
    ("write", "grow", "write"),
)
STEPS = tuple(zip(NAMES * len(ROUNDS), (verb for verbs in ROUNDS for verb in verbs), strict=True))
"""(visitor, verb), always in this order."""

LARGE = "x" * 20_000  # of pages beside the row


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """`/VERB/OWNER/N`: does it, and tells what the session holds."""
    session = environ["session"]
    _, verb, owner, n = environ["PATH_INFO"].split("/")
    if verb == "logout":
        session.logout()
    elif verb != "read":
        session.update(owner=owner, n=int(n), twin=int(n))
    if verb == "grow":
        session["large"] = LARGE
    elif verb == "login":
        session.login(owner)
    elif verb == "cycle":
        session.cycle()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: session.get(name) for name in ("owner", "n", "twin")}).encode()]


def site(backend: Backend) -> tuple[SessionManager, WSGISessionMiddleware, ManualClock]:
    """The app over *backend*."""
    clock = ManualClock()
    manager = SessionManager(backend, secret_key=KEY, clock=clock, monotonic=clock, log=False)
    return manager, WSGISessionMiddleware(app, manager=manager, monitor=False), clock


class Visitor:
    """One browser, whose session names its owner."""

    def __init__(self, served: WSGISessionMiddleware, name: str) -> None:
        self.name = name
        self.client = Client(served)  # type: ignore[arg-type]  (an environ is a dict here)

    @property
    def session_id(self) -> str | None:
        cookie = self.client.cookie
        return None if cookie is None else cookie.partition("=")[2].partition(".")[0]

    def does(self, verb: str, n: int) -> dict[str, Any]:
        """What the visitor is told."""
        answer = self.client.get(f"/{verb}/{self.name}/{n}")
        body = json.loads(answer.written) if answer.status == 200 else None
        return {"status": answer.status, "id": self.session_id, "body": body}


def stored_in(backend: Backend) -> dict[str, dict[str, Any]]:
    """Every live session, by its id."""
    manager, _, _ = site(backend)
    with manager.blocking:
        return {one.id: dict(one) for one in manager.blocking.get_sessions(limit=1000)}


class Ledger:
    """What each session may hold, by what was tried and what was answered. `faults` is empty, or tells.

    An answer of 200 leaves one possibility; one of 503, or none at all, leaves the state before and after.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.acknowledged = 0
        self.refused = 0
        self._may_hold: dict[str, set[int | None]] = {}  # the `n` of each session; None: it has ended
        self._owner: dict[str, str] = {}
        self._unseen: set[tuple[str, int]] = set()  # writes that may have made a session nobody was told of
        self._stale: set[str] = set()  # a login may have been applied, whose cookie was lost

    def follow(self, lines: Iterable[Line]) -> None:
        """Take in one run: a line before each step, and one after it."""
        begun: Line | None = None
        for line in lines:
            if "status" not in line:
                begun = line
                continue
            assert begun is not None
            self._settle(begun, line)
            begun = None
        if begun is not None:
            self._left_open(begun)

    def _settle(self, begun: Line, done: Line) -> None:
        if done["status"] == 200:
            self.acknowledged += 1
            self._applied(begun, done)
        elif done["status"] == 503:
            self.refused += 1
            self._left_open(begun)
            self._expect(done["id"] == begun["had"], begun, "a refusal changed the cookie")
        else:
            self._expect(False, begun, f"answered {done}")

    def _applied(self, begun: Line, done: Line) -> None:
        had, verb = begun["had"], begun["verb"]
        if verb == "read":
            self._expect(self._fits(had, done["body"], begun["visitor"]), begun, f"read {done['body']}")
        elif verb == "logout":
            if had is not None:
                self._may_hold[had] = self._may_hold[had] | {None} if had in self._stale else {None}
        else:
            if had not in (None, done["id"]):
                self._expect(had in self._stale or None in self._may_hold[had], begun, "lost its session")
            self._may_hold[done["id"]] = {begun["n"]}
            self._owner[done["id"]] = begun["visitor"]

    def _left_open(self, begun: Line) -> None:
        had, verb = begun["had"], begun["verb"]
        if verb not in ("read", "logout"):
            self._unseen.add((begun["visitor"], begun["n"]))
        if had is not None and verb != "read":
            self._may_hold[had] = self._may_hold[had] | {None if verb == "logout" else begun["n"]}
            if verb == "login":
                self._stale.add(had)

    def _fits(self, had: str | None, body: Mapping[str, Any], visitor: str) -> bool:
        if body["n"] is None:
            return had is None or had in self._stale or None in self._may_hold[had]
        return had is not None and body["n"] in self._may_hold[had] and _is_whole(body, visitor)

    def judge(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare with the whole content of a store."""
        for id_, possible in self._may_hold.items():
            data = stored.get(id_)
            if data is None:
                self._expect(None in possible, id_, f"lost; might hold {possible}")
            else:
                fits = data.get("n") in possible and _is_whole(data, self._owner[id_])
                self._expect(fits, id_, f"holds n={data.get('n')} of {data.get('owner')}, not {possible}")
        for id_ in stored.keys() - self._may_hold.keys():
            data = stored[id_]
            known = (data.get("owner"), data.get("n")) in self._unseen and data["n"] == data.get("twin")
            self._expect(known, id_, "nobody made it")

    def _expect(self, holds: bool, where: object, problem: str) -> None:
        if not holds:
            self.faults.append(f"{where}: {problem}")


def _is_whole(data: Mapping[str, Any], owner: str) -> bool:
    return data["n"] == data["twin"] and data["owner"] == owner
