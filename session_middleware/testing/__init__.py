"""What you need to test an app, or a backend of your own.

`ManualClock` moves when it is told to. `BackendContract` is the suite that every backend here passes: make a
subclass of it in your tests, and pytest runs nearly a hundred cases on yours. `histories` records concurrent
operations and checks them for linearizability; `broken` holds the backends that prove both can fail.

Nothing here imports pytest, and nothing but what you use is imported.
"""

from session_middleware.testing import (
    contract_leases,
    contract_queries,
    contract_salvaging,
    contract_summaries,
)
from session_middleware.testing.clock import ManualClock
from session_middleware.testing.contract import BackendContract, Case, MakePort, Skipped, contract_cases

# Each adds its cases to those of `contract`.
_ = (contract_queries, contract_leases, contract_salvaging, contract_summaries)

__all__ = ["BackendContract", "Case", "MakePort", "ManualClock", "Skipped", "contract_cases"]
