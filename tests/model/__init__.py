"""An executable model of the two tables of the session design, and a driver that looks for holes in them.

Reading order: `tables` (what the design says, as code), `world` (browsers, attacker, clock, schedules),
`invariants` (what must hold, each with a control that breaks it), `test_model` (the slice that runs in the
suite), `real` (the product behind the same driver), `test_real`. Campaigns: `python -m tests.model`.
"""

__all__: list[str] = []
