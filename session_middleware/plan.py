"""What a request leaves behind: the commit table, as pure functions.

Reading order: the `Plan`s, `is_settled`, `plan_commit` (before the response leaves), `plan_late` (once it has
left), and `plan_refused` (when a backend refused to commit). No I/O, no clock, no randomness of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from session_middleware.changes import Changes, changes_of, login_of
from session_middleware.record import UNSET, Delta, Ended, Record, SessionId, UnsetType, replace
from session_middleware.session import Fresh, JustEnded, Life, Live, Overtaken, Session
from session_middleware.values import (
    JsonValue,
    Values,
    check_size,
    decode_values,
    encode_plainly,
    encode_value,
)

__all__ = [
    "NOTHING",
    "Create",
    "End",
    "Keep",
    "Lost",
    "Mint",
    "Nothing",
    "Plan",
    "Relogin",
    "Swap",
    "Write",
    "is_settled",
    "new_record",
    "plan_commit",
    "plan_late",
    "plan_refused",
]

Mint: TypeAlias = Callable[[], tuple[SessionId, str]]
"""A new id and secret, random."""


class Step(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Something to be done."""

    shown: Values | None = None
    """What the session showed to the plan, as `encode_plainly` writes it; None: look again."""


class Nothing(Step, frozen=True, gc=False):
    """The backend and the cookie are as they should be."""


class Create(Step, frozen=True, gc=False):
    """Insert a new session and set its cookie; end these other sessions (`superseded`)."""

    record: Record
    also_end: tuple[SessionId, ...] = ()


class Write(Step, frozen=True, gc=False):
    """Commit *delta* to *record*; set the cookie of the generation that returns if `sends_cookie`."""

    record: Record
    delta: Delta
    sends_cookie: bool = False
    user_id: str | None = None  # a login: whom
    also_end: tuple[SessionId, ...] = ()
    refused: tuple[str, ...] = ()  # keys that came too late to be saved
    asked_cycle: bool = False  # `cycle()` was called, or ordered by `cycle_session`


class End(Step, frozen=True, gc=False):
    """Delete this session (`logout`) and `others`, remove the cookie if one was alive.

    `lost`: keys that were written too late.
    """

    id: SessionId
    lost: tuple[str, ...] = ()
    why_lost: str = ""
    others: tuple[SessionId, ...] = ()


class Swap(Step, frozen=True, gc=False):
    """Create a new session, then delete the old one; undo it if that was needed and found nothing alive."""

    record: Record
    old: SessionId
    reason: str
    needs_old_alive: bool = False
    also_end: tuple[SessionId, ...] = ()


class Relogin(Step, frozen=True, gc=False):
    """A login by a request that was overtaken: look at the session afresh, then `plan_refused`."""

    id: SessionId


class Keep(Step, frozen=True, gc=False):
    """The same user is signed in already (a double click): set the current cookie, change nothing."""

    record: Record
    lost: tuple[str, ...] = ()  # keys that say something else than the session does


class Lost(Step, frozen=True, gc=False):
    """Nothing may be saved; report these keys and why."""

    id: SessionId | None
    keys: tuple[str, ...]
    reason: str


Plan: TypeAlias = Nothing | Create | Write | End | Swap | Relogin | Keep | Lost
NOTHING = Nothing()
_EMPTY: Mapping[Any, Any] = {}  # nobody changes what a record holds, so new ones share it


def is_settled(session: Session, now: float) -> bool:
    """Whether there is nothing to commit, told without making a plan. False also means "find out"."""
    life = session.life
    if (
        life.asked
        or session.modified
        or life.owed is not None
        or life.metadata is not None
        or life.before_commit
    ):
        return False
    opening = life.opening
    if type(opening) is Live:
        record = opening.record
        if (
            opening.promised
            or opening.admitted != record.generation
            or record.cycle_due is not None
            or record.accepted
        ):
            return False
        is_fresh = life.policy.is_fresh(record.deadline, record.idle_timeout, now)
        if not is_fresh and _renewal(life, record, None, now) is not None:
            return False
    return encode_plainly(session) == life.loaded.packed


def plan_commit(
    session: Session, now: float, mint: Mint, *, failed: bool = False, cookie_ages: bool = True
) -> Plan:
    """What must be done so that backend and cookie agree with *session*, before the response leaves.

    *failed*: the response is 500 or above, so only an ending counts. *cookie_ages*: the cookie has a Max-Age,
    so a renewal sets it again. Raises `SessionDataError` as `changes_of` does.
    """
    life = session.life
    opening = life.opening
    if failed:
        return _plan_ending(life) if life.ended else _plan_confirmation(life)
    changes = changes_of(session)
    match opening:
        case Live(record) if not life.ended:
            return _plan_live(session, opening, changes, now, mint, cookie_ages=cookie_ages)
        case Live(record):
            return _plan_ended(session, record, changes, now, mint)
        case Fresh():
            return _plan_fresh(session, changes, now, mint)
        case Overtaken(record):
            return _plan_overtaken(session, record.id, changes, now, mint)
        case JustEnded(id_):
            return _plan_just_ended(session, id_, changes, now, mint)


def plan_late(session: Session, now: float, mint: Mint) -> Plan:
    """The same once the response has left: no cookie can follow, so a cycle waits for the next response."""
    life, changes = session.life, changes_of(session)
    match life.opening:
        case _ if life.ended and isinstance(ending := _plan_ending(life), End):
            return replace(ending, lost=tuple(sorted(changes.keys())), why_lost="response_started")
        case Live(record):
            return _plan_live_late(session, life.opening, changes, now)
        case Overtaken(record):
            return _lost(record.id, changes, "superseded")
        case JustEnded(id_):
            return _lost(id_, changes, "ended")
        case Fresh(promised=promised) if promised is None or life.ended:
            return _lost(None, changes, "response_started")
        case Fresh():  # the visitor holds a promise of this very session
            return _plan_fresh(session, changes, now, mint)


def plan_refused(session: Session, answer: Record | Ended | None, now: float, mint: Mint) -> Plan:
    """After a backend refused to commit: what a login makes of the session as it is now."""
    changes = changes_of(session)
    user = login_of(session, changes)
    if not isinstance(user, str):
        gone = not isinstance(answer, Record)
        id_ = answer.id if isinstance(answer, Record) else session.id
        return _lost(id_, changes, "gone" if gone else "superseded", even_if_empty=True)
    if isinstance(answer, Record) and answer.user_id == user:
        return Keep(answer, _missing(changes, answer))
    record = new_record(session, changes.alone(), user, now, mint)
    if isinstance(answer, Record) and answer.user_id is None:
        return Swap(record, answer.id, "superseded", also_end=_others(session))
    return Create(record, also_end=_others(session))


def _plan_confirmation(life: Life) -> Plan:
    """An early `save` owes a cookie: it is sent only if nothing overtook it until the response leaves."""
    if life.owed is None or not isinstance(life.opening, Live):
        return NOTHING
    return Write(life.opening.record, Delta(admitted=life.opening.admitted), sends_cookie=True)


def _plan_ending(life: Life) -> End | Nothing:
    """The end of the session; where several conflict, of all that the cookies opened."""
    if isinstance(life.opening, Live | Overtaken):
        return End(life.opening.record.id)
    ids = tuple(record.id for record in life.others)
    return End(ids[0], others=ids[1:]) if ids else NOTHING


def _plan_fresh(session: Session, changes: Changes, now: float, mint: Mint) -> Plan:
    user = login_of(session, changes)
    wrote = bool(changes.assigned or changes.counted)
    life = session.life
    if not (wrote or isinstance(user, str)):
        return _plan_ending(life) if life.ended else NOTHING
    promised = life.opening.promised if isinstance(life.opening, Fresh) else None
    if promised is not None and life.ended and not isinstance(user, str):
        made = new_record(session, changes.alone(), None, now, mint)
        # The logout ends what a parallel request created under the promise, perhaps a login.
        return Swap(made, promised[0], "logout", needs_old_alive=True)
    record = new_record(session, changes.alone(), user or None, now, mint)
    if promised is not None:
        record = _as_promised(record, promised)
    if promised is not None and (life.cycle == 0 or _raises_privileges(life, changes, user)):
        record = _cycled_at_birth(record)
    others = _others(session) if life.ended or isinstance(user, str) else ()
    return Create(record, others, shown=changes.shown)


def _as_promised(record: Record, promised: tuple[SessionId, str, int]) -> Record:
    id_, secret, generation = promised
    created = max(record.generation, generation)  # clocks go back; a generation never does
    return replace(record, id=id_, secret=secret, generation=created, floors=(created,))


def _cycled_at_birth(record: Record) -> Record:
    """It begins with a privilege, so the promise that named it, which others may hold, does not open it."""
    generation = record.generation + 1
    return replace(record, generation=generation, floors=(record.generation, generation))


def _plan_ended(session: Session, old: Record, changes: Changes, now: float, mint: Mint) -> Plan:
    user = login_of(session, changes)
    if not (changes.assigned or changes.counted or isinstance(user, str)):
        return End(old.id)
    record = new_record(session, changes.alone(), user or None, now, mint)
    others = _others(session) if isinstance(user, str) else ()
    return Swap(record, old.id, "logout", needs_old_alive=not isinstance(user, str), also_end=others)


def _plan_overtaken(session: Session, id_: SessionId, changes: Changes, now: float, mint: Mint) -> Plan:
    user = login_of(session, changes)
    if not session.life.ended:
        return Relogin(id_) if isinstance(user, str) else _lost(id_, changes, "superseded")
    if isinstance(user, str):
        return Swap(new_record(session, changes.alone(), user, now, mint), id_, "logout")
    return End(id_, tuple(sorted(changes.keys())), "superseded")


def _plan_just_ended(session: Session, id_: SessionId, changes: Changes, now: float, mint: Mint) -> Plan:
    user = login_of(session, changes)
    if isinstance(user, str):
        return Create(new_record(session, changes.alone(), user, now, mint), also_end=_others(session))
    return _lost(id_, changes, "ended")


def _plan_live(
    session: Session, opening: Live, changes: Changes, now: float, mint: Mint, *, cookie_ages: bool
) -> Plan:
    if _changes_values_alone(session.life, opening, changes):
        return _plan_values(session.life, opening, changes, now, cookie_ages=cookie_ages)
    record, life = opening.record, session.life
    user = login_of(session, changes)
    if isinstance(user, str) and record.user_id not in {None, user}:
        made = new_record(session, changes.alone(), user, now, mint)
        return Swap(made, record.id, "superseded", also_end=_others(session))
    cycle = _cycle_of(life, record, changes, user)
    delta = _delta_of(session, opening, changes, user, now, cycle=cycle)
    renews = delta.renew_to is not None or delta.expire_at is not None
    stale_cookie = opening.admitted != record.generation or opening.promised or life.owed is not None
    if not stale_cookie and delta == Delta(admitted=opening.admitted, seen_at=delta.seen_at):
        return NOTHING
    return Write(
        record,
        delta,
        sends_cookie=stale_cookie or cycle is not None or (renews and cookie_ages),
        user_id=user if isinstance(user, str) else None,
        also_end=_others(session) if isinstance(user, str) else (),
        asked_cycle=life.cycle is not None or record.cycle_due is not None,
        shown=changes.shown,
    )


def _changes_values_alone(life: Life, opening: Live, changes: Changes) -> bool:
    """Nobody signs in or out, nothing cycles, no verb was called, the cookie is as it should be."""
    record, keys = opening.record, changes.keys()
    return (
        opening.admitted == record.generation
        and not opening.promised
        and life.owed is None
        and record.cycle_due is None
        and not record.accepted
        and life.asks_for_nothing_but_values()
        and keys.isdisjoint(life.policy.privilege_keys)
        and keys.isdisjoint(life.policy.user_keys)
    )


def _plan_values(
    life: Life, opening: Live, changes: Changes, now: float, *, cookie_ages: bool
) -> Write | Nothing:
    """What `_plan_live` comes to then, as in nearly every request that writes."""
    renew_to = _renewal(life, opening.record, None, now)
    if renew_to is None and not (changes.assigned or changes.unset):
        return NOTHING
    delta = Delta(
        set=changes.assigned,
        unset=changes.unset,
        renew_to=renew_to,
        admitted=opening.admitted,
        seen_at=None if life.passive else now,
    )
    sends_cookie = renew_to is not None and cookie_ages
    return Write(opening.record, delta, sends_cookie, shown=changes.shown)


def _plan_live_late(session: Session, opening: Live, changes: Changes, now: float) -> Plan:
    record, life = opening.record, session.life
    refused = _too_late(life, record, changes)
    kept = changes.without(refused)
    due = _cycle_of(life, None, kept, UNSET)
    delta = _delta_of(session, opening, kept, UNSET, now, cycle_due=due)
    if delta == Delta(admitted=opening.admitted, seen_at=delta.seen_at):
        return Lost(record.id, tuple(sorted(refused)), "response_started") if refused else NOTHING
    return Write(record, delta, refused=tuple(sorted(refused)))


def _too_late(life: Life, record: Record, changes: Changes) -> set[str]:
    """A late change of the user, or of a privilege of nobody in particular, is refused."""
    refused = changes.keys().intersection(life.policy.user_keys)
    if record.user_id is None:
        refused |= changes.keys() & life.policy.privilege_keys
    if life.login is not None:  # called in time, but an exception left it without a response
        refused.add("user_id")
    return refused


def _cycle_of(
    life: Life, record: Record | None, changes: Changes, user: str | UnsetType | None
) -> float | None:
    """Seconds of grace of the cycle that is asked for by anybody; the strictest wins; None: no cycle."""
    if _raises_privileges(life, changes, user):
        return 0.0
    due = None if record is None else record.cycle_due
    return min((grace for grace in (life.cycle, due) if grace is not None), default=None)


def _raises_privileges(life: Life, changes: Changes, user: str | UnsetType | None) -> bool:
    return user is not UNSET or not changes.keys().isdisjoint(life.policy.privilege_keys)


def _delta_of(
    session: Session,
    opening: Live,
    changes: Changes,
    user: str | UnsetType | None,
    now: float,
    *,
    cycle: float | None = None,
    cycle_due: float | None = None,
) -> Delta:
    record, life = opening.record, session.life
    limit = now + life.policy.absolute_timeout if isinstance(user, str) else None
    own = record.idle_timeout if life.expiry is UNSET else life.expiry
    expire_at = None if life.expiry is UNSET else min(now + life.policy.idle(own), limit or record.limit)
    renew_to = None if expire_at is not None else _renewal(life, record, limit, now)
    waits = bool(record.accepted) and any(
        g < opening.admitted and grace.until is None for g, grace in record.accepted.items()
    )
    authenticated: float | UnsetType | None = UNSET if user is UNSET else (None if user is None else now)
    return Delta(
        set=changes.assigned,
        unset=changes.unset,
        increments=changes.counted,
        user_id=user,
        authenticated_at=authenticated,
        limit=limit,
        renew_to=renew_to,
        expire_at=expire_at,
        idle_timeout=life.expiry,
        metadata=_metadata_of(life, record.metadata, signs_in=isinstance(user, str)),
        priority=UNSET if life.priority is None else life.priority,
        cycle=cycle,
        cycle_due=cycle_due,
        start_grace=opening.came_back and waits,
        admitted=opening.admitted,
        seen_at=None if life.passive else now,
    )


def _metadata_of(
    life: Life, present: Mapping[str, JsonValue], *, signs_in: bool
) -> Mapping[str, JsonValue] | UnsetType:
    wanted = present if life.metadata is None else life.metadata
    if signs_in:
        wanted = _with_client(life, wanted, present)
    return UNSET if wanted is present or wanted == present else checked_metadata(life, wanted)


def _with_client(
    life: Life, wanted: Mapping[str, JsonValue], present: Mapping[str, JsonValue]
) -> Mapping[str, JsonValue]:
    """With what is known of the client, unless the app itself says something of it, now or before."""
    known = present.get("client", {})
    if life.client is None or not isinstance(known, Mapping) or wanted.get("client", {}) != known:
        return wanted
    facts = life.client()
    return {**wanted, "client": dict(facts)} if facts else wanted


def checked_metadata(life: Life, metadata: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """A copy of what is to be kept beside the values. Raises `SessionDataError` as for values."""
    if not metadata:
        return _EMPTY
    return _checked(metadata, life.policy.max_bytes, life.policy.max_keys)


def _checked(metadata: Mapping[str, JsonValue], max_bytes: int, max_keys: int) -> dict[str, JsonValue]:
    encoded = {name: encode_value(name, value) for name, value in metadata.items()}
    check_size(encoded, max_bytes=max_bytes, max_keys=max_keys)
    return decode_values(Values.of(encoded))


def _metadata_at_birth(life: Life) -> Mapping[str, JsonValue]:
    """What the app says, and what is known of the client. Nobody changes it: clients share theirs."""
    if life.metadata is not None or life.client is None:
        return checked_metadata(life, _with_client(life, life.metadata or {}, {}))
    facts = life.client()
    if {*map(type, facts), *map(type, facts.values())} == {str}:
        return _client_alone(tuple(facts.items()), life.policy.max_bytes, life.policy.max_keys)
    return checked_metadata(life, {"client": dict(facts)} if facts else {})


@lru_cache(1024)  # of many visitors, few clients
def _client_alone(
    facts: tuple[tuple[str, str], ...], max_bytes: int, max_keys: int
) -> Mapping[str, JsonValue]:
    return _checked({"client": dict(facts)}, max_bytes, max_keys)


def _renewal(life: Life, record: Record, limit: float | None, now: float) -> float | None:
    if limit is not None or life.renew:
        return min(now + life.policy.idle(record.idle_timeout), limit or record.limit)
    if life.passive:
        return None
    return life.policy.renewal(
        deadline=record.deadline, limit=record.latest, own=record.idle_timeout, now=now
    )


def new_record(
    session: Session, values: dict[str, bytes], user_id: str | UnsetType | None, now: float, mint: Mint
) -> Record:
    """A record that begins now, with what *session* asked for."""
    life, policy = session.life, session.life.policy
    id_, secret = mint()
    own = None if life.expiry is UNSET else life.expiry
    limit = now + policy.absolute_timeout
    generation = int(now * 1000)
    user = user_id if isinstance(user_id, str) else None
    return Record(
        id=id_,
        secret=secret,
        generation=generation,
        accepted=_EMPTY,
        floors=(generation,),
        created_at=now,
        last_seen_at=now,
        authenticated_at=None if user is None else now,
        limit=limit,
        deadline=min(now + policy.idle(own), limit),
        idle_timeout=own,
        user_id=user,
        data=Values.of(values),
        metadata=_metadata_at_birth(life),
        priority=life.priority or 0,
    )


def _others(session: Session) -> tuple[SessionId, ...]:
    others = session.life.others
    return tuple([record.id for record in others]) if others else ()


def _missing(changes: Changes, record: Record) -> tuple[str, ...]:
    """The keys of *changes* that *record* does not hold so."""
    pairs = record.data.pairs
    unequal = {name for name, value in changes.assigned.items() if pairs.get(name) != value}
    return tuple(sorted({*unequal, *changes.counted, *(pairs.keys() & changes.unset)}))


def _lost(id_: SessionId | None, changes: Changes, reason: str, *, even_if_empty: bool = False) -> Plan:
    if changes.is_empty() and not even_if_empty:
        return NOTHING
    return Lost(id_, tuple(sorted(changes.keys())), reason)
