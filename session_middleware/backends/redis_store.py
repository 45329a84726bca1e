"""How sessions lie in Redis: the keys, the scripts, and how a hash becomes a record.

Reading order: `Keys`, `Store` (how commands are run), the scripts, then hash ↔ record.

A session is one hash, and every script touches one key, so a cluster is no special case. A session that
ended leaves a small hash under the same key, as the memory of its ending. Indexes (by user, by status, by
creation, by deadline) are sorted sets that may name too much, never too little: whoever adds a session files
it first, whoever reads an index looks at the sessions themselves.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self, TypeAlias

import msgspec

from session_middleware.backends.base import ENDINGS_KEPT, NO_EPOCH, Epoch, LoadAnswer, ending_of
from session_middleware.backends.hiding import Hidden, HiddenMap
from session_middleware.errors import BackendCorrupt, SessionDataError
from session_middleware.record import Ended, Grace, Record, SessionId
from session_middleware.values import Values

__all__ = [
    "CREATE",
    "END",
    "EPOCH",
    "FILE",
    "LASTING",
    "LEASE",
    "PAGE",
    "REFILE",
    "RELEASE",
    "RENEW",
    "SCRIPTS",
    "SWAP",
    "UNFILE",
    "UNLOCK",
    "Command",
    "Found",
    "Hash",
    "Keys",
    "Script",
    "Store",
    "Stored",
    "answer_of",
    "changing_of",
    "end_arguments",
    "epoch_of",
    "fields_of",
    "hash_of",
    "ids_of",
    "is_session",
    "lives",
    "milliseconds_left",
    "rank_of",
    "readable",
    "record_of",
    "salvaged_of",
    "scored",
]

Hash: TypeAlias = Mapping[bytes, bytes]
Command: TypeAlias = tuple[Any, ...]

_SLACK: Final = 3600.0  # seconds past its deadline for which a session may wait for cleanup to report it
_NEVER: Final = "never"


class Keys:
    """The names of all keys. Those of the indexes over all sessions share a slot of a cluster."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.epoch = f"{prefix}{{index}}:epoch"
        self.ask_epoch: Command = ("HGETALL", self.epoch)  # this very object: who shares a pipeline asks once
        self.created = f"{prefix}{{index}}:created"  # id by creation
        self.due = f"{prefix}{{index}}:due"  # id by a moment that is never later than the deadline
        self.rank = f"{prefix}{{index}}:rank"  # id by who goes first; a lower bound, and only if asked for
        self.statuses = f"{prefix}{{index}}:statuses"
        self.endings = f"{prefix}endings"  # a channel: ids of sessions as they end

    def session(self, id_: str) -> str:
        """A session, or how it ended."""
        return f"{self.prefix}session:{id_}"

    def user(self, user_id: str) -> str:
        """Ids of the sessions of a user, by the version in which they became theirs."""
        return f"{self.prefix}user:{user_id}"

    def status(self, status: str) -> str:
        """Likewise for a status."""
        return f"{self.prefix}status:{status}"

    def lease(self, name: str) -> str:
        """Who has it."""
        return f"{self.prefix}lease:{name}"

    def lock(self, name: str) -> str:
        """Who makes room."""
        return f"{self.prefix}lock:{name}"


class Store:
    """Runs commands. A colour brings how."""

    keys: Keys
    wait: float  # seconds for a connection, and for each answer
    epoch: Epoch = NO_EPOCH  # as this process has seen it last; it goes forward only

    @abstractmethod
    async def ask(self, *stages: Sequence[Command], again: bool = False, slow: bool = False) -> list[Any]:
        """The answers to all commands. Each stage is over before the next begins, though it may have failed.

        *again*: these may be repeated if a connection is lost. *slow*: others shall not wait for these.
        Raises a `BackendError`; an answer that is an error is raised as one.
        """

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Let time pass."""


# --- scripts ---------------------------------------------------------------------------------------------


class Script(str):
    """A text in Lua; sent as its hash."""

    __slots__ = ("sha",)
    sha: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  (Redis names scripts so)
        return made

    def __call__(self, key: str, *arguments: Any) -> Command:
        """The command that runs it."""
        return Hidden(("EVALSHA", self, 1, key, *arguments))


# Every check comes before the first write: an error does not undo what was written. Numbers are compared
# here, never written: Lua's have 53 bits. `compare` is shared: fields that must be as the caller knows them.
_COMPARE: Final = """
local function differs(names, wanted)
  if #names == 0 then return false end
  local found = redis.call('HMGET', KEYS[1], unpack(names))
  for i = 1, #names do if (found[i] or '') ~= wanted[i] then return true end end
  return false
end
local function pairs_from(at)
  local names, values, n = {}, {}, tonumber(ARGV[at])
  for i = 1, n do names[i] = ARGV[at + 2 * i - 1]; values[i] = ARGV[at + 2 * i] end
  return names, values, at + 2 * n + 1
end
local function live_until(now, before)
  local f = redis.call('HMGET', KEYS[1], 'x', 'd', 'c')
  if f[1] or not f[2] then return false end
  return (tonumber(f[2]) or 0) > now and (tonumber(f[3]) or 0) >= before
end
local function expire(ttl)
  if ttl == 'never' then redis.call('PERSIST', KEYS[1])
  elseif ttl ~= '' then redis.call('PEXPIRE', KEYS[1], ttl) end
end
"""

CREATE: Final = Script(
    _COMPARE
    + """
-- now, epoch, ttl, field, value, ... -> 2: in the place of an expired one, 1: created, 0: it ended,
-- or when the one that lives was created
local f = redis.call('HMGET', KEYS[1], 'x', 'c', 'i')
if f[1] then return 0 end
if live_until(tonumber(ARGV[1]), tonumber(ARGV[2])) then return f[2] or '0' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
expire(ARGV[3])
return f[3] and 2 or 1
"""
)
SWAP: Final = Script(
    _COMPARE
    + """
-- n, field, value (as they are), ..., ttl, n, field, value (as they become), ..., field (to remove), ...
-- -> 1: done, or all there is now
local names, values, at = pairs_from(1)
if differs(names, values) then return redis.call('HGETALL', KEYS[1]) end
local last = at + 1 + 2 * tonumber(ARGV[at + 1])
redis.call('HSET', KEYS[1], unpack(ARGV, at + 2, last))
if #ARGV > last then redis.call('HDEL', KEYS[1], unpack(ARGV, last + 1)) end
expire(ARGV[at])
return 1
"""
)
END: Final = Script(
    _COMPARE
    + """
-- n, field, value (as they are), ..., now or '', epoch, id, reason, at, by or '', ms -> 1 or 0: it was not so
local names, values, at = pairs_from(1)
local f = redis.call('HMGET', KEYS[1], 'x', 'i')
if f[1] or not f[2] or differs(names, values) then return 0 end
if ARGV[at] ~= '' and not live_until(tonumber(ARGV[at]), tonumber(ARGV[at + 1])) then return 0 end
redis.call('DEL', KEYS[1])                -- first, and alone where memory is full
local noted = redis.pcall('HSET', KEYS[1], 'i', ARGV[at + 2], 'x', ARGV[at + 3], 'a', ARGV[at + 4])
if type(noted) == 'number' then
  if ARGV[at + 5] ~= '' then redis.call('HSET', KEYS[1], 'b', ARGV[at + 5]) end
  redis.call('PEXPIRE', KEYS[1], ARGV[at + 6])
end
return 1
"""
)
FILE: Final = Script(
    """
-- id, version, ttl: the index itself outlives none of its sessions
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if ARGV[3] == 'never' then redis.call('PERSIST', KEYS[1])
elseif redis.call('ZCARD', KEYS[1]) == 1 or (left >= 0 and left < tonumber(ARGV[3])) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
"""
)
UNFILE: Final = Script(
    """
-- id, version: unless it was filed for a later one
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) <= tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
"""
)
REFILE: Final = Script(
    """
-- id, score as it was seen, score that it becomes
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""
)
PAGE: Final = Script(
    """
-- score, id, most: those that stand below this place, highest first; of one score the higher id first
local score, id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function is_below(other)
  for i = 1, math.min(#id, #other) do
    local a, b = other:byte(i), id:byte(i)
    if a ~= b then return a < b end
  end
  return #other < #id
end
local low = redis.call('ZCOUNT', KEYS[1], '(' .. score, '+inf')
local high = low + redis.call('ZCOUNT', KEYS[1], score, score)
while low < high do
  local middle = math.floor((low + high) / 2)
  local other = redis.call('ZREVRANGE', KEYS[1], middle, middle)[1]
  if is_below(other) then high = middle else low = middle + 1 end
end
return redis.call('ZREVRANGE', KEYS[1], low, low + most - 1, 'WITHSCORES')
"""
)
EPOCH: Final = Script(
    """
-- before, at, reason, by or '' -> 1, or 0: one that is no earlier is kept
local kept = redis.call('HGET', KEYS[1], 'before')
if kept and tonumber(kept) >= tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'before', ARGV[1], 'at', ARGV[2], 'reason', ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'by', ARGV[4]) end
return 1
"""
)
LEASE: Final = Script(
    """
-- holder, now, until, ms: acquire where it is free, over or the holder's
local f = redis.call('HMGET', KEYS[1], 'holder', 'until')
if f[1] and f[1] ~= ARGV[1] and tonumber(f[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)
RENEW: Final = Script(
    """
-- holder, until, ms: only what the holder has
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)
RELEASE: Final = Script(
    """
-- holder
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)
UNLOCK: Final = Script(
    """
-- token
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)

LASTING: Final = frozenset({CREATE, SWAP, END, FILE, EPOCH})
"""What is to survive the loss of a server. Leases, locks and the tidying of indexes are not."""

SCRIPTS: Final = (
    CREATE,
    SWAP,
    END,
    FILE,
    UNFILE,
    REFILE,
    PAGE,
    EPOCH,
    LEASE,
    RENEW,
    RELEASE,
    UNLOCK,
)


# --- hash ↔ record ---------------------------------------------------------------------------------------


class _Header(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What no script looks at, as JSON in one field."""

    last_seen_at: float
    limit: float | None  # None: never, which JSON has no number for
    retained_until: float | None
    idle_timeout: float | None
    generation: int
    authenticated_at: float | None
    cycle_due: float | None
    priority: int
    accepted: Mapping[int, Grace]
    floors: tuple[int, ...]
    metadata: Mapping[str, Any]


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(_Header).decode
_header_of = attrgetter(*_Header.__struct_fields__)
_DAMAGE: Final = (msgspec.MsgspecError, KeyError, ValueError, RecursionError)


class Stored(NamedTuple):
    """A record as it was read."""

    record: Record

    @property
    def mark(self) -> tuple[str, ...]:
        """Fields by which a script knows that it is the same. The secret tells sessions of one id apart."""
        return ("v", str(self.record.version), "k", self.record.secret)


class Found(NamedTuple):
    """What lies under the key of a session: nothing, how it ended, or a record that may be over."""

    answer: LoadAnswer
    stored: Stored | None


def record_of(found: Hash) -> Record:
    """Raises `SessionDataError`; the values stay as they are and are not looked at."""
    try:
        header = _decode_header(found[b"h"])
        user_id, status = found.get(b"u"), found.get(b"t")
        return Record(
            id=SessionId(found[b"i"].decode()),
            secret=found[b"k"].decode(),
            version=int(found[b"v"]),
            created_at=float(found[b"c"]),
            deadline=float(found[b"d"]),
            limit=math.inf if header.limit is None else header.limit,
            last_seen_at=header.last_seen_at,
            retained_until=header.retained_until,
            idle_timeout=header.idle_timeout,
            generation=header.generation,
            authenticated_at=header.authenticated_at,
            cycle_due=header.cycle_due,
            priority=header.priority,
            accepted=header.accepted,
            floors=header.floors,
            metadata=header.metadata,
            user_id=None if user_id is None else user_id.decode(),
            status=None if status is None else status.decode(),
            data=Values(found[b"s"]),
        )
    except _DAMAGE as problem:
        raise SessionDataError("the stored record cannot be read; its key was left as it is") from problem


def readable(found: Hash) -> Record | None:
    """The record; None for an ending, and for what cannot be read: `load` tells of it."""
    try:
        return record_of(found) if is_session(found) else None
    except SessionDataError:
        return None


def is_session(found: Hash) -> bool:
    """Not an ending, and not nothing."""
    return bool(found) and b"x" not in found


def answer_of(id_: SessionId, found: Hash, epoch: Epoch, now: float) -> Found:
    """What `Port.load` answers."""
    if not found:
        return Found(None, None)
    if found.get(b"i") != id_.encode():
        raise BackendCorrupt("Redis: the answer belongs to another session, or its key was written by others")
    if b"x" in found:
        by = found.get(b"b")
        return Found(
            Ended(found[b"x"].decode(), float(found[b"a"]), None if by is None else by.decode()), None
        )
    record = record_of(found)
    ended = ending_of(record, epoch, now)
    return Found(record, Stored(record)) if ended is None else Found(ended, None)


def fields_of(record: Record) -> dict[str, Any]:
    """The whole hash."""
    filed = {"u": record.user_id, "t": record.status}
    return {
        "i": record.id,
        "k": record.secret,
        "c": repr(record.created_at),
        **changing_of(record),
        **{name: value for name, value in filed.items() if value is not None},
        "s": record.data.packed,
    }


def changing_of(record: Record) -> dict[str, Any]:
    """The fields that each commit changes."""
    header = list(_header_of(record))
    if record.limit == math.inf:
        header[1] = None
    try:
        written = _encode(header)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as problem:
        raise SessionDataError("metadata must be JSON: text keys, and plain values") from problem
    return {"v": str(record.version), "d": repr(record.deadline), "h": written}


def salvaged_of(found: Hash) -> dict[str, Any]:
    """Whatever fields of a record can be read."""
    plain: Mapping[str, tuple[bytes, Any]] = {
        "id": (b"i", bytes.decode),
        "secret": (b"k", bytes.decode),
        "version": (b"v", int),
        "created_at": (b"c", float),
        "deadline": (b"d", float),
        "user_id": (b"u", bytes.decode),
        "status": (b"t", bytes.decode),
    }
    fields: dict[str, Any] = {"user_id": None, "status": None}
    for name, (key, read) in plain.items():
        try:
            fields[name] = read(found[key])
        except (KeyError, ValueError):
            continue
    try:
        header = _decode_header(found[b"h"])
    except _DAMAGE:
        return fields
    fields |= {name: getattr(header, name) for name in _Header.__struct_fields__}
    return {**fields, "limit": math.inf if header.limit is None else header.limit}


def epoch_of(found: Hash) -> Epoch:
    """The moment that is kept."""
    if not found:
        return NO_EPOCH
    by = found.get(b"by")
    reason = found[b"reason"].decode()
    return Epoch(float(found[b"before"]), float(found[b"at"]), reason, None if by is None else by.decode())


def hash_of(answer: Iterable[bytes]) -> Hash:
    """What a script answers for HGETALL: a flat list."""
    flat = iter(answer)
    return HiddenMap(zip(flat, flat, strict=True))


def scored(answer: Sequence[bytes]) -> list[tuple[SessionId, float]]:
    """Ids with scores, which come as a flat list."""
    return [(SessionId(answer[i].decode()), float(answer[i + 1])) for i in range(0, len(answer), 2)]


def ids_of(answer: Iterable[bytes]) -> list[SessionId]:
    """Ids."""
    return [SessionId(one.decode()) for one in answer]


def milliseconds_left(until: float, now: float, slack: float = _SLACK) -> str | int:
    """How long Redis keeps it: a while longer than it lives, so that cleanup can tell of it."""
    return _NEVER if until == math.inf else int((max(0.0, until - now) + slack) * 1000)


def end_arguments(
    id_: str, ending: Ended, known: Sequence[bytes] = (), live: tuple[float, Epoch] | None = None
) -> list[Any]:
    """Of `END`. *known*: fields and values as they must be, in turn. *live*: only if it is, then."""
    lives_at = ("", "0") if live is None else (repr(live[0]), repr(live[1].before))
    by = "" if ending.by is None else ending.by
    told = (id_, ending.reason, repr(ending.at), by, int(ENDINGS_KEPT * 1000))
    return [len(known) // 2, *known, *lives_at, *told]


def lives(found: Hash, epoch: Epoch, now: float, *, unreadable: bool = False) -> bool:
    """Whether a session lives, by what can be read of it. *unreadable*: what to say if that is not enough."""
    if not is_session(found):
        return False
    try:
        return float(found[b"d"]) > now and float(found[b"c"]) >= epoch.before
    except (KeyError, ValueError):
        return unreadable


def rank_of(record: Record) -> float:
    """Who goes first, where there are too many, as one number of 53 bits: by priority, whether it is a
    user's, and the millisecond in which it was last seen. Exact for priorities of -500 to 500.
    """
    priority = min(max(record.priority, -500), 500) + 500
    seen = min(max(int(record.last_seen_at * 1000), 0), 2**42 - 1)
    return float((priority * 2 + (record.user_id is not None)) * 2**42 + seen)
