"""What you need to test an app, or a backend of your own.

`make_manager`, `make_session` and `wait_for_cleanup` set a scene, `ManualClock` moves when it is told to,
`login_as` and `session_of` are for test clients, `fixtures` is a plugin for pytest.

`BackendContract` is the suite that every backend here passes: make a subclass of it in your tests, and pytest
runs over a hundred cases on yours. `histories` records concurrent operations and checks them for
linearizability; `broken` holds the backends that prove both can fail.

Nothing here but `fixtures` imports pytest, and nothing imports a framework.
"""

from session_middleware.testing import (
    contract_caps,
    contract_epoch,
    contract_leases,
    contract_queries,
    contract_salvaging,
    contract_summaries,
    contract_watching,
)
from session_middleware.testing.clients import login_as, session_of
from session_middleware.testing.clock import ManualClock
from session_middleware.testing.contract import BackendContract, Case, MakePort, Skipped, contract_cases
from session_middleware.testing.helpers import make_manager, make_session, wait_for_cleanup

# Each adds its cases to those of `contract`.
_ = (
    contract_caps,
    contract_epoch,
    contract_queries,
    contract_leases,
    contract_salvaging,
    contract_summaries,
    contract_watching,
)

__all__ = [
    "BackendContract",
    "Case",
    "MakePort",
    "ManualClock",
    "Skipped",
    "contract_cases",
    "login_as",
    "make_manager",
    "make_session",
    "session_of",
    "wait_for_cleanup",
]
