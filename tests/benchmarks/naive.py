"""Sessions in SQLite as one writes them in an hour: right for a lone visitor, and what we are compared with.

One aiosqlite connection; execute, fetch and commit are an await each; the whole session is loaded before the
handler of every request with a cookie, and saved as one JSON text when it was changed. Nothing is slowed down
on purpose: it has the same write-ahead log and the same durability as ours, and writes only after a change.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import aiosqlite
from itsdangerous import BadSignature, Signer
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import Session
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.benchmarks.traffic import COOKIE

__all__ = ["NaiveSQLiteMiddleware"]

_LIFETIME = 14 * 24 * 60 * 60  # seconds
_TABLE = (
    "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, data TEXT NOT NULL, expires REAL NOT NULL)"
)
_LOAD = "SELECT data FROM sessions WHERE id = ? AND expires > ?"
_SAVE = (
    "INSERT INTO sessions VALUES (?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET data = excluded.data, expires = excluded.expires"
)


class NaiveSQLiteMiddleware:
    """Server-side sessions in the file *path*, behind a signed id."""

    def __init__(self, app: ASGIApp, secret_key: str, path: Path) -> None:
        self.app = app
        self.signer = Signer(secret_key)
        self.path = path
        self.db: aiosqlite.Connection | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Load, call the app, save before the response leaves."""
        if scope["type"] != "http":
            await self._with_connection(scope, receive, send)
            return
        session_id = self._session_id(scope)
        session = scope["session"] = await self._load(session_id)

        async def send_saved(message: Message) -> None:
            if message["type"] == "http.response.start" and session.modified:
                await self._save(
                    session_id or secrets.token_urlsafe(16), session, message, is_new=session_id is None
                )
            await send(message)

        await self.app(scope, receive, send_saved)

    async def _with_connection(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aiosqlite.connect(self.path) as self.db:
            await self.db.execute("PRAGMA journal_mode=WAL")
            await self.db.execute("PRAGMA synchronous=NORMAL")
            await self.db.execute(_TABLE)
            await self.db.commit()
            await self.app(scope, receive, send)

    def _session_id(self, scope: Scope) -> str | None:
        signed = HTTPConnection(scope).cookies.get(COOKIE)
        try:
            return None if signed is None else self.signer.unsign(signed).decode()
        except BadSignature:
            return None

    async def _load(self, session_id: str | None) -> Session:
        if session_id is None:
            return Session()
        cursor = await self._open().execute(_LOAD, (session_id, time.time()))
        row = await cursor.fetchone()
        return Session() if row is None else Session(json.loads(row[0]))

    async def _save(self, session_id: str, session: Session, message: Message, *, is_new: bool) -> None:
        db = self._open()
        await db.execute(_SAVE, (session_id, json.dumps(session), time.time() + _LIFETIME))
        await db.commit()
        if is_new:
            value = self.signer.sign(session_id).decode()
            line = f"{COOKIE}={value}; path=/; Max-Age={_LIFETIME}; httponly; samesite=lax; secure"
            MutableHeaders(scope=message).append("set-cookie", line)

    def _open(self) -> aiosqlite.Connection:
        if self.db is None:
            raise RuntimeError("the lifespan has not started")
        return self.db
