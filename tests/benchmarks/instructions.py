"""Where a request's work is done: bytecode instructions by module, the same on every machine.

Reading order: `measure_instructions`, `_counted`. What is written in C (JSON, HMAC, Redis's parser) is one
instruction here, whatever it does.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any, Final

from tests.benchmarks.apps import BARE, CASES, OURS, STARLETTE, Candidate, Case, in_memory
from tests.benchmarks.checks import signed_in
from tests.benchmarks.report import table
from tests.benchmarks.traffic import Browser, running, serve

__all__ = ["INSTRUCTIONS_SECTION", "Instructions", "as_json", "as_markdown", "measure_instructions"]

INSTRUCTIONS_SECTION = "instruction figures"
_REQUESTS: Final = 50
_OURS: Final = "session_middleware."
_LEAST: Final = 15.0  # instructions of a request in its dearest case: smaller modules are added up

Instructions = dict[str, dict[Case, dict[str, float]]]
"""By app and case: instructions of one request, by module."""


def measure_instructions() -> Instructions:
    """Ours, Starlette's own and the bare app's."""
    wanted = [candidate for candidate in in_memory() if candidate.name in {BARE, STARLETTE, OURS}]
    return {one.name: {case: asyncio.run(_of_case(one, case)) for case in CASES} for one in wanted}


async def _of_case(candidate: Candidate, case: Case) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(candidate.app))
        visitor = await signed_in(candidate)
        browser = Browser() if case in {"none", "new"} else visitor
        await serve(candidate.app, [browser.scope(f"/{case}") for _ in range(_REQUESTS)])  # caches fill
        return await _counted(serve(candidate.app, [browser.scope(f"/{case}") for _ in range(_REQUESTS)]))


async def _counted(work: Awaitable[object]) -> dict[str, float]:
    counts = Counter[str]()

    def note(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counts[str(frame.f_globals.get("__name__"))] += 1
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        await work
    finally:
        sys.settrace(before)
    return {module: count / _REQUESTS for module, count in counts.items()}


def as_markdown(found: Instructions) -> str:
    """All of each app over the bare one, then ours by module."""
    totals = {app: {case: sum(by.values()) for case, by in cases.items()} for app, cases in found.items()}
    rows = [
        [app, *(f"{totals[app][case] - totals[BARE][case]:.0f}" for case in CASES)]
        for app in found
        if app != BARE
    ]
    modules = {module for by in found[OURS].values() for module in by if module.startswith(_OURS)}
    dearest = {module: max(by.get(module, 0.0) for by in found[OURS].values()) for module in modules}
    large = sorted((m for m in modules if dearest[m] >= _LEAST), key=lambda m: (-dearest[m], m))
    parts = [
        [f"`{m.removeprefix(_OURS)}`", *(f"{found[OURS][case].get(m, 0):.0f}" for case in CASES)]
        for m in large
    ]
    rest = [sum(by.get(m, 0.0) for m in modules - set(large)) for by in found[OURS].values()]
    parts.append(["the others", *(f"{number:.0f}" for number in rest)])
    return "\n".join(
        [
            table(["instructions over the bare app", *CASES], rows),
            table(["ours, by module", *CASES], parts),
        ]
    )


def as_json(found: Instructions) -> dict[str, object]:
    """Ready for `json.dumps`."""
    return {app: dict(cases) for app, cases in found.items()}
