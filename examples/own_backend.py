"""A backend of one's own: each session is a file in a folder. See docs/own_backend.md."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from session_middleware.backends import base
from session_middleware.backends.base import Backend, Colour, EndedRecord, LoadAnswer, Port
from session_middleware.errors import BackendClosed
from session_middleware.record import (
    CREATED,
    EXISTS,
    GONE,
    Committed,
    CreateResult,
    Delta,
    Ended,
    Record,
    Refused,
    SessionId,
    apply,
    replace,
)
from session_middleware.values import Values


class FolderBackend(Backend):
    """Sessions in files of *folder*; for plain threads and any number of processes of one host."""

    colours: frozenset[Colour] = frozenset({"blocking"})

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.url = f"folder://{folder}"

    def port(self, colour: Colour) -> Port:
        """A port of its own each time: all that they share is in the folder."""
        if colour not in self.colours:
            raise base.wrong_colour(self, colour)
        return FolderPort(self.folder)


class FolderPort(Port):
    """The seven methods. Every change happens under the lock of the folder."""

    immediate = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.closed = False

    async def open(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.closed = False

    async def close(self) -> None:
        self.closed = True

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002  (the contract's word)
        with self._locked():
            return self._read(id, now)

    async def create(self, record: Record, now: float) -> CreateResult:
        with self._locked():
            present = self._read(record.id, now)
            has_ended = isinstance(present, Ended) and self._file("ended", record.id).exists()
            if isinstance(present, Record) or has_ended:
                return EXISTS
            self._write(record)
        return CREATED

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (as above)
        with self._locked():
            record = self._read(id, now)
            if not isinstance(record, Record):
                return GONE
            applied = apply(record, delta, now)
            if isinstance(applied, Refused):
                return applied
            self._write(applied[0])
        return applied[1]

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (as above)
        with self._locked():
            was_alive = isinstance(self._read(id, now), Record)
            if was_alive:
                self._end(id, Ended(reason, now, by))
        return was_alive

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        ended: list[EndedRecord] = []
        with self._locked():
            for file in self.folder.glob("*.live"):
                record = _record_in(file.read_bytes())
                if record.deadline <= now and len(ended) < limit:
                    reason = base.expiry_reason(record)
                    self._end(record.id, Ended(reason, record.deadline))
                    ended.append(EndedRecord(record.id, record.user_id, reason, record.created_at))
        return ended

    async def wait(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  (a blocking port)

    # --- under the lock ---

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.closed:
            raise BackendClosed(f"{self.folder} was closed: call open(), or start() the manager, first")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, id_: SessionId, now: float) -> LoadAnswer:
        live, ended = self._file("live", id_), self._file("ended", id_)
        if live.exists():
            record = _record_in(live.read_bytes())
            return record if record.deadline > now else Ended(base.expiry_reason(record), record.deadline)
        return msgspec.json.decode(ended.read_bytes(), type=Ended) if ended.exists() else None

    def _write(self, record: Record) -> None:
        fresh = self.folder / "fresh"
        fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "data"}
        fresh.write_bytes(msgspec.msgpack.encode((fields, record.data.packed)))
        fresh.replace(self._file("live", record.id))  # at one moment: nobody reads half a file

    def _end(self, id_: SessionId, ended: Ended) -> None:
        """Endings are kept for good here; a real backend drops them after `ENDINGS_KEPT` seconds."""
        self._file("ended", id_).write_bytes(msgspec.json.encode(ended))
        self._file("live", id_).unlink()

    def _file(self, kind: str, id_: SessionId) -> Path:
        return self.folder / f"{id_.encode().hex()}.{kind}"


def _record_in(stored: bytes) -> Record:
    fields, packed = msgspec.msgpack.decode(stored)
    return replace(msgspec.convert(fields, Record), data=Values(packed))
