"""What must hold, judged from outside: from cookies, responses and stored records, never from decisions.

Reading order: the names below, then `Ledger`: `stepped` compares the records before and after a step and asks
who may have done that, `answered` judges what leaves the server. The controls that must be caught are in
`controls`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.model.system import Response, Stored
from tests.model.world import Violation, Visit

__all__ = [
    "BEFORE_LOGIN",
    "DUE",
    "INVARIANTS",
    "LIMIT",
    "LOCKED_OUT",
    "LOGIN_ACKNOWLEDGED",
    "LOGOUT",
    "LOST_RESPONSE",
    "LOST_UPDATE",
    "NO_COMEBACK",
    "REMOVAL",
    "SILENT",
    "UNDONE",
    "Ledger",
]

NO_COMEBACK: Final = "nothing ended comes back"
BEFORE_LOGIN: Final = "a cookie from before a login never opens or changes what the login made"
UNDONE: Final = "no response decided before a login replaces or removes its cookie"
REMOVAL: Final = "a removal cookie only answers the request that ended the session"
LOGOUT: Final = "a logout that was acknowledged is effective"
LOGIN_ACKNOWLEDGED: Final = "a login that was acknowledged comes with a cookie that opens it"
LOST_RESPONSE: Final = "a lost response of a cycle is recovered"
LOCKED_OUT: Final = "nobody is locked out"
LOST_UPDATE: Final = "no change of a different key is lost except across a login"
SILENT: Final = "a change is saved or reported"
LIMIT: Final = "only a login moves the absolute deadline"
DUE: Final = "a due cycle is done, and not by a weaker one"
INVARIANTS: Final = (
    NO_COMEBACK, BEFORE_LOGIN, UNDONE, REMOVAL, LOGOUT, LOGIN_ACKNOWLEDGED, LOST_RESPONSE, LOCKED_OUT,
    LOST_UPDATE, SILENT, LIMIT, DUE,
)  # fmt: skip

SLACK = 5.0
"""Seconds: a call under way plus a clock that went back a second; also the shortest grace that is used."""
SURE = 30.0 - SLACK
ENDINGS_KEPT = 600.0
ABSOLUTE = 3600.0


@dataclass(slots=True)
class Life:
    """What was seen of one session id."""

    promised: bool
    """It was not cycled when it was created, so the promise of its id, if there was one, opens it."""
    generations: list[int]
    floors: list[tuple[int, int, float]]
    """Each floor: its generation, the step and the clock of its making."""
    brought: dict[int, float] = field(default_factory=dict)
    """Generation: when a cookie of it first came."""
    ended_at: int | None = None
    ended_clock: float = 0.0
    ended_by: Visit | None = None
    due_at: int = 0
    privileged: bool = False
    """Its first write was a login, or a privilege: the promise of its id opens nothing."""
    again: bool = False
    """It replaced an expired one, whose cookies are strangers to it."""


@dataclass(slots=True)
class Note:
    """What is known of one request beside what the driver keeps."""

    presented: dict[str, int]
    promises: frozenset[str]
    admitted: dict[str, int]
    bound: tuple[str, ...]
    saved: set[str] = field(default_factory=set)
    ended: dict[str, int] = field(default_factory=dict)
    changed_at: int = 0
    seen_at: int = 0
    stranger: bool = False
    """Its cookie opened nothing any more when it came: to the server it is any anonymous visitor."""
    stored: bool = False
    """There was a record under its one cookie when it looked."""
    judged: bool = False


def kept_keys(visit: Visit) -> set[str]:
    """Keys whose own value must be saved or reported when the response says 200."""
    keys: set[str] = set()
    for name, *arguments in visit.early:
        if name in ("write", "inc") and arguments[0] not in ("role", "user_id"):
            keys.add(str(arguments[0]))
        elif name == "pop":
            keys.discard(str(arguments[0]))
        elif name in ("logout", "clear", "pop_all"):
            keys.clear()
    if visit.does("pop_all"):
        keys.discard("count")  # removed and counted again it may be what it was
    return keys


def touched_keys(visit: Visit) -> set[str]:
    """Every key that its handler may change, at any time."""
    return {str(key) for name, *rest in visit.actions if name in ("write", "inc", "pop") for key in rest[:1]}


def last_word(visit: Visit) -> str | None:
    """The user that its handler leaves logged in, "" for an ending, None for neither."""
    word: str | None = None
    for name, *arguments in visit.early:
        if name == "login" or (name == "write" and arguments[0] == "user_id"):
            word = str(arguments[-1])
        elif name in ("logout", "clear"):
            word = ""
        elif name in ("pop", "pop_all") and word:
            return None  # may have unbound the user again
    return word


class Ledger:
    """See `world.Watch`."""

    def __init__(self) -> None:
        self.last: dict[str, Stored] = {}
        self.lives: dict[str, Life] = {}
        self.notes: dict[Visit, Note] = {}
        self.logins: list[Visit] = []

    # Requests

    def started(self, visit: Visit, records: Mapping[str, Stored]) -> None:
        presented: dict[str, int] = {}
        for text in visit.cookies:
            id_, _, generation, signature = text.split(".")
            life = self.lives.get(id_)
            if signature == "promise" and life is not None and life.promised:
                generation = str(life.generations[0])
            presented[id_] = max(presented.get(id_, 0), int(generation))
        bound = tuple(
            id_
            for id_, generation in presented.items()
            if (record := records.get(id_)) and record.generation == generation and record.user_id
            and record.deadline > visit.clock
        )  # fmt: skip
        promises = frozenset(text.split(".")[0] for text in visit.cookies if text.endswith(".promise"))
        ordinary = {text.split(".")[0] for text in visit.cookies if not text.endswith(".promise")}
        self.notes[visit] = Note(presented, promises - ordinary, dict(presented), bound)

    def probed(self, visit: Visit) -> None:
        note = self.notes[visit]
        if "probe" not in note.saved:
            raise Violation(LOCKED_OUT, f"{visit} may not write")

    def stepped(self, visit: Visit | None, records: Mapping[str, Stored], at: int, now: float) -> None:
        if visit is not None:
            self.looked(visit, at, now)
        for id_ in {*self.last, *records}:
            old, new = self.last.get(id_), records.get(id_)
            if old is not new and old != new:
                self.changed(visit, id_, old, new, at, now)
        if visit is not None and visit.answered and not self.notes[visit].judged:
            self.notes[visit].judged = True
            response = visit.handle.response
            assert response is not None
            self.answered(visit, self.notes[visit], response, at, now)

    # The first look

    def looked(self, visit: Visit, at: int, now: float) -> None:
        note, seen = self.notes[visit], visit.handle.seen
        if seen is None or note.seen_at:
            return
        note.seen_at = at
        still = {id_ for id_ in note.bound if id_ in self.last}
        note.bound = tuple(id_ for id_ in still if self.last[id_].generation == note.presented[id_])
        if seen.id is not None:
            self.opened(visit, note, seen.id, now)
            if seen.id in note.presented:  # also beside cookies of other sessions
                self.lives[seen.id].brought.setdefault(note.presented[seen.id], visit.clock)
        if len(note.presented) == 1:
            ((id_, generation),) = note.presented.items()
            self.should_open(visit, id_, generation, seen.id, now)
            life = self.lives.get(id_)
            note.stored = id_ in self.last
            if life is not None:
                note.stranger = seen.id is None and self.is_stranger(visit, note, id_, life, generation)
                life.brought.setdefault(generation, visit.clock)

    def is_stranger(self, visit: Visit, note: Note, id_: str, life: Life, generation: int) -> bool:
        if id_ in self.last:
            return not self.came_before_floor(visit, note, life, generation)
        return not self.came_before_end(visit, life)

    def opened(self, visit: Visit, note: Note, id_: str, now: float) -> None:
        record, life = self.last.get(id_), self.lives[id_]
        if record is None or record.deadline + SLACK <= now:
            if life.ended_at is None or life.ended_at < visit.at:
                raise Violation(NO_COMEBACK, f"{visit} opens {id_}, which has ended")
            return
        if id_ in note.promises and life.privileged:
            raise Violation(BEFORE_LOGIN, f"{visit} opens {id_} with the promise that a privilege took")
        floor = life.floors[-1]
        if note.presented[id_] < floor[0] and (floor[1] < visit.at or len(note.presented) == 1):
            raise Violation(BEFORE_LOGIN, f"{visit} opens {id_} with a cookie below {floor[0]}")

    def should_open(self, visit: Visit, id_: str, generation: int, opened: str | None, now: float) -> None:
        record, life = self.last.get(id_), self.lives.get(id_)
        if record is None or life is None or record.deadline - SLACK <= now or opened == id_:
            return
        newer = [g for g in life.generations if g > generation]
        waits = generation >= life.floors[-1][0] and len(newer) <= 4
        brought = any(life.brought.get(g, now) < now - SLACK + 1.0 for g in newer)
        if generation in life.generations and waits and not brought:
            raise Violation(LOST_RESPONSE, f"{visit} does not open {id_} with generation {generation}")

    # Changes of records

    def changed(
        self, visit: Visit | None, id_: str, old: Stored | None, new: Stored | None, at: int, now: float
    ) -> None:
        if old is None:
            assert new is not None
            self.created(visit, id_, new, at, now)
        elif new is None:
            self.deleted(visit, id_, old, at, now)
        elif new.created_at != old.created_at:
            self.replaced(visit, id_, old, new, at, now)
        else:
            self.updated(visit, id_, old, new, at, now)

    def created(self, visit: Visit | None, id_: str, new: Stored, at: int, now: float) -> None:
        life = self.lives.get(id_)
        if visit is None or (life is not None and now - life.ended_clock < ENDINGS_KEPT - SLACK):
            raise Violation(NO_COMEBACK, f"{visit} creates {id_} again")
        if not set(new.data) <= touched_keys(visit):
            raise Violation(BEFORE_LOGIN, f"{visit} creates {id_} with more than it set")
        if new.limit != new.created_at + ABSOLUTE or new.deadline > new.limit:
            raise Violation(LIMIT, f"{visit} creates {id_} with another limit")
        self.lives[id_] = Life(new.generation == new.floors[0], [new.generation], [(new.floors[-1], at, now)])
        self.lives[id_].privileged = new.user_id is not None or "role" in new.data
        self.lives[id_].again = life is not None  # its ending was forgotten meanwhile
        if self.lives[id_].promised:
            self.promise_kept(id_, new.generation)
        self.own(visit, id_, None, new, at)

    def promise_kept(self, id_: str, generation: int) -> None:
        """Requests that brought or sent its promise were let in with the generation of creation."""
        for visit, note in self.notes.items():
            answer = visit.handle.response
            sent = answer.set_cookie if answer is not None and answer.is_promise else None
            if visit.handle.seen is not None and visit.handle.seen.id == id_:
                continue  # let in to an earlier session of this id, which has expired
            if id_ in note.promises or (sent is not None and sent.startswith(f"{id_}.")):
                note.presented[id_] = note.admitted[id_] = generation

    def replaced(self, visit: Visit | None, id_: str, old: Stored, new: Stored, at: int, now: float) -> None:
        """A backend may replace what expired: under a new floor, which nothing of the old one passes."""
        if old.deadline > now + SLACK or new.floors[0] <= old.generation:
            raise Violation(NO_COMEBACK, f"{visit} creates {id_} over a live one")
        del self.lives[id_]
        self.created(visit, id_, new, at, now)
        self.lives[id_].again = True

    def deleted(self, visit: Visit | None, id_: str, old: Stored, at: int, now: float) -> None:
        life = self.lives[id_]
        life.ended_at, life.ended_clock = at, min(now, old.deadline)
        life.ended_by = visit if old.deadline > now + SLACK else None
        del self.last[id_]
        if visit is None:
            return
        if old.deadline + SLACK > now:
            self.notes[visit].ended[id_] = at
        self.notes[visit].changed_at = at
        if not visit.logs_in and not any(a[0] in ("logout", "clear") for a in visit.actions):
            raise Violation(LOST_UPDATE, f"{visit} deletes {id_}")

    def updated(self, visit: Visit | None, id_: str, old: Stored, new: Stored, at: int, now: float) -> None:
        if visit is None or old.deadline + SLACK <= now:
            raise Violation(NO_COMEBACK, f"{visit} changes {id_}, which has ended")
        proved = visit.logs_in and any(old.user_id in action[1:] for action in visit.early)
        if self.notes[visit].admitted.get(id_, 0) < old.floors[-1] and not proved:
            raise Violation(BEFORE_LOGIN, f"{visit} changes {id_} from below its floor")
        self.check_data(visit, id_, old, new)
        self.check_limit(visit, id_, old, new, now)
        self.check_due(visit, id_, old, new, at)
        life = self.lives[id_]
        if new.generation != old.generation:
            life.generations.append(new.generation)
        if new.floors[-1] != old.floors[-1]:
            life.floors.append((new.floors[-1], at, now))
        self.own(visit, id_, old, new, at)

    def check_data(self, visit: Visit, id_: str, old: Stored, new: Stored) -> None:
        differ = {k for k in {*old.data, *new.data} if old.data.get(k) != new.data.get(k)}
        if not differ <= touched_keys(visit) and ("pop_all",) not in visit.actions:
            raise Violation(LOST_UPDATE, f"{visit} changes {differ - touched_keys(visit)} of {id_}")
        by = int(new.data.get("count", 0)) - int(old.data.get("count", 0))
        times = sum(a == ("inc", "count") for a in visit.actions)
        removed = ("pop_all",) in visit.actions
        if "count" in differ and "count" in new.data and not removed and not 1 <= by <= times:
            raise Violation(LOST_UPDATE, f"{visit} counts {id_} by {by}")

    def check_limit(self, visit: Visit, id_: str, old: Stored, new: Stored, now: float) -> None:
        if new.limit != old.limit and not visit.logs_in:
            raise Violation(LIMIT, f"{visit} moves the limit of {id_}")
        if new.deadline > new.limit:
            raise Violation(LIMIT, f"{visit} renews {id_} past its limit")
        if new.user_id not in (None, old.user_id) and abs(new.limit - now - ABSOLUTE) > SLACK:
            raise Violation(LIMIT, f"{visit} logs in to {id_} and keeps its limit")
        if new.user_id != old.user_id and new.floors[-1] == old.floors[-1]:
            raise Violation(BEFORE_LOGIN, f"{visit} changes the user of {id_} without a floor")

    def check_due(self, visit: Visit, id_: str, old: Stored, new: Stored, at: int) -> None:
        if new.cycle_due is not None and new.cycle_due != old.cycle_due:
            self.lives[id_].due_at = at
        if old.cycle_due == 0.0 and new.cycle_due != 0.0 and new.floors[-1] == old.floors[-1]:
            raise Violation(DUE, f"{visit} takes the due cycle without grace from {id_}")
        if old.cycle_due is not None and new.cycle_due is None and new.generation == old.generation:
            raise Violation(DUE, f"{visit} takes the due cycle from {id_}")

    def own(self, visit: Visit, id_: str, old: Stored | None, new: Stored, at: int) -> None:
        """Bookkeeping after a change that was allowed."""
        note = self.notes[visit]
        note.admitted[id_] = max(note.admitted.get(id_, 0), new.generation)
        note.changed_at = at
        before = {} if old is None else old.data
        note.saved |= {k for k in touched_keys(visit) if new.data.get(k) != before.get(k)}
        self.last[id_] = new

    # Responses

    def answered(self, visit: Visit, note: Note, response: Response, at: int, now: float) -> None:
        self.check_overtaken(visit, note, response, now)
        self.check_cookie(visit, note, response, now)
        if response.status != 503:
            self.check_logout(visit, note, response, now)
        if response.status == 200:
            self.check_saved(visit, note, now)
            self.check_due_done(visit, note, now)
            self.check_login(visit, response)
            if visit.logs_in:
                self.logins.append(visit)

    def check_overtaken(self, visit: Visit, note: Note, response: Response, now: float) -> None:
        """A request from before a login or an ending sets and removes nothing, unless it logs in itself."""
        silent = not (response.set_cookie or response.removes)
        if visit.logs_in or silent or note.stranger or len(note.presented) != 1:
            return
        ((id_, generation),) = note.presented.items()
        life = self.lives.get(id_)
        if (
            life is None
            or id_ in note.ended
            or (note.admitted[id_] >= life.floors[-1][0] and id_ in self.last)
        ):
            return
        overtaken = id_ in self.last and self.came_before_floor(visit, note, life, generation)
        if overtaken or self.came_before_end(visit, life):
            raise Violation(UNDONE, f"{visit} was overtaken in {id_} and sends {response}")

    def came_before_floor(self, visit: Visit, note: Note, life: Life, generation: int) -> bool:
        above = [floor for floor in life.floors if floor[0] > generation]
        if life.again and generation < life.generations[0]:
            return False
        if not above or len(above) >= 4 or (note.changed_at and note.changed_at < above[0][1]):
            return False
        _, at, clock = above[0]
        return at > visit.at or -SURE < visit.clock - clock < SURE

    def came_before_end(self, visit: Visit, life: Life) -> bool:
        if life.ended_at is None or life.ended_by is None:
            return False
        return life.ended_at > visit.at or -SURE < visit.clock - life.ended_clock < SURE

    def check_cookie(self, visit: Visit, note: Note, response: Response, now: float) -> None:
        if response.removes and (not note.ended or response.set_cookie):
            raise Violation(REMOVAL, f"{visit} removes a cookie and ended nothing")
        if response.status == 503 and (response.set_cookie or response.removes):
            raise Violation(UNDONE, f"{visit} failed and touches the cookie")
        if response.set_cookie is not None and not response.is_promise:
            id_, _, generation, _ = response.set_cookie.split(".")
            record = self.last.get(id_)
            gone = (
                record is None and self.lives[id_].ended_by is not None and not self.ends_others(visit, note)
            )
            if gone or (record is not None and int(generation) < record.floors[-1]):
                raise Violation(UNDONE, f"{visit} sends a cookie that no longer opens {id_}")
        if (response.set_cookie or response.removes) and not visit.logs_in:
            self.check_decided_late(visit, note)

    def ends_others(self, visit: Visit, note: Note) -> bool:
        """A login with several cookies: one call after its own commit, in which a logout may end that too."""
        return visit.logs_in and len(note.presented) > 1

    def check_decided_late(self, visit: Visit, note: Note) -> None:
        """Between its last change and its response, no login of the same cookies was decided."""
        for login in self.logins:
            shares = self.notes[login].presented.keys() & note.presented.keys()
            if shares and note.changed_at < login.decided_at and login is not visit and note.changed_at:
                raise Violation(UNDONE, f"{visit} decided its cookie before {login} logged in")

    def check_logout(self, visit: Visit, note: Note, response: Response, now: float) -> None:
        if not visit.does("logout", "clear") or (visit.logs_in and visit.does("save")):
            return  # after a login saved early it is that login's session that ends
        seen = visit.handle.seen
        must = {*note.bound} if len(note.presented) > 1 else set()
        if seen is not None and seen.id is not None:
            must.add(seen.id)
        for id_, generation in note.presented.items() if note.stored else ():
            life = self.lives.get(id_)
            by_itself = note.admitted[id_] > generation
            if life is not None and not by_itself and self.came_before_floor(visit, note, life, generation):
                must.add(id_)
        for id_ in must:
            record = self.last.get(id_)
            if record is not None and record.deadline > now + SLACK:
                raise Violation(LOGOUT, f"{visit} acknowledged the end of {id_}, which lives")

    def check_saved(self, visit: Visit, note: Note, now: float) -> None:
        lost = set(visit.handle.lost)
        missing = kept_keys(visit) - note.saved - lost
        if missing:
            raise Violation(SILENT, f"{visit} loses {missing}")
        seen = visit.handle.seen
        if seen is None or seen.id is None or not lost or visit.does("logout", "clear", "login"):
            return
        record = self.last.get(seen.id)
        if record is None or visit.logs_in or record.deadline <= now + SLACK:
            return
        if note.presented[seen.id] >= record.floors[-1]:
            raise Violation(LOST_UPDATE, f"{visit} loses {lost} and nobody logged in")

    def check_due_done(self, visit: Visit, note: Note, now: float) -> None:
        seen = visit.handle.seen
        record = self.last.get(seen.id) if seen is not None and seen.id is not None else None
        if record is None or record.cycle_due != 0.0 or seen is None or seen.id is None:
            return
        in_time = note.admitted[seen.id] >= record.floors[-1] and record.deadline > now + SLACK
        if self.lives[seen.id].due_at < note.seen_at and in_time:
            raise Violation(DUE, f"{visit} looked at {seen.id} and leaves its cycle due")

    def check_login(self, visit: Visit, response: Response) -> None:
        user = last_word(visit)
        if not user or not visit.does("login") or "user_id" in touched_keys(visit):
            return  # a user key that keeps its value is no login
        if visit.does("save") and response.set_cookie is None:
            return  # what an early save made may have ended, or been overtaken, before the response
        id_, _, generation, _ = (response.set_cookie or "-.-.0.-").split(".")
        record = self.last.get(id_)
        if record is None and id_ in self.lives and self.lives[id_].ended_by is None:
            return  # an administrator was quicker
        if record is None and self.ends_others(visit, self.notes[visit]):
            return  # so was a logout
        if record is None or record.user_id != user or int(generation) < record.floors[-1]:
            raise Violation(LOGIN_ACKNOWLEDGED, f"{visit} logs {user} in and sends {response.set_cookie}")
