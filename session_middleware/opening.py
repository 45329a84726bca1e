"""Which cookie opens what: the second table, as pure functions.

Reading order: `open_with` (one cookie), `open_promised` (a promise, `eager=True`), `choose` (several).
No I/O, no clock: the backend's answer and the time come in as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from hmac import compare_digest

from session_middleware.policy import JUST_NOW
from session_middleware.record import KEPT_FLOORS, Ended, Record, SessionId, replace
from session_middleware.session import Fresh, JustEnded, Live, Opening, Overtaken

__all__ = ["choose", "open_promised", "open_with"]

_PARALLEL = ("logout", "superseded")  # endings that a request may have been overtaken by


def open_with(  # noqa: PLR0911  (a return per row of the table)
    claim: tuple[str, str, int], answer: Record | Ended | None, now: float
) -> tuple[Opening, str | None]:
    """What this cookie opens, given the backend's answer; and the suspicious activity it is, or None."""
    if answer is None:
        return Fresh(), "unknown_id"
    if isinstance(answer, Ended):
        return _opened_late(SessionId(claim[0]), answer, now), None
    _, secret, generation = claim
    if not compare_digest(secret, answer.secret) or generation > answer.generation:
        return Fresh(), "unknown_generation"
    if generation == answer.generation:
        return Live(answer, generation, came_back=True), None
    grace = answer.accepted.get(generation)
    if grace is not None and (grace.until is None or now < grace.until):
        return Live(answer, generation, came_back=True), None
    if _was_overtaken(answer, generation, now):
        return Overtaken(answer), None
    return Fresh(), "superseded_cookie"


def open_promised(
    claim: tuple[str, str, int], answer: Record | Ended | None, now: float
) -> tuple[Opening, str | None]:
    """What a promise opens: what a cookie of the session's creation would; or the id it promised."""
    id_, secret, generation = claim
    if answer is None:
        return Fresh(promised=(SessionId(id_), secret, generation)), None
    if isinstance(answer, Ended):
        return _opened_late(SessionId(id_), answer, now), None
    # Once `floors` is full its first may be a later one, whose successor a promise must not be measured by.
    creation = answer.floors[0] if len(answer.floors) < KEPT_FLOORS else 0
    opening, suspicion = open_with((id_, secret, creation), answer, now)
    return (replace(opening, promised=True) if isinstance(opening, Live) else opening), suspicion


def choose(openings: Iterable[Opening]) -> tuple[Opening, tuple[Record, ...], bool]:
    """Of what several cookies opened: the session, the other live ones, and whether they conflict.

    One live session is it; of several the only one with a user; else nobody. Order never matters.
    """
    opened = sorted(openings, key=_rank)
    live = [opening for opening in opened if isinstance(opening, Live)]
    if len(live) <= 1:
        return (opened[0] if opened else Fresh()), (), False
    signed_in = [opening for opening in live if opening.record.user_id is not None]
    chosen = signed_in[0] if len(signed_in) == 1 else None
    others = tuple(opening.record for opening in live if opening is not chosen)
    return (Fresh() if chosen is None else chosen), others, chosen is None


def _rank(opening: Opening) -> tuple[int, str]:
    match opening:
        case Live(record):
            return 0, record.id
        case Overtaken(record):
            return 1, record.id
        case JustEnded(id_):
            return 2, id_
        case Fresh(promised=(id_, _, _)):
            return 3, id_
        case Fresh(reason):
            return (4 if reason else 5), reason or ""


def _opened_late(id_: SessionId, ended: Ended, now: float) -> Opening:
    if ended.reason in _PARALLEL and _just_now(ended.at, now):
        return JustEnded(id_, ended.reason)
    return Fresh(ended_because=ended.reason)


def _was_overtaken(record: Record, generation: int, now: float) -> bool:
    if not record.floors or generation < record.floors[0] or generation >= record.floor:
        return False
    first_above = min(floor for floor in record.floors if floor > generation)
    return _just_now(first_above / 1000, now)


def _just_now(then: float, now: float) -> bool:
    """Less than 30 s ago, or ahead: a request reads its clock, then its load meets what happened since."""
    return abs(now - then) < JUST_NOW
