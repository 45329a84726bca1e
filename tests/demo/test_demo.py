"""What the buttons of the demo do, in this process: two browsers are two cookie jars over one app."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from examples.demo.__main__ import kept_key
from examples.demo.app import browser_name, create_app
from examples.demo.live import ENDINGS, OF_THE_MANAGER, Feed, Viewer, as_json
from session_middleware import EVENTS, SessionEvent, SessionManager

HERE = "http://127.0.0.1:8000"


class Demo:
    """The app over SQLite. Its slow request waits for `resume`."""

    def __init__(self, folder: Path) -> None:
        self.paused, self.resume = asyncio.Event(), asyncio.Event()
        key = kept_key(folder / "key")
        self.manager = SessionManager(f"sqlite:///{folder / 'sessions.db'}", secret_key=key)
        self.feed = Feed()
        self.app = create_app(self.manager, self.feed, pause=self._pause)

    async def _pause(self, _seconds: float) -> None:
        self.paused.set()
        await self.resume.wait()

    @asynccontextmanager
    async def browser(self, user: str | None = None, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers) as client:
            if user is not None:
                await press(client, f"/sign-in/{user}")
            yield client


def over_the_demo(test: Callable[[Demo], Awaitable[None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def scenario() -> None:
            demo = Demo(tmp_path)
            async with demo.manager:
                await test(demo)

        asyncio.run(scenario())

    run.__name__ = test.__name__
    return run


async def press(client: httpx.AsyncClient, path: str) -> httpx.Response:
    answer = await client.post(path)
    assert answer.status_code in {200, 204}, answer.text
    return answer


async def state(client: httpx.AsyncClient) -> Any:
    return (await client.get("/state")).json()


@over_the_demo
async def test_a_visitor_for_whom_nothing_is_kept_has_no_session_and_gets_no_cookie(demo: Demo) -> None:
    async with demo.browser() as visitor:
        assert (await visitor.get("/")).status_code == 200
        assert (await state(visitor))["session"] is None
        assert not visitor.cookies


@over_the_demo
async def test_what_an_anonymous_visitor_gathered_stays_at_the_sign_in(demo: Demo) -> None:
    async with demo.browser() as visitor:
        await press(visitor, "/cart/tea/add")
        before = await state(visitor)
        await press(visitor, "/sign-in/grace")
        after = await state(visitor)
    assert (before["session"]["user"], after["session"]["user"]) == (None, "grace")
    assert after["session"]["id"] == before["session"]["id"]
    assert after["cart"] == {"tea": 1}


@over_the_demo
async def test_a_change_inside_the_cart_is_saved(demo: Demo) -> None:
    async with demo.browser("ada") as ada:
        for path in ("tea/add", "tea/add", "lamp/add", "tea/remove", "lamp/remove", "pen/remove"):
            await press(ada, f"/cart/{path}")
        assert (await state(ada))["cart"] == {"tea": 1}


@over_the_demo
async def test_twenty_visits_at_once_are_twenty(demo: Demo) -> None:
    async with demo.browser("ada") as ada:
        await asyncio.gather(*(press(ada, "/visits") for _ in range(20)))
        assert (await state(ada))["visits"] == 20


@over_the_demo
async def test_my_devices_are_mine_and_one_of_them_is_this_one(demo: Demo) -> None:
    async with demo.browser("ada") as here, demo.browser("ada") as there, demo.browser("linus"):
        mine = (await state(here))["session"]["id"]
        other = (await state(there))["session"]["id"]
        shown = {device["id"]: device["is_this"] for device in (await state(here))["devices"]}
    assert shown == {mine: True, other: False}


@over_the_demo
async def test_a_device_signs_another_one_out(demo: Demo) -> None:
    async with demo.browser("ada") as here, demo.browser("ada") as there:
        other = (await state(there))["session"]["id"]
        await press(here, f"/devices/{other}/sign-out")
        ended = await state(there)
        assert (ended["session"], ended["ended_because"]) == (None, "revoked")
        assert len((await state(here))["devices"]) == 1


@over_the_demo
async def test_a_device_that_signs_itself_out_loses_its_cookie(demo: Demo) -> None:
    async with demo.browser("ada") as here:
        own = (await state(here))["session"]["id"]
        await press(here, f"/devices/{own}/sign-out")
        assert not here.cookies


@over_the_demo
async def test_nobody_signs_out_a_device_of_somebody_else(demo: Demo) -> None:
    async with demo.browser("ada") as ada, demo.browser("linus") as linus:
        hers = (await state(ada))["session"]["id"]
        assert (await linus.post(f"/devices/{hers}/sign-out")).status_code == 404
        assert (await state(ada))["session"]["user"] == "ada"


@over_the_demo
async def test_all_others_are_signed_out_and_this_one_stays(demo: Demo) -> None:
    async with demo.browser("ada") as here, demo.browser("ada") as there, demo.browser("ada") as far:
        await press(here, "/devices/others/sign-out")
        left = [(await state(one))["session"] for one in (here, there, far)]
    assert [session is not None for session in left] == [True, False, False]


@over_the_demo
async def test_a_slow_request_does_not_bring_a_session_back(demo: Demo) -> None:
    events: list[SessionEvent] = []
    demo.manager.subscribe("session_data_save_failed", events.append)
    async with demo.browser("ada") as here:
        slow = asyncio.create_task(press(here, "/slow"))
        await demo.paused.wait()
        await press(here, "/sign-out")
        demo.resume.set()
        answer = await slow
        assert answer.json() == {"saved": False}
        assert "set-cookie" not in answer.headers
        assert (await state(here))["session"] is None
    assert [(event.fields["reason"], event.fields["keys"]) for event in events] == [("gone", ["note"])]


@over_the_demo
async def test_a_slow_request_that_nobody_races_is_saved(demo: Demo) -> None:
    demo.resume.set()
    async with demo.browser("ada") as here:
        assert (await press(here, "/slow")).json() == {"saved": True}


@over_the_demo
async def test_buttons_for_those_who_are_signed_in_say_so_to_others(demo: Demo) -> None:
    async with demo.browser() as visitor:
        for path in ("/slow", "/devices/others/sign-out", "/devices/x/sign-out"):
            assert (await visitor.post(path)).status_code == 401


@over_the_demo
async def test_what_is_not_there_is_not_found(demo: Demo) -> None:
    async with demo.browser() as visitor:
        for path in ("/sign-in/mallory", "/cart/gold/add", "/cart/gold/remove"):
            assert (await visitor.post(path)).status_code == 404
        assert not visitor.cookies


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": HERE},
    ],
)
def test_a_page_of_another_site_presses_no_button(tmp_path: Path, headers: dict[str, str]) -> None:
    assert status_of_a_press(tmp_path, headers) == 403


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": HERE}, {}])
def test_the_page_itself_and_a_program_press_buttons(tmp_path: Path, headers: dict[str, str]) -> None:
    assert status_of_a_press(tmp_path, headers) == 204


def status_of_a_press(folder: Path, headers: dict[str, str]) -> int:
    async def scenario() -> int:
        demo = Demo(folder)
        async with demo.manager, demo.browser(**headers) as client:
            return (await client.post("/sign-in/ada")).status_code

    return asyncio.run(scenario())


@over_the_demo
async def test_no_get_changes_anything(demo: Demo) -> None:
    async with demo.browser() as visitor:
        for path in ("/sign-in/ada", "/sign-out", "/visits", "/cart/tea/add", "/slow"):
            assert (await visitor.get(path)).status_code == 405


@over_the_demo
async def test_a_name_that_was_pointed_at_this_machine_is_refused(demo: Demo) -> None:
    async with demo.browser(host="evil.example") as visitor:
        assert (await visitor.get("/state")).status_code == 400


@over_the_demo
async def test_the_page_loads_nothing_from_elsewhere(demo: Demo) -> None:
    async with demo.browser() as visitor:
        page = await visitor.get("/")
        script, style = [(await visitor.get(path)).text for path in ("/page.js", "/page.css")]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not any(f"{kind}://" in text for text in (script, style) for kind in ("http", "https"))
    assert "innerHTML" not in script


def test_everyone_is_still_signed_in_after_a_restart(tmp_path: Path) -> None:
    async def before() -> httpx.Cookies:
        demo = Demo(tmp_path)
        async with demo.manager, demo.browser("ada") as ada:
            return ada.cookies

    async def after(cookies: httpx.Cookies) -> str | None:
        demo = Demo(tmp_path)
        async with demo.manager, demo.browser() as ada:
            ada.cookies = cookies
            user: str | None = (await state(ada))["session"]["user"]
            return user

    assert asyncio.run(after(asyncio.run(before()))) == "ada"


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert kept_key(path) == kept_key(path)
    assert len(kept_key(path)) == 64
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- the live stream ---


class Stream:
    """What `/events` sends to a browser, while it is sent; httpx would wait for its end."""

    def __init__(self, demo: Demo, client: httpx.AsyncClient, after: str = "") -> None:
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = [(b"host", b"127.0.0.1"), (b"cookie", cookies.encode()), (b"last-event-id", after.encode())]
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/events",
            "raw_path": b"/events",
            "query_string": b"",
            "headers": headers,
        }
        self.demo = demo
        self.numbers: list[str] = []
        self.chunks: asyncio.Queue[str] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self.gone = asyncio.Event()
        self.task = asyncio.create_task(self.demo.app(self.scope, self._receive, self._send))
        assert await self.chunks.get() == "retry: 1000\n\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gone.set()
        await self.task

    async def until(self, name: str) -> list[dict[str, Any]]:
        """The events up to the next one of this name."""
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["name"] != name:
            number, data = (await asyncio.wait_for(self.chunks.get(), 30)).split("\n")[:2]
            self.numbers.append(number.removeprefix("id: "))
            seen.append(json.loads(data.removeprefix("data: ")))
        return seen

    async def _receive(self) -> dict[str, object]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message.get("body"):
            self.chunks.put_nowait(message["body"].decode())


@over_the_demo
async def test_the_stream_tells_of_my_other_devices(demo: Demo) -> None:
    async with demo.browser("ada") as here, Stream(demo, here) as stream, demo.browser("ada") as there:
        await press(there, "/visits")
        seen = await stream.until("session_data_saved")
        assert (seen[-1]["kind"], seen[-1]["fields"]["saved_keys"]) == ("other device", ["visits"])
        await press(here, "/devices/others/sign-out")
        assert (await stream.until("session_deleted"))[-1]["fields"] == {"reason": "revoked"}


@over_the_demo
async def test_the_stream_of_an_ended_session_tells_what_came_too_late(demo: Demo) -> None:
    async with demo.browser("ada") as here, Stream(demo, here) as stream:
        slow = asyncio.create_task(press(here, "/slow"))
        await demo.paused.wait()
        await press(here, "/sign-out")
        demo.resume.set()
        await slow
        assert (await stream.until("session_data_save_failed"))[-1]["fields"]["reason"] == "gone"


@over_the_demo
async def test_a_page_that_connects_again_misses_nothing_and_sees_nothing_twice(demo: Demo) -> None:
    async with demo.browser("ada") as here:
        async with Stream(demo, here) as stream:
            await stream.until("session_user_bound")
        await press(here, "/visits")
        async with Stream(demo, here, after=stream.numbers[-1]) as again:
            names = [event["name"] for event in await again.until("session_data_saved")]
    assert "session_user_bound" not in names


@over_the_demo
async def test_streams_end_when_the_server_stops(demo: Demo) -> None:
    async with demo.browser("ada") as here:
        stream = Stream(demo, here)
        async with stream:
            demo.feed.close()
            await asyncio.wait_for(asyncio.shield(stream.task), 30)


def event(name: str, session: str | None, user: str | None = None, **fields: object) -> SessionEvent:
    return SessionEvent(name, session, user, 1.0, fields)


def test_a_viewer_sees_nothing_of_other_people() -> None:
    viewer = Viewer("mine", "ada", ["mine", "hers too"])
    assert viewer.sees(event("session_data_saved", "mine"))
    assert viewer.sees(event("session_deleted", "hers too"))
    assert not viewer.sees(event("session_data_saved", "his", "linus"))
    assert not viewer.sees(event("request_started", None, path="/his/secret"))


def test_a_viewer_whose_session_ended_sees_nothing_more_of_the_user() -> None:
    viewer = Viewer("mine", "ada", ["other"])
    assert viewer.sees(event("session_created", "new", "ada"))
    assert viewer.sees(event("session_deleted", "mine"))
    for session in ("other", "new"):
        assert not viewer.sees(event("session_data_saved", session, "ada"))
    assert viewer.sees(event("session_data_save_failed", "mine"))


def test_a_visitor_without_a_session_sees_the_manager_alone() -> None:
    viewer = Viewer(None, None)
    assert viewer.sees(event("sessions_cleaned_up", None))
    assert not viewer.sees(event("session_created", "any"))
    assert not viewer.sees(event("session_suspicious_activity", None))


def test_every_event_that_the_stream_knows_by_name_exists() -> None:
    assert EVENTS.keys() >= ENDINGS | OF_THE_MANAGER


def test_an_event_is_one_line_whatever_it_holds() -> None:
    odd = event("session_creation_failed", "mine", None, exception=ValueError("two\nlines\r\n\n"))
    assert as_json(odd, Viewer("mine", None)).isprintable()


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        (
            "(X11; Linux x86_64) AppleWebKit (KHTML, like Gecko) HeadlessChrome/150.0 Safari",
            "Chrome on Linux",
        ),
        ("(Windows NT 10.0) AppleWebKit Chrome/131.0 Safari/537.36 Edg/131.0", "Edge on Windows"),
        ("(iPhone; CPU iPhone OS 18_1 like Mac OS X) Version/18.1 Safari/604.1", "Safari on iPhone"),
        ("(Linux; Android 14) AppleWebKit Chrome/131.0 Mobile Safari/537.36", "Chrome on Android"),
        ("(Macintosh; Intel Mac OS X 15.1) Gecko/20100101 Firefox/133.0", "Firefox on macOS"),
        ("curl/8.11.0", "curl"),
        ("", "Unknown browser"),
    ],
)
def test_a_browser_is_called_what_people_call_it(tail: str, name: str) -> None:
    assert browser_name(f"Mozilla/5.0 {tail}") == name
