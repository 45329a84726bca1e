"""A client may leave at any moment: a plan is carried out whole or not at all, and nothing is left behind."""

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

import anyio
import pytest

from session_middleware import Session, SQLiteBackend
from session_middleware.backends.base import Backend
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import App, Client, FaultyBackend, FaultyPort, Site, page, put

pytestmark = pytest.mark.anyio
MOST = 400  # suspensions of one request; far more than there are


class Interrupted:
    """Awaits *coroutine*, but at its suspension number *at* throws `CancelledError` into it."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], at: int) -> None:
        self.coroutine = coroutine
        self.at = at
        self.suspensions = 0

    @property
    def was_hit(self) -> bool:
        return self.suspensions >= self.at

    def __await__(self) -> Generator[Any, Any, None]:
        step = partial(self.coroutine.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration:
                return
            self.suspensions += 1
            if self.suspensions == self.at:
                step = partial(self.coroutine.throw, asyncio.CancelledError())
                continue
            try:
                yield awaited
            except BaseException as problem:  # noqa: BLE001  (it goes on into the coroutine)
                step = partial(self.coroutine.throw, problem)
            else:
                step = partial(self.coroutine.send, None)


def suspending(action: Any) -> App:
    """Does *action* between suspensions, and makes a late change after the response has left."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        action(scope["session"])
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"two"})

    return app


def request(client: Client) -> Coroutine[Any, Any, None]:
    """One request, whose `send` suspends, as an ASGI server runs it."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        client.keep(message.get("headers") or ())

    coroutine: Coroutine[Any, Any, None] = client.app(client.scope(), receive, send)  # type: ignore[assignment]
    return coroutine


async def settle(site: Site) -> None:
    """Let what goes on in the background finish; afterwards nothing may be left."""
    await site.manager.finisher.drain()
    await asyncio.sleep(0)
    assert list(site.manager.activity) == []
    assert len(site.manager.activity) == 0
    assert site.manager.finisher._tasks == set()


async def begin(site: Site) -> Client:
    """A browser that is signed in as ada, with two values."""
    client = site.new_client()

    def sign_in(session: Session) -> None:
        session.update(a=1, b=1)
        session.login("ada")

    await site.visit(page(sign_in), client)
    site.clock.advance(60)
    return client


async def live(site: Site, user: str) -> list[dict[str, Any]]:
    return [dict(session) for session in await site.manager.get_user_sessions(user)]


async def is_untouched(site: Site) -> bool:
    return await live(site, "ada") == [{"a": 1, "b": 1}] and await live(site, "bob") == []


async def both_changed(site: Site) -> bool:
    return await live(site, "ada") == [{"a": 2, "b": 2}]


async def another_user(site: Site) -> bool:
    return await live(site, "ada") == [] and len(await live(site, "bob")) == 1


async def is_ended(site: Site) -> bool:
    return await live(site, "ada") == []


def start_anew(session: Session) -> None:
    session.logout()
    session["new"] = 1


CASES: list[Any] = [
    pytest.param(put(a=2, b=2), both_changed, id="two values"),
    pytest.param(lambda session: session.login("bob"), another_user, id="login over another user"),
    pytest.param(lambda session: session.logout(), is_ended, id="logout"),
    pytest.param(start_anew, is_ended, id="logout, then a new session"),
]


@pytest.mark.parametrize(("action", "is_done"), CASES)
@pytest.mark.parametrize("how", ["by hand", "anyio"])
async def test_cancelled_anywhere_the_plan_is_carried_out_whole_or_not_at_all(
    make_site: MakeSite,
    backend: Backend,
    faulty: FaultyBackend,
    faults: FaultyPort,
    action: Any,
    is_done: Any,
    how: str,
) -> None:
    site = make_site(backend=faulty)
    faults.pauses = 1
    outcomes: list[bool] = []
    # An anyio scope is cancelled after so many turns of the loop, and how many pass while SQLite's thread
    # works is chance: by hand every point is reached, here the first ones.
    by_chance = how == "anyio" and isinstance(backend, SQLiteBackend)
    for at in range(1, 25 if by_chance else MOST):
        client = await begin(site)
        site.middleware.app = suspending(action)
        hit = await (interrupt if how == "by hand" else cancel_scope)(request(client), at)
        await settle(site)
        done = await is_done(site)
        assert done or await is_untouched(site), f"half done when cancelled at suspension {at}"
        outcomes.append(done)
        for user in ("ada", "bob"):
            await site.manager.delete_user_sessions(user)
        if not hit:
            break
    assert by_chance or not hit
    assert by_chance or outcomes[-1]
    if how == "by hand" and action is CASES[0].values[0]:
        assert outcomes == sorted(outcomes)  # not done at first, done from some suspension on
        assert not outcomes[0]


async def interrupt(coroutine: Coroutine[Any, Any, None], at: int) -> bool:
    interrupted = Interrupted(coroutine, at)
    try:
        await interrupted
    except asyncio.CancelledError:
        assert interrupted.was_hit
    return interrupted.was_hit


async def cancel_scope(coroutine: Coroutine[Any, Any, None], after: int) -> bool:
    """Cancelled as anyio does it: again at every further suspension."""

    ended = False

    async def run() -> None:
        nonlocal ended
        await coroutine
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(after):
            await asyncio.sleep(0)
        was_running = not ended
        group.cancel_scope.cancel()
    return was_running


async def test_the_harness_does_cancel() -> None:
    reached: list[int] = []

    async def steps() -> None:
        for number in range(3):
            await asyncio.sleep(0)
            reached.append(number)

    with pytest.raises(asyncio.CancelledError):
        await Interrupted(steps(), 2)
    assert reached == [0]


async def hold_and_cancel(site: Site, faults: FaultyPort, operation: str, app: App) -> None:
    """Cancel a request while *operation* is under way, then let that go on."""
    held = faults.hang(operation)
    site.middleware.app = app
    faults.log.clear()
    task = asyncio.ensure_future(request(site.client))
    while operation not in faults.log:  # noqa: ASYNC110  (one turn of the loop at a time)
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(site.manager.activity) == 0
    held.set()
    await settle(site)
    faults.slow.clear()


async def test_a_started_commit_completes(faulty_site: Site, faults: FaultyPort) -> None:
    await faulty_site.visit(page(put(n=1)))
    await hold_and_cancel(faulty_site, faults, "commit", page(put(n=2)))
    assert await faulty_site.value("n") == 2


async def test_a_started_commit_is_not_done_again_at_the_requests_end(
    make_site: MakeSite, faulty: FaultyBackend, faults: FaultyPort
) -> None:
    site = make_site(backend=faulty, save_on_error=True)
    await site.visit(page(put(n=1)))
    await hold_and_cancel(site, faults, "commit", page(lambda session: session.increment("n") and None))
    assert (faults.log.count("commit"), await site.value("n")) == (1, 2)


async def test_a_started_logout_completes_and_happens_once(faulty_site: Site, faults: FaultyPort) -> None:
    await faulty_site.visit(page(put(n=1)))
    await hold_and_cancel(faulty_site, faults, "delete", page(lambda session: session.logout()))
    assert faults.log.count("delete") == 1
    assert [event.name for event in faulty_site.named("session_deleted", "session_deletion_failed")] == [
        "session_deleted"
    ]


async def test_a_client_that_leaves_during_the_load_leaves_nothing(
    faulty_site: Site, faults: FaultyPort
) -> None:
    await faulty_site.visit(page(put(n=1)))
    await hold_and_cancel(faulty_site, faults, "load", page(put(n=2)))
    assert await faulty_site.value("n") == 1


async def test_a_logout_that_was_asked_for_is_done_although_the_handler_is_cancelled(site: Site) -> None:
    asked = asyncio.Event()

    async def handler(session: Session) -> None:
        session.logout()
        asked.set()
        await asyncio.Event().wait()

    await site.visit(page(put(n=1)))
    site.middleware.app = page(handler)
    task = asyncio.ensure_future(request(site.client))
    await asked.wait()
    task.cancel()
    await asyncio.wait([task])
    await settle(site)
    assert await site.stored() == []


async def suspended(site: Site, action: Any) -> Coroutine[Any, Any, None]:
    """A request of the site's client, as far as the middle of its handler, which did *action*."""
    waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handler(session: Session) -> None:
        action(session)
        waits.set_result(None)
        await asyncio.sleep(0)

    site.middleware.app = page(handler)
    coroutine = request(site.client)
    while not waits.done():
        awaited = coroutine.send(None)
        if awaited is None:
            continue
        awaited._asyncio_future_blocking = False
        await asyncio.wait([awaited])
    return coroutine


async def test_a_request_may_be_closed_and_a_logout_it_was_asked_for_is_done_all_the_same(site: Site) -> None:
    await site.visit(page(put(n=1)))
    coroutine = await suspended(site, lambda session: session.logout())
    coroutine.close()  # as the garbage collector does: nothing may be awaited from here on
    await settle(site)
    assert await site.stored() == []


async def test_a_request_that_is_closed_saves_nothing_and_is_over_at_once(site: Site) -> None:
    await site.visit(page(put(n=1)))
    coroutine = await suspended(site, put(n=2))
    coroutine.close()
    assert len(site.manager.activity) == 0
    await settle(site)
    assert await site.stored() == [{"n": 1}]


async def test_a_request_that_is_closed_after_its_event_loop_has_ended_leaves_nothing(
    site: Site, anyio_backend: str
) -> None:
    await site.visit(page(put(n=1)))
    coroutine = await suspended(site, lambda session: session.logout())
    thread = await asyncio.to_thread(coroutine.close)  # where no loop runs
    assert thread is None
    await settle(site)
