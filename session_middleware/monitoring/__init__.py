"""The monitor: events become figures, health and alerts.

Reading order: `monitor` (what is called), `recording` (the request path), `analysis` (what an event does),
`figures`, `alerts`, `suspicion`, `health`, then `sketches`, `windows`, `store`, `export`, `facts`.
"""

from session_middleware.monitoring.alerts import DEFAULTS, Alert
from session_middleware.monitoring.facts import SessionEvent, SessionMetric
from session_middleware.monitoring.monitor import SessionMonitor, get_session_monitor

__all__ = ["DEFAULTS", "Alert", "SessionEvent", "SessionMetric", "SessionMonitor", "get_session_monitor"]
