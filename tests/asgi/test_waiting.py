"""What a persistence engine still holds of a session is written before a request opens that session."""

import inspect
from typing import Any

import pytest

from session_middleware.state import BlockingPersistenceEngine, PersistenceEngine
from tests.asgi.harness import FaultyPort, Site, page, put

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[PersistenceEngine, BlockingPersistenceEngine])
def engine(request: pytest.FixtureRequest, site: Site) -> Any:
    return request.param(site.manager, debounce_delay=600, on_sigterm=False)


async def of(call: Any) -> Any:
    return await call if inspect.isawaitable(call) else call


async def waiting(site: Site, engine: Any) -> Any:
    """A session of the site's client, of which something waits."""
    await site.visit(page(put(n=1)))
    session: Any = await site.manager.get_session(site.client.cookies["session"].partition(".")[0])
    session["waits"] = 1
    await of(engine.persist(session))
    assert engine.pending == 1
    return session


async def test_the_next_request_sees_it(site: Site, engine: Any) -> None:
    await waiting(site, engine)
    assert await site.value("waits") == 1
    assert engine.pending == 0


async def test_a_login_loses_nothing_of_it(site: Site, engine: Any) -> None:
    await waiting(site, engine)
    await site.visit(page(lambda session: session.login("ada")))
    assert await site.value("waits") == 1
    assert site.named("session_data_save_failed") == []


async def test_that_of_other_sessions_waits_on(site: Site, engine: Any) -> None:
    await waiting(site, engine)
    await site.visit(page(put(n=1)), site.new_client())
    assert engine.pending == 1
    await of(engine.flush_all())


async def test_a_logout_meanwhile_is_not_undone(site: Site, engine: Any) -> None:
    session = await waiting(site, engine)
    await site.manager.delete_session(session.id)
    assert (await site.visit(page(lambda values: values.get("n")))).status == 200
    assert await site.manager.get_session(session.id) is None
    assert [event.fields["keys"] for event in site.named("session_data_save_failed")] == [["waits"]]


async def test_a_backend_that_cannot_write_it_is_503(faulty_site: Site, faults: FaultyPort) -> None:
    engine = PersistenceEngine(faulty_site.manager, debounce_delay=600, on_sigterm=False)
    await waiting(faulty_site, engine)
    faults.fail("commit")
    assert (await faulty_site.visit(page(lambda session: session.get("n")))).status == 503
    assert engine.pending == 1
    faults.fail()
    assert await faulty_site.value("waits") == 1
