"""Writes to sessions of a SQLite file, one after the other, until its input ends: how long each write took.

In: one line of JSON with `path`, `ids` and `now`. Out: `writing` after the first write, then a list of
seconds.
"""

from __future__ import annotations

import json
import select
import sys
from itertools import cycle

from session_middleware.backends.sqlite import SQLiteBackend
from tests.benchmarks.scale import write

__all__ = ["main"]

_PAUSE = 0.001  # seconds between two writes


def main() -> int:
    """Write until told to end."""
    order = json.loads(sys.stdin.readline())
    port = SQLiteBackend(order["path"]).port("blocking")
    taken = []
    for id_ in cycle(order["ids"]):
        taken.append(write(port, id_, order["now"]))
        if len(taken) == 1:
            print("writing", flush=True)
        if select.select([sys.stdin], [], [], _PAUSE)[0]:
            break
    print(json.dumps(taken))
    return 0


if __name__ == "__main__":
    sys.exit(main())
