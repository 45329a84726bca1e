"""What waits to be written, by session: pure data and decisions, no I/O, no clock of its own.

`persist` takes a copy of what changed, the session's *twin*, and what is written later is the twin. So the
session may go on changing, in another thread too, and each change is written once: what was taken counts as
loaded from then on.

Reading order: `may_wait`, `take` (the copy), `forget_counted`, then `Pending`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from session_middleware.changes import Changes, changes_of
from session_middleware.record import UNSET, SessionId
from session_middleware.session import Life, Session
from session_middleware.values import Values, decode_value, decode_values

__all__ = ["Entry", "Pending", "forget_counted", "may_wait", "take"]


def may_wait(session: Session, changes: Changes) -> bool:
    """Whether there is nothing but values to write, none of them a privilege.

    A session that is not stored yet, and one whose response is still to come, does not wait: a cookie depends
    on them. Neither does a logout, a change of privilege, or an expiry of its own.
    """
    life = session.life
    record = life.record
    if record is None or not life.late or life.before_commit or life.login is not None or life.ended:
        return False
    if life.cycle is not None or life.renew or life.expiry is not UNSET:
        return False
    if life.metadata is not None and life.metadata != record.metadata:
        return False
    return changes.keys().isdisjoint({*life.policy.privilege_keys, *life.policy.user_keys})


def take(session: Session, changes: Changes, twin: Session | None = None) -> Session:
    """A session that has these changes to write, and *session* without them. *twin*: add them to this one."""
    made = _twin_of(session) if twin is None else twin
    for name, encoded in changes.assigned.items():
        made[name] = decode_value(encoded)
    for name in changes.unset:
        made.pop(name, None)
    for name, by in changes.counted.items():
        made.increment(name, by)
    _count_as_loaded(session, changes)
    return made


def forget_counted(twin: Session) -> None:
    """Its increments may have been written: they must not be written twice. The rest may."""
    life = twin.life
    pairs = life.loaded.pairs if life.increments else {}
    for name in life.increments or ():
        loaded = pairs.get(name)
        if loaded is None:
            dict.pop(twin, name, None)
        else:
            dict.__setitem__(twin, name, decode_value(loaded))
    life.increments = None


def _twin_of(session: Session) -> Session:
    twin = Session()
    life = Life(session.life.policy, session.life.manager, session.life.opening)
    life.loaded = session.life.loaded
    life.late = True
    twin.life = life
    dict.update(twin, decode_values(life.loaded))
    return twin


def _count_as_loaded(session: Session, changes: Changes) -> None:
    life = session.life
    loaded = life.loaded.pairs
    pairs = {name: value for name, value in loaded.items() if name not in changes.unset}
    counted = {name: b"%d" % (_integer(loaded.get(name)) + by) for name, by in changes.counted.items()}
    life.loaded = Values.of({**pairs, **changes.assigned, **counted})
    life.forget()
    session.modified = False


def _integer(encoded: bytes | None) -> int:
    return 0 if encoded is None else int(encoded)


@dataclass(eq=False, slots=True)
class Entry:
    """What one `Session` object has to write, and when it must be written (monotonic seconds)."""

    session: Session
    twin: Session
    due_at: float


class Pending:
    """All that waits, in the order it came, by session. Threads may share it."""

    def __init__(self) -> None:
        self._entries: dict[SessionId, list[Entry]] = {}
        self._writing: dict[SessionId, Entry] = {}
        self._mutex = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, id_: SessionId) -> bool:
        """Whether something waits for this session, or is being written."""
        return id_ in self._entries or id_ in self._writing

    @property
    def ids(self) -> list[SessionId]:
        """The sessions that have something to write, or are being written."""
        with self._mutex:
            return list(dict.fromkeys([*self._writing, *self._entries]))

    @property
    def next_due(self) -> float | None:
        """When the first of it must be written; None: nothing waits."""
        with self._mutex:
            return min((some[0].due_at for some in self._entries.values()), default=None)

    def due(self, now: float) -> list[SessionId]:
        """The sessions whose time has come."""
        with self._mutex:
            return [id_ for id_, some in self._entries.items() if some[0].due_at <= now]

    def add(self, session: Session, due_at: float) -> bool:
        """Take over what changed in *session*; False, and nothing is taken, if that must not wait.

        Raises `SessionDataError` for what cannot be held.
        """
        with self._mutex:
            changes = changes_of(session)
            if not may_wait(session, changes):
                return False
            if not changes.is_empty():
                self._take(session, changes, due_at)
            return True

    def next_of(self, id_: SessionId) -> Entry | None:
        """What is to be written first for this session, which is being written from now on."""
        with self._mutex:
            some = self._entries.get(id_)
            if not some or id_ in self._writing:
                return None
            entry = self._writing[id_] = some.pop(0)
            if not some:
                del self._entries[id_]
            return entry

    def written(self, id_: SessionId) -> None:
        """It was."""
        with self._mutex:
            self._writing.pop(id_, None)

    def put_back(self, id_: SessionId, due_at: float, *, unknown: bool) -> None:
        """It was not, or nobody knows (*unknown*): it is to be written again, before what came meanwhile."""
        with self._mutex:
            entry = self._writing.pop(id_, None)
            if entry is None:
                return
            if unknown:
                forget_counted(entry.twin)
            entry.due_at = due_at
            self._entries[id_] = [entry, *self._entries.get(id_, ())]

    def reclaim(self, due_at: float) -> None:
        """Put back all that is being written: whoever did so runs no more."""
        for id_ in list(self._writing):
            self.put_back(id_, due_at, unknown=True)

    def give_up(self) -> None:
        """Forget everything: in the child of a fork, whose parent writes it."""
        self._mutex = Lock()  # another thread may have held it when the process was forked
        self._entries.clear()
        self._writing.clear()

    def _take(self, session: Session, changes: Changes, due_at: float) -> None:
        some = self._entries.setdefault(SessionId(session.id or ""), [])  # it has one: see `may_wait`
        last = some[-1] if some and some[-1].session is session else None
        if last is None:
            some.append(Entry(session, take(session, changes), due_at))
        else:
            take(session, changes, last.twin)
