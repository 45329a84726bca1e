"""One machine in a process of its own, over a store that other processes use at the same time.

python -m tests.stateful URL NAME COLOUR SEED EXAMPLES
"""

from __future__ import annotations

import sys
from functools import partial
from typing import cast

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from session_middleware.backends.base import Colour
from session_middleware.backends.urls import backend_from
from tests.stateful.machine import machine_for


def main(url: str, name: str, colour: str, number: str, examples: str) -> None:
    machine = machine_for(partial(backend_from, url), cast("Colour", colour), name=name, alone=False)
    chosen = settings(max_examples=int(examples), stateful_step_count=30, deadline=None, database=None)
    run_state_machine_as_test(seed(int(number))(machine), settings=chosen)
    sys.stdout.write("held\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
