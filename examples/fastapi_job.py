"""A long job that another tab watches: `uvicorn examples.fastapi_job:app`, POST /job, open /job/events."""

import asyncio
import os

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from session_middleware import SessionManager, SessionMiddleware
from session_middleware.fastapi import CurrentSession
from session_middleware.progress import progress_events
from session_middleware.state import Progress, UserSession

STEPS = 3
manager = SessionManager(
    os.environ.get("SESSION_BACKEND", "sqlite:///sessions.db"),
    secret_key=os.environ.get("SESSION_SECRET_KEY", "for trying it out; in earnest 32 random bytes"),
)
app = FastAPI(title="A job with progress")
app.add_middleware(SessionMiddleware, manager=manager)
running: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly


@app.get("/me")
async def me(session: CurrentSession) -> dict[str, object]:
    return {"progress": session.progress, "results": session.results, "status": session.status}


@app.post("/job")
async def begin(session: CurrentSession) -> dict[str, str | None]:
    UserSession(session).navigate_to("job")
    await manager.save(session)  # so that a new visitor's session has an id
    if session.id is None:
        raise HTTPException(503)
    task = asyncio.create_task(work(session.id))
    running.add(task)
    task.add_done_callback(running.discard)
    return {"watch": "/job/events"}


@app.get("/job/events")
async def events(session: CurrentSession) -> StreamingResponse:
    if session.id is None:
        raise HTTPException(404)
    stream = progress_events(manager, session.id, interval=0.05)  # this visitor's own: the id is the cookie's
    return StreamingResponse(stream, media_type="text/event-stream")


async def work(session_id: str) -> None:
    async with Progress(manager, session_id) as job:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(0.1)
            await job.put_item(step, f"scene {step}")
            await job.progress(step, STEPS, "drawing")
