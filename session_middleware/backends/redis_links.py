"""Connections to Redis: who sends commands, how, and what an error means.

Reading order: `Links` (what both colours do), `BlockingLinks` (a pool for threads), `AsyncLinks` (two lanes
an event loop), `translated` (errors).

Under asyncio whatever waits at the same moment shares one pipeline, which a task of its own sends: so a
caller who is cancelled costs no connection, and can never be given another one's answer. What looks at many
sessions has a lane of its own, so that requests do not wait for it.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final

from session_middleware.backends.coalesce import Lane
from session_middleware.backends.hiding import Hidden, HiddenBytes, HiddenList
from session_middleware.backends.redis_clients import is_cluster, listener_of, redis
from session_middleware.backends.redis_store import LASTING, SCRIPTS, Command, Keys, Script, Store, hash_of
from session_middleware.errors import (
    BackendClosed,
    BackendCorrupt,
    BackendError,
    BackendFull,
    BackendReadOnly,
    BackendUnavailable,
    ConfigurationError,
    SessionDataError,
)
from session_middleware.loops import heed_cancellation, running_library
from session_middleware.record import SessionId

__all__ = ["AsyncLinks", "BlockingLinks", "Links", "translated"]

_ATTEMPTS: Final = 2  # of what may be repeated: the first may meet a connection that the server has ended
_TOGETHER: Final = 128  # operations that share a pipeline
_OF_THE_WAIT: Final = 0.8  # how much of it replicas have: the answer must come before we give up
_SILENCE: Final = 10.0  # seconds after which who watches asks whether the server is still there
_SILENCES: Final = 2


class Links(Store):
    """Commands go out by `_exchange`, which a colour brings."""

    def __init__(self, keys: Keys, wait: float, *, in_order: bool, replicas: int) -> None:
        self._replicas = replicas  # that must have a change before it is answered
        self.keys = keys
        self.wait = wait
        self.is_closed = False
        self._in_order = in_order  # one server does the commands of a pipeline one after the other

    async def ask(self, *stages: Sequence[Command], again: bool = False, slow: bool = False) -> list[Any]:
        """See `Store.ask`."""
        if self.is_closed:
            raise _closed()
        parts = [[command for stage in stages for command in stage]] if self._in_order else stages
        answers: list[Any] = HiddenList()
        for part in parts:
            if part:
                answers += await self._answers(part, _ATTEMPTS if again else 1, slow=slow)
        return answers

    async def _answers(self, commands: Sequence[Command], attempts: int, *, slow: bool) -> Sequence[Any]:
        waits = self._replicas > 0 and any(_lasts(command) for command in commands)
        if waits:
            commands = [*commands, ("WAIT", self._replicas, int(self.wait * 1000 * _OF_THE_WAIT))]
        try:
            answers = await self._exchange(commands, slow=slow)
        except redis.RedisError as problem:
            if attempts > 1 and isinstance(problem, redis.ConnectionError):
                return await self._answers(commands, attempts - 1, slow=slow)
            raise translated(problem) from problem
        except (UnicodeError, redis.DataError) as problem:
            # Without the cause, in whose frames is what could not be sent.
            raise SessionDataError(f"Redis cannot hold this record: {type(problem).__name__}") from None
        for answer in answers:
            if isinstance(answer, Exception):
                raise translated(answer) from answer
        if waits and answers[-1] < self._replicas:
            raise BackendUnavailable(
                f"Redis: {answers[-1]} of {self._replicas} replicas have the change", unknown=True
            )
        return answers[:-1] if waits else answers

    @abstractmethod
    async def _exchange(self, commands: Sequence[Command], *, slow: bool) -> Sequence[Any]: ...


def _closed() -> BackendClosed:
    """After `close`."""
    return BackendClosed("Redis was closed: call open(), or start() the manager, first")


def _lasts(command: Command) -> bool:
    return len(command) > 1 and isinstance(command[1], Script) and command[1] in LASTING


def _sent(command: Command) -> Command:
    return Hidden(part.sha if isinstance(part, Script) else part for part in command)


def _packed(connection: Any, commands: Sequence[Command]) -> HiddenList:
    return HiddenList(map(HiddenBytes, connection.pack_commands(map(_sent, commands))))


def _answer_of(command: Command, answer: Any) -> Any:
    """As redis-py's clients shape it."""
    return hash_of(answer) if command[0] == "HGETALL" and isinstance(answer, list) else answer


def _unknown(commands: Sequence[Command], answers: Sequence[Any]) -> list[int]:
    """Which were not run because the server has forgotten their script."""
    missing = (at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError))
    return [at for at in missing if isinstance(commands[at][1], Script)]


class BlockingLinks(Links):
    """For threads, which share the client's pool."""

    def __init__(
        self, make: Callable[[float], Any], keys: Keys, wait: float, *, is_ours: bool, **how: Any
    ) -> None:
        super().__init__(keys, wait, **how)
        self._make = make
        self._is_ours = is_ours
        self._client: Any = None
        self._making = threading.Lock()

    async def pause(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)  # noqa: ASYNC251  (the blocking colour: no event loop runs here)

    def bound(self, seconds: float) -> None:
        """Wait no longer than this."""
        if seconds < self.wait:
            self.wait = seconds
            self._drop()

    async def _exchange(self, commands: Sequence[Command], *, slow: bool) -> Sequence[Any]:  # noqa: ARG002  (a pool has room)
        client = self._client
        if client is None:
            with self._making:
                client = self._client = self._client or self._make(self.wait)
        answers = _piped(client, commands)
        forgotten = _unknown(commands, answers)
        if forgotten:
            for script in SCRIPTS:
                client.script_load(str(script))
            for at, answer in zip(forgotten, _piped(client, [commands[at] for at in forgotten]), strict=True):
                answers[at] = answer
        return answers

    def close(self) -> None:
        """Close the connections."""
        self.is_closed = True
        self._drop()

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._is_ours:
            client.close()


def _piped(client: Any, commands: Sequence[Command]) -> list[Any]:
    if is_cluster(client):
        with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*_sent(command))
            spread: list[Any] = pipe.execute(raise_on_error=False)
            return spread
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(_packed(connection, commands), check_health=False)
        return HiddenList(_answer_of(command, _read(connection)) for command in commands)
    finally:
        pool.release(connection)


def _read(connection: Any) -> Any:
    """The next answer, or the error that the server gave instead. Any other error closes the connection."""
    try:
        return connection.read_response()
    except redis.ResponseError as refusal:
        return refusal


class _OfLoop:
    """The client and the lanes of one event loop."""

    def __init__(self, client: Any, wait: float, shared: Command) -> None:
        """*shared*: a command that is sent once, as the last one, for all in a pipeline who have it."""
        self.client = client
        self._wait = wait
        self._shared = shared
        self.quick: Lane[Sequence[Command]] = Lane(self._serve, most=_TOGETHER, apart=True)
        self.slow: Lane[Sequence[Command]] = Lane(self._serve, most=_TOGETHER, apart=True)

    async def _serve(self, operations: Sequence[Sequence[Command]]) -> Sequence[list[Any]]:
        shared = self._shared
        every = [command for operation in operations for command in operation]
        commands = [command for command in every if command is not shared]
        if len(commands) < len(every):
            commands.append(shared)
        answers = await self._piped(commands)
        forgotten = _unknown(commands, answers)
        if forgotten:
            for script in SCRIPTS:
                await self.client.script_load(str(script))
            for at, answer in zip(
                forgotten, await self._piped([commands[at] for at in forgotten]), strict=True
            ):
                answers[at] = answer
        flat, last = iter(answers), answers[-1]
        return [
            HiddenList(last if command is shared else next(flat) for command in operation)
            for operation in operations
        ]

    async def _piped(self, commands: Sequence[Command]) -> list[Any]:
        """A pipeline without redis-py's, which takes as long again for so few commands."""
        if is_cluster(self.client):
            async with self.client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*_sent(command))
                spread: list[Any] = await pipe.execute(raise_on_error=False)
                return spread
        pool = self.client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(_packed(connection, commands), check_health=False)
            answers = HiddenList()
            async with asyncio.timeout(self._wait):  # for all of them: redis-py's own is set anew for each
                for command in commands:
                    answers.append(_answer_of(command, await _read_apart(connection)))
        except TimeoutError as problem:
            raise redis.TimeoutError("Timeout reading answers") from problem
        else:
            return answers
        finally:
            await pool.release(connection)


async def _read_apart(connection: Any) -> Any:
    """As `_read`."""
    try:
        return await connection.read_response(timeout=math.inf)
    except redis.ResponseError as refusal:
        return refusal


class AsyncLinks(Links):
    """For asyncio, any number of event loops."""

    def __init__(
        self, make: Callable[[float], Any], keys: Keys, wait: float, *, is_ours: bool, **how: Any
    ) -> None:
        super().__init__(keys, wait, **how)
        self._make = make
        self._is_ours = is_ours
        self._pid = os.getpid()
        self._loops: dict[asyncio.AbstractEventLoop, tuple[_OfLoop, AsyncGenerator[None, None]]] = {}

    async def pause(self, seconds: float) -> None:
        """Suspends."""
        await asyncio.sleep(seconds)

    async def _exchange(self, commands: Sequence[Command], *, slow: bool) -> Sequence[Any]:
        loop = await self._of_this_loop()
        answer: Any = await (loop.slow if slow else loop.quick).do(commands)
        if isinstance(answer, Exception):
            raise answer
        answers: Sequence[Any] = answer
        return answers

    async def _of_this_loop(self) -> _OfLoop:
        if running_library() != "asyncio":
            raise ConfigurationError("backend: Redis's async port runs under asyncio alone (redis-py)")
        if self._pid != os.getpid():
            _inherited.append(self._loops)
            self._pid, self._loops = os.getpid(), {}
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            made = _OfLoop(self._make(self.wait), self.wait, self.keys.ask_epoch)
            keeper = self._kept(loop, made.client)
            self._loops[loop] = made, keeper
            await anext(keeper)
        return self._loops[loop][0]

    async def _kept(self, loop: asyncio.AbstractEventLoop, client: Any) -> AsyncGenerator[None, None]:
        """Closes the client when the loop ends: whoever runs a loop closes the generators open in it."""
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            if self._is_ours:
                await client.aclose()

    async def watch(self) -> AsyncGenerator[SessionId | None, None]:
        """See `Watching.watch`. On a connection of its own."""
        if self.is_closed:
            raise _closed()
        loop = await self._of_this_loop()
        client = await listener_of(loop.client)
        channel = client.pubsub()
        try:
            await channel.subscribe(self.keys.endings)
            heed_cancellation()
            yield None
            silent = 0
            while silent < _SILENCES:
                heed_cancellation()
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=_SILENCE)
                silent = silent + 1 if message is None else 0
                if silent:
                    await channel.ping()  # the answer counts as a message
                    heed_cancellation()
                elif message["type"] == "message":
                    yield SessionId(message["data"].decode()) or None
            raise BackendUnavailable(f"Redis: no sign of life for {_SILENCE * _SILENCES} s")
        except redis.RedisError as problem:
            raise translated(problem) from problem
        finally:
            await channel.aclose()
            if client is not loop.client:
                await client.aclose()

    async def aclose(self) -> None:
        """Finish what was begun, and close the connections of this event loop. Others go with their loops."""
        self.is_closed = True
        known = self._loops.get(asyncio.get_running_loop()) if self._pid == os.getpid() else None
        if known is not None:
            loop, keeper = known
            await loop.quick.drain()
            await loop.slow.drain()
            await keeper.aclose()


_inherited: list[object] = []
"""Of the parent process of a fork: not even closed, since that would say goodbye in its name."""


# --- errors --------------------------------------------------------------------------------------------


# By class where redis-py has one, else by what the server says; within a script it says more around it.
_BY_KIND: Final[tuple[tuple[type[Exception], type[BackendError]], ...]] = (
    (redis.exceptions.OutOfMemoryError, BackendFull),
    (redis.exceptions.ReadOnlyError, BackendReadOnly),
    (redis.exceptions.NoPermissionError, BackendReadOnly),
)
_BY_WORD: Final[tuple[tuple[str, type[BackendError]], ...]] = (
    ("OOM command not allowed", BackendFull),
    ("MISCONF", BackendReadOnly),
    ("READONLY", BackendReadOnly),
    ("WRONGTYPE", BackendCorrupt),
)
_NOT_CONNECTED: Final = ("connecting to", "No connection available", "AUTH", "authentication", "password")


def translated(problem: Exception) -> Exception:
    """Ours for one of redis-py's; any other as it is."""
    if not isinstance(problem, redis.RedisError):
        return problem
    told = str(problem).partition("\n")[0] or type(problem).__name__
    for kind, ours in _BY_KIND:
        if isinstance(problem, kind):
            return ours(f"Redis: {told}")
    if isinstance(problem, redis.ResponseError):
        for word, ours in _BY_WORD:
            if word in told:
                return ours(f"Redis: {told}")
        return BackendUnavailable(f"Redis: {told}")
    sent = not any(word in told for word in _NOT_CONNECTED)
    if isinstance(problem, redis.exceptions.BusyLoadingError | redis.AuthenticationError):
        sent = False
    return BackendUnavailable(f"Redis: {told}", unknown=sent)
