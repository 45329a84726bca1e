"""Histories of concurrent operations, recorded on a real backend and checked for linearizability.

Reading order: the calls a client makes (`Load`, `Create`, `Commit`, `Delete`) and `perform`; `step`, which
says what each means for one session when nothing else happens; `is_linearizable`, the checker; `Recorder` and
the random programs; the four ways to run them (`record_async`, `record_interleaved`, `record_threads`,
`record_processes`).

The checker is that of Wing and Gong (1993) with Lowe's memo (2017). It looks for one order of the operations
that respects real time (what had returned before another was invoked comes first) and in which `step` gives
every answer that was seen. An operation of unknown outcome (its caller was cancelled or killed) may happen at
any time after its invocation, or never. `record.apply` is the meaning of a commit, as everywhere.

Programs are random but seeded. All calls of a history name one and the same `now`: what a backend makes of
callers whose clocks differ is the business of the contract's cases. Histories are short and many: the search
is exponential in the operations that overlap, and a wrong backend shows within few of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from session_middleware.backends.base import Backend, Colour, LoadAnswer, Port, expiry_reason
from session_middleware.blocking import run_blocking
from session_middleware.errors import BackendError, SessionDataError
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
)
from session_middleware.values import Values

__all__ = [
    "START",
    "Answer",
    "Call",
    "Commit",
    "Create",
    "Delete",
    "Load",
    "Operation",
    "Outcome",
    "Pause",
    "Recorder",
    "Shape",
    "describe",
    "is_linearizable",
    "perform",
    "record_async",
    "record_interleaved",
    "record_processes",
    "record_threads",
    "step",
]

T = TypeVar("T")

START: Final = 1_760_000_000.0
"""The `now` of every call in a history, seconds since the epoch."""


# --- what a client may ask of a session ---------------------------------------------------------------------


class Load(NamedTuple):
    """Ask for the record."""

    id: SessionId


class Create(NamedTuple):
    """Insert this record."""

    id: SessionId
    record: Record


class Commit(NamedTuple):
    """Change the record."""

    id: SessionId
    delta: Delta


class Delete(NamedTuple):
    """End the session, whatever its generation."""

    id: SessionId
    reason: str
    by: str | None


class Outcome(Enum):
    """What is recorded where a port gave no answer."""

    DATA_REFUSED = "the delta raised SessionDataError and changed nothing"
    UNKNOWN = "the caller never heard: it may have happened, may happen later, or never"


Call: TypeAlias = Load | Create | Commit | Delete
Answer: TypeAlias = LoadAnswer | CreateResult | Committed | Refused | bool | Outcome


@dataclass(frozen=True, slots=True)
class Operation:
    """One call and its answer. `returned` is None where the outcome is unknown.

    `invoked` and `returned` are readings of one clock that all clients of the history share.
    """

    client: int
    call: Call
    invoked: int
    returned: int | None = None
    answer: Answer = Outcome.UNKNOWN


async def perform(port: Port, call: Call) -> Answer:
    """The port's answer to this call."""
    match call:
        case Load(id_):
            return await port.load(id_, START)
        case Create(_, record):
            return await port.create(record, START)
        case Commit(id_, delta):
            return await port.commit(id_, delta, START)
        case Delete(id_, reason, by):
            return await port.delete(id_, START, reason, by)


# --- the sequential model -----------------------------------------------------------------------------------


def step(state: LoadAnswer, call: Call) -> tuple[LoadAnswer, Answer]:
    """The session after this call, and the only right answer to it.

    A state is what a load at `START` answers, save that an expired record is still kept: None, why the
    session ended, or its record.
    """
    record = state if isinstance(state, Record) and state.deadline > START else None
    match call:
        case Load():
            return state, _seen(state)
        case Create(_, new):
            return (state, EXISTS) if record is not None or isinstance(state, Ended) else (new, CREATED)
        case Commit(_, delta):
            return (state, GONE) if record is None else _committed(record, delta)
        case Delete(_, reason, by):
            return (state, False) if record is None else (Ended(reason, START, by), True)


def _seen(state: LoadAnswer) -> LoadAnswer:
    if isinstance(state, Record) and state.deadline <= START:
        return Ended(expiry_reason(state), state.deadline)
    return state


def _committed(record: Record, delta: Delta) -> tuple[Record, Answer]:
    try:
        applied = apply(record, delta, START)
    except SessionDataError:
        return record, Outcome.DATA_REFUSED
    return (record, applied) if isinstance(applied, Refused) else applied


# --- the checker --------------------------------------------------------------------------------------------


def is_linearizable(history: Iterable[Operation]) -> bool:
    """True where every session's operations have an order that explains all answers.

    No session exists before the history begins.
    """
    sessions: defaultdict[SessionId, list[Operation]] = defaultdict(list)
    for operation in history:
        sessions[operation.call.id].append(operation)
    return all(_Search(operations).succeeds(0, None) for operations in sessions.values())


class _Search:
    """Depth first over the orders of one session's operations; a set bit in `done` is one already placed."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = sorted(operations, key=lambda operation: operation.invoked)
        self._required = sum(1 << i for i, op in enumerate(self._operations) if op.returned is not None)
        self._failed: set[tuple[int, object]] = set()

    def succeeds(self, done: int, state: LoadAnswer) -> bool:
        if done & self._required == self._required:
            return True
        position = (done, _hashable(state))
        if position in self._failed:
            return False
        self._failed.add(position)
        return any(self.succeeds(done | bit, after) for bit, after in self._next(done, state))

    def _next(self, done: int, state: LoadAnswer) -> Iterable[tuple[int, LoadAnswer]]:
        """Each operation that may come next and whose answer fits, with the state it leaves."""
        left = [(1 << i, op) for i, op in enumerate(self._operations) if not done & 1 << i]
        horizon = min(op.returned for _, op in left if op.returned is not None)
        for bit, operation in left:
            if operation.invoked > horizon:  # something else had returned before this one began
                return
            after, answer = step(state, operation.call)
            if operation.returned is None:
                if after is not state:  # one that changes nothing may as well never happen
                    yield bit, after
            elif answer == operation.answer:
                yield bit, after


def _hashable(state: LoadAnswer) -> object:
    """Equal only for equal states. (Equal states may differ here: that costs a little search, no more.)"""
    if not isinstance(state, Record):
        return state
    return tuple(_hashable_field(getattr(state, name)) for name in Record.__struct_fields__)


def _hashable_field(value: Any) -> object:
    if isinstance(value, Values):
        return value.packed
    return repr(value) if isinstance(value, Mapping) else value


def describe(history: Iterable[Operation]) -> str:
    """The history as text, one line an operation, for a failure message. Holds no secrets."""
    ordered = sorted(history, key=lambda operation: operation.invoked)
    return "\n".join(
        f"client {op.client} [{op.invoked}, {'?' if op.returned is None else op.returned}] "
        f"{_call_text(op.call)} -> {op.answer!r}"
        for op in ordered
    )


def _call_text(call: Call) -> str:
    if isinstance(call, Commit):
        changes = {
            n: v for n in Delta.__struct_fields__ if (v := getattr(call.delta, n)) != getattr(Delta(), n)
        }
        return f"Commit({call.id}, {changes})"
    return repr(call)


# --- recording ----------------------------------------------------------------------------------------------


class Recorder:
    """Makes calls for clients and notes when each began, when it ended and what was answered.

    `tick` reads the clock that all clients share. `tell(key, operation)` gets every operation twice: when it
    is invoked (outcome unknown) and when it is over; None in place of one that certainly did nothing.
    """

    def __init__(self, tick: Callable[[], int], tell: Callable[[int, Operation | None], None]) -> None:
        self._tick = tick
        self._tell = tell
        self._keys = count()

    async def call(self, client: int, port: Port, call: Call) -> Answer:
        """The port's answer, recorded. A cancelled call stays in the history with its outcome unknown."""
        key = next(self._keys)
        operation = Operation(client, call, self._tick())
        self._tell(key, operation)
        try:
            answer = await perform(port, call)
        except SessionDataError:
            answer = Outcome.DATA_REFUSED
        except BackendError as problem:
            if not problem.unknown:
                self._tell(key, None)
            return Outcome.UNKNOWN
        self._tell(key, Operation(client, call, operation.invoked, self._tick(), answer))
        return answer


class _Notes:
    """Where operations told by recorders come together."""

    def __init__(self) -> None:
        self._operations: dict[object, Operation] = {}

    def tell(self, key: object, operation: Operation | None) -> None:
        if operation is None:
            self._operations.pop(key, None)
        else:
            self._operations[key] = operation

    def begun_by(self, client: int) -> int:
        return sum(operation.client == client for operation in self._operations.values())

    def history(self) -> list[Operation]:
        return list(self._operations.values())


# --- random programs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """How much happens in a history. `cancel` is the share of calls whose caller is cancelled."""

    clients: int = 6
    operations: int = 8
    sessions: int = 2
    cancel: float = 0.0


class _Program:
    """One client: it chooses its next call by chance and by what the answers before told it."""

    def __init__(self, client: int, seed: int, shape: Shape, history: int) -> None:
        self.client = client
        self.chance = Random(f"{seed}/{history}/{client}")  # noqa: S311  (repeatable, not secret)
        shared = Random(f"{seed}/{history}")  # noqa: S311  (as above)
        # Swarm testing (Groce 2012): few kinds of change per history, so that those few meet each other.
        self._palette = shared.sample(_PARTS, 4)
        self._sessions = [SessionId(f"history-{seed}-{history}-{n}") for n in range(shape.sessions)]
        self._known: dict[SessionId, tuple[int, int]] = {}  # generation and version last heard of
        self._made = count()

    def first_call(self) -> Call:
        """A create: so histories seldom are about sessions that do not exist."""
        return self._create(self.chance.choice(self._sessions))

    def next_call(self) -> Call:
        id_ = self.chance.choice(self._sessions)
        drawn = self.chance.random()
        if drawn < 0.3:  # noqa: PLR2004  (the mix: loads, commits, creates, deletes)
            return Load(id_)
        if drawn < 0.8:  # noqa: PLR2004
            return Commit(id_, self._delta(id_))
        if drawn < 0.92:  # noqa: PLR2004
            return self._create(id_)
        return Delete(id_, f"reason-{self._mark()}", self.chance.choice([None, "admin"]))

    def last_calls(self) -> list[Call]:
        """Loads, to pin down what a history left behind."""
        return [Load(id_) for id_ in self._sessions]

    def learn(self, call: Call, answer: Answer) -> None:
        if isinstance(answer, Record | Committed):
            self._known[call.id] = (answer.generation, answer.version)

    def _mark(self) -> str:
        return f"{self.client}.{next(self._made)}"

    def _create(self, id_: SessionId) -> Create:
        generation = int(START * 1000)
        return Create(id_, Record(
            id=id_, secret=f"secret-{self._mark()}", generation=generation, floors=(generation,),
            created_at=START, last_seen_at=START, deadline=START + 100, limit=START + 1000,
        ))  # fmt: skip

    def _delta(self, id_: SessionId) -> Delta:
        generation, version = self._known.get(id_, (int(START * 1000), 1))
        parts: dict[str, Any] = {"admitted": self.chance.choice([generation, generation, None])}
        for part in self.chance.sample(self._palette, self.chance.randint(1, 3)):
            parts.update(part(self.chance, f"{self.client}.{next(self._made)}", version))
        return Delta(**parts)


def _set(chance: Random, mark: str, _: int) -> dict[str, Any]:
    return {"set": {chance.choice("ab"): b'"%s"' % mark.encode()}}


def _rarely(chance: Random, value: float) -> float | None:
    return value if chance.random() < 0.2 else None  # noqa: PLR2004  (an ended session tells little)


_PARTS: Final[list[Callable[[Random, str, int], dict[str, Any]]]] = [
    _set,
    _set,
    lambda chance, _mark, _version: {"unset": (chance.choice("abn"),)},
    lambda chance, _mark, _version: {"increments": {chance.choice("nnnnma"): chance.choice([1, 10, -3])}},
    lambda _, _mark, _version: {"increments": {"n": 1}},
    lambda chance, _mark, _version: {"renew_to": START + chance.choice([50, 200, 900, 2000])},
    lambda chance, _mark, _version: {"expire_at": _rarely(chance, START)},
    lambda chance, _mark, _version: {"seen_at": START + chance.choice([-5, 5, 20])},
    lambda chance, _mark, _version: {"user_id": chance.choice([None, "ada", "bob"]), "limit": START + 3000},
    lambda chance, mark, _version: {"status": mark, "retained_until": _rarely(chance, START + 60)},
    lambda _, mark, _version: {"metadata": {"by": mark}},
    lambda _, _mark, _version: {"cycle": 30.0},
    lambda _, _mark, _version: {"cycle": 30.0, "start_grace": True},
    lambda chance, _mark, _version: {"cycle": chance.choice([0.0, 30.0])},
    lambda _, _mark, _version: {"start_grace": True},
    lambda chance, _mark, _version: {"cycle_due": chance.choice([0.0, 30.0])},
    lambda _, _mark, version: {"if_version": version},
]


async def _run(
    program: _Program,
    shape: Shape,
    call: Callable[[Call], Awaitable[Answer]],
    calm: Callable[[], Awaitable[None]],
) -> None:
    """One client from its first call to its last; `calm` lets others run in between."""
    asked = program.first_call()
    for _ in range(shape.operations):
        await calm()
        program.learn(asked, await call(asked))
        asked = program.next_call()


async def _run_in_one_go(program: _Program, shape: Shape, port: Port, recorder: Recorder) -> None:
    async def call(asked: Call) -> Answer:
        return await recorder.call(program.client, port, asked)

    async def calm() -> None:
        return

    await _run(program, shape, call, calm)


def _programs(seed: int, shape: Shape, history: int = 0) -> list[_Program]:
    return [_Program(client, seed, shape, history) for client in range(shape.clients)]


async def _last_look(port: Port, recorder: Recorder, seed: int, shape: Shape, history: int = 0) -> None:
    observer = _Program(shape.clients, seed, shape, history)
    for call in observer.last_calls():
        await recorder.call(observer.client, port, call)


# --- one event loop, real suspensions -----------------------------------------------------------------------


async def record_async(port: Port, seed: int, shape: Shape = Shape()) -> list[Operation]:
    """A history of concurrent tasks of the running loop; `shape.cancel` of the calls are cancelled midway."""
    notes = _Notes()
    recorder = Recorder(count().__next__, notes.tell)

    async def client(program: _Program) -> None:
        async def call(asked: Call) -> Answer:
            made = recorder.call(program.client, port, asked)
            if program.chance.random() >= shape.cancel:
                return await made
            return await _cancelled(made, after=program.chance.randrange(6))

        await _run(program, shape, call, lambda: asyncio.sleep(0))

    await asyncio.gather(*map(client, _programs(seed, shape)))
    await _last_look(port, recorder, seed, shape)
    return notes.history()


async def _cancelled(made: Coroutine[Any, Any, Answer], after: int) -> Answer:
    """The answer, if it came within *after* turns of the loop; else the caller is cancelled."""
    task = asyncio.create_task(made)
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return Outcome.UNKNOWN if task.cancelled() else task.result()


# --- no event loop: the seed alone decides who runs ---------------------------------------------------------


class Pause:
    """Awaited, it lets others run: one turn of an event loop, or of `record_interleaved`."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _pause() -> None:
    await Pause()


def record_interleaved(port: Port, seed: int, shape: Shape = Shape()) -> list[Operation]:
    """A history that is the same each time: after every `Pause` the seed chooses who goes on.

    For ports that suspend by `Pause` and nothing else.
    """
    notes = _Notes()
    recorder = Recorder(count().__next__, notes.tell)

    async def client(program: _Program) -> None:
        await _run(program, shape, lambda asked: recorder.call(program.client, port, asked), _pause)

    _interleave([client(program) for program in _programs(seed, shape)], Random(seed))  # noqa: S311  (repeatable)
    _interleave([_last_look(port, recorder, seed, shape)], Random(seed))  # noqa: S311  (repeatable)
    return notes.history()


def _interleave(running: list[Coroutine[Any, Any, None]], chance: Random) -> None:
    while running:
        chosen = chance.choice(running)
        try:
            awaited = chosen.send(None)
        except StopIteration:
            running.remove(chosen)
            continue
        if awaited is not None:
            raise TypeError(f"only a Pause can be awaited here, found {type(awaited).__name__}")


# --- threads ------------------------------------------------------------------------------------------------


def record_threads(port: Port, seed: int, shape: Shape = Shape()) -> list[Operation]:
    """A history of threads over one blocking port."""
    notes = _Notes()
    recorder = Recorder(count().__next__, notes.tell)

    def client(program: _Program) -> None:
        run_blocking(_run_in_one_go(program, shape, port, recorder))

    with ThreadPoolExecutor(shape.clients) as threads:
        list(threads.map(client, _programs(seed, shape)))
    run_blocking(_last_look(port, recorder, seed, shape))
    return notes.history()


# --- processes, one of them killed --------------------------------------------------------------------------


_Crew: TypeAlias = dict[Connection, BaseProcess]


def record_processes(
    make_backend: Callable[[], Backend],
    seed: int,
    shape: Shape = Shape(),
    *,
    histories: int = 1,
    kill: bool = False,
) -> list[list[Operation]]:
    """Histories of `shape.clients` processes over one store, all by the same clock (CLOCK_MONOTONIC).

    `make_backend` is pickled: a function of a module, or a `functools.partial` of one. The processes take
    turns through the colours of the backend. With *kill*, the first gets a SIGKILL as soon as it has begun a
    certain operation of the middle history: one that it could not finish has an unknown outcome, and the
    others go on without it.
    """
    crew = _hire(make_backend, seed, shape)
    fatal = Random(seed).randrange(2, max(3, shape.operations)) if kill else None  # noqa: S311  (repeatable)
    _collect(crew, list(crew), _Notes(), None)  # all are open
    try:
        return [
            _one_round(crew, make_backend, seed, shape, history, fatal if history == histories // 2 else None)
            for history in range(histories)
        ]
    finally:
        for pipe, process in crew.items():
            pipe.close()
            process.join()


def _hire(make_backend: Callable[[], Backend], seed: int, shape: Shape) -> _Crew:
    context = multiprocessing.get_context("spawn")
    crew: _Crew = {}
    for client in range(shape.clients):
        ours, theirs = context.Pipe()
        process = context.Process(target=_client_process, args=(make_backend, theirs, client, seed, shape))
        process.start()
        theirs.close()
        crew[ours] = process
    return crew


def _one_round(
    crew: _Crew,
    make_backend: Callable[[], Backend],
    seed: int,
    shape: Shape,
    history: int,
    fatal: int | None,
) -> list[Operation]:
    """Start all at once, collect until each is done or dead, then look at what is left."""
    notes = _Notes()
    started = [pipe for pipe in list(crew) if _start(crew, pipe, history)]
    _collect(crew, started, notes, fatal)
    _look_from_here(make_backend(), Recorder(time.monotonic_ns, notes.tell), seed, shape, history)
    return notes.history()


def _start(crew: _Crew, pipe: Connection, history: int) -> bool:
    """False for a process that died after its last history."""
    try:
        pipe.send(history)
    except OSError:
        _bury(crew, pipe)
        return False
    return True


def _collect(crew: _Crew, busy: list[Connection], notes: _Notes, fatal: int | None) -> None:
    """Take what the clients tell until each is ready for more, or dead.

    At its operation number *fatal* the first one is killed. What it had told by then is still in its pipe,
    and is read to the end.
    """
    victim = busy[0]
    while busy:
        for pipe in [pipe for pipe in wait(busy) if isinstance(pipe, Connection)]:
            told = _told(pipe)
            if told is None or told == "ready":
                busy.remove(pipe)
            else:
                client, key, operation = told
                notes.tell((client, key), operation)
            if told is None:
                _bury(crew, pipe)
            elif pipe is victim and fatal is not None and notes.begun_by(0) >= fatal:
                crew[pipe].kill()
                crew[pipe].join()
                fatal = None


def _told(pipe: Connection) -> Any:
    """One message, or None at the end of a dead process's pipe."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _bury(crew: _Crew, pipe: Connection) -> None:
    crew.pop(pipe).join()
    pipe.close()


def _look_from_here(backend: Backend, recorder: Recorder, seed: int, shape: Shape, history: int) -> None:
    async def look(port: Port) -> None:
        try:
            await _last_look(port, recorder, seed, shape, history)
        finally:
            await port.close()

    if "blocking" in backend.colours:
        run_blocking(look(backend.port("blocking")))
    else:
        asyncio.run(look(backend.port("async")))


def _client_process(
    make_backend: Callable[[], Backend], pipe: Connection, client: int, seed: int, shape: Shape
) -> None:
    backend = make_backend()
    colours: Sequence[Colour] = sorted(backend.colours)
    colour = colours[client % len(colours)]
    work = _serve(backend.port(colour), pipe, client, seed, shape)
    if colour == "blocking":
        run_blocking(work)
    else:
        asyncio.run(work)


async def _serve(port: Port, pipe: Connection, client: int, seed: int, shape: Shape) -> None:
    recorder = Recorder(time.monotonic_ns, lambda key, operation: pipe.send((client, key, operation)))
    await port.open()
    try:
        while True:
            pipe.send("ready")
            history = pipe.recv()
            await _run_in_one_go(_Program(client, seed, shape, history), shape, port, recorder)
    except EOFError:
        pass  # the parent has closed its end: enough
    finally:
        await port.close()
