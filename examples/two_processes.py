"""Two processes of one app behind a plain proxy, with their sessions in Redis or PostgreSQL. Run:

SESSION_BACKEND=redis://localhost:6379/0 python -m examples.two_processes

then `curl -c jar -b jar localhost:8000/me` a few times: the visits add up whichever process answers. End one
of them (its process id is printed): the other goes on, and a new one takes its place. In earnest nginx, Caddy
or your platform's balancer stands where `serve` stands; sessions need no sticky ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from itertools import cycle

APP = "examples.starlette_app:app"
PORT = int(os.environ.get("PORT", "8000"))
WORKERS = (PORT + 1, PORT + 2)


async def work(port: int) -> None:
    """One process of the app, started again whenever it ends."""
    while True:
        command = [sys.executable, "-m", "uvicorn", APP, "--port", str(port), "--log-level", "warning"]
        process = await asyncio.create_subprocess_exec(*command)
        print(f"process {process.pid} serves port {port}", flush=True)
        try:
            await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one side to the other, until there are no more."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve() -> None:
    """Each connection goes to the next process that takes it."""
    turns = cycle(WORKERS)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in (next(turns), next(turns)):
            with suppress(ConnectionError):
                theirs, ours = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(hand_on(reader, ours), hand_on(theirs, writer))
                return
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", PORT) as server:
        print(f"http://localhost:{PORT}", flush=True)
        await server.serve_forever()


async def main() -> None:
    if not os.environ.get("SESSION_BACKEND", "").startswith(("redis", "valkey", "postgres")):
        sys.exit("SESSION_BACKEND: name a server, such as redis://localhost:6379/0")
    everything = asyncio.gather(serve(), *(work(port) for port in WORKERS))
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, everything.cancel)
    with suppress(asyncio.CancelledError):
        await everything


if __name__ == "__main__":
    asyncio.run(main())
