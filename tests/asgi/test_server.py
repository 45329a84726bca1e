"""Through a real uvicorn on a loopback port: disconnects, WebSockets, shutdown."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from session_middleware import SessionEvent, SessionManager, SessionMiddleware
from session_middleware.backends.base import Backend
from tests.asgi.harness import KEY, FaultyBackend

PATIENCE = 20.0  # seconds after which a promise counts as broken


class Server:
    """A middleware under uvicorn, in a thread, and the events of its manager."""

    def __init__(self, app: Any, backend: Backend, **options: Any) -> None:
        self.manager = SessionManager(backend, secret_key=KEY, **options)
        self.events: list[SessionEvent] = []
        self.changed = threading.Condition()
        self.manager.subscribe(None, self._note)
        self.listener = socket.create_server(
            ("127.0.0.1", 0)
        )  # listens: whoever comes early waits in the queue
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        middleware: Any = SessionMiddleware(app, manager=self.manager)
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(
                middleware,
                log_config=None,
                lifespan="on",
                ws="websockets-sansio",
                timeout_graceful_shutdown=2,
            )
        )
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.listener]})
        self.thread.start()

    def _note(self, event: SessionEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def wait_for(self, name: str, times: int = 1) -> SessionEvent:
        """The event of this name and number, as soon as it has happened."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.names().count(name) >= times, PATIENCE), self.names()
        return [event for event in self.events if event.name == name][times - 1]

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


Serve = Callable[..., Server]


@pytest.fixture
def serve(backend: Backend) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(app: Any, backend: Backend = backend, **options: Any) -> Server:
        servers.append(Server(app, backend, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


async def read(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(dict(request.session)))


async def write(request: Request) -> PlainTextResponse:
    request.session.update(request.query_params)
    return PlainTextResponse("written")


async def revoke(request: Request) -> PlainTextResponse:
    manager = request.session.manager
    await manager.delete_session(request.query_params["id"], "revoked")
    return PlainTextResponse("revoked")


async def endless(request: Request) -> StreamingResponse:
    async def body() -> Any:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)  # else uvicorn never gets to see that the client has left

    request.session["streams"] = "1"
    return StreamingResponse(body())


async def echo(websocket: WebSocket) -> None:
    websocket.session["socket"] = "opened"
    await websocket.accept()
    async for text in websocket.iter_text():
        websocket.session["said"] = text
        await websocket.send_text(text)


APP = Starlette(
    routes=[
        Route("/", read),
        Route("/write", write),
        Route("/revoke", revoke),
        Route("/endless", endless),
        WebSocketRoute("/echo", echo),
    ]
)


def signed_in(server: Server) -> dict[str, str]:
    """The cookie of a visitor who has a session."""
    answered = httpx.get(f"http://{server.address}/write?n=1")
    assert answered.status_code == 200
    return dict(answered.cookies)


def opened(server: Server, cookies: dict[str, str]) -> ClientConnection:
    headers = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    return connect(f"ws://{server.address}/echo", additional_headers=headers)


def shown(server: Server, cookies: dict[str, str]) -> str:
    return httpx.get(f"http://{server.address}/", cookies=cookies).text


def test_a_visitor_keeps_a_session(serve: Serve) -> None:
    server = serve(APP)
    assert shown(server, signed_in(server)) == "{'n': '1'}"


def test_a_socket_saves_before_accept_and_at_its_end(serve: Serve) -> None:
    server = serve(APP)
    cookies = signed_in(server)
    with opened(server, cookies) as websocket:
        websocket.send("hello")
        assert websocket.recv(PATIENCE) == "hello"
        assert "'socket': 'opened'" in shown(server, cookies)
    server.wait_for("request_finished", 3)
    assert "'said': 'hello'" in shown(server, cookies)


def test_a_new_visitors_socket_gets_its_cookie_with_the_handshake(serve: Serve) -> None:
    server = serve(APP)
    with opened(server, {}) as websocket:
        assert websocket.response is not None
        cookie = websocket.response.headers["set-cookie"]
    name, _, value = cookie.partition(";")[0].partition("=")
    assert "'socket': 'opened'" in shown(server, {name: value})


def test_a_revoked_sessions_socket_is_closed_with_1008(serve: Serve) -> None:
    server = serve(APP, check_interval=0.05)
    cookies = signed_in(server)
    with opened(server, cookies) as websocket:
        websocket.send("hello")
        assert websocket.recv(PATIENCE) == "hello"
        id_ = server.wait_for("session_created").session_id
        httpx.get(f"http://{server.address}/revoke?id={id_}")
        with pytest.raises(ConnectionClosed):
            websocket.recv(PATIENCE)
        assert websocket.close_code == 1008
    server.wait_for("request_finished", 3)


def test_a_client_that_leaves_a_stream_leaves_nothing(serve: Serve) -> None:
    server = serve(APP)
    cookies = signed_in(server)
    with httpx.stream("GET", f"http://{server.address}/endless", cookies=cookies) as answered:
        next(answered.iter_raw())
    server.wait_for("request_finished", 2)
    assert len(server.manager.activity) == 0
    assert "'streams': '1'" in shown(server, cookies)


def test_a_client_that_leaves_a_socket_without_goodbye_leaves_nothing(serve: Serve) -> None:
    server = serve(APP)
    cookies = signed_in(server)
    with opened(server, cookies) as websocket:
        websocket.send("hello")
        assert websocket.recv(PATIENCE) == "hello"
        websocket.socket.shutdown(socket.SHUT_RDWR)
        server.wait_for("request_finished", 2)
    assert len(server.manager.activity) == 0
    assert "'said': 'hello'" in shown(server, cookies)


def test_a_backend_that_is_down_refuses_the_handshake_and_answers_503(
    serve: Serve, faulty: FaultyBackend
) -> None:
    server = serve(APP, backend=faulty)
    cookies = signed_in(server)
    faulty.faults.fail("load")
    with pytest.raises(InvalidStatus):
        opened(server, cookies)
    answered = httpx.get(f"http://{server.address}/", cookies=cookies)
    assert (answered.status_code, answered.headers["retry-after"]) == (503, "2")
    faulty.faults.fail()
    assert shown(server, cookies) == "{'n': '1'}"
    assert server.names().count("backend_unavailable") == server.names().count("backend_recovered") == 1


def test_shutdown_ends_the_manager_after_the_last_request(serve: Serve) -> None:
    server = serve(APP)
    with opened(server, signed_in(server)):
        server.stop()
    assert server.names()[0] == "session_manager_initialized"
    assert server.names()[-1] == "session_manager_stopped"
    assert server.events[-1].fields["active_requests"] == 0


def test_a_session_survives_a_restart_of_the_server(serve: Serve) -> None:
    server = serve(APP)
    cookies = signed_in(server)
    server.stop()
    assert shown(serve(APP), cookies) == "{'n': '1'}"
