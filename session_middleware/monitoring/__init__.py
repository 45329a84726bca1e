"""The monitor: events become figures, health and alerts.

Reading order: `monitor` (what is called), `recording` (the request path), `analysis` (what an event does),
`figures`, `alerts`, `suspicion`, `health`, then `lines`, `sketches`, `windows`, `store`, `export`, `facts`;
`exporters`, `prometheus`, `opentelemetry`, `probes` carry it outside.
"""

from session_middleware.monitoring.alerts import DEFAULTS, Alert
from session_middleware.monitoring.facts import SessionEvent, SessionMetric
from session_middleware.monitoring.lines import LineReader
from session_middleware.monitoring.monitor import SessionMonitor, get_session_monitor

__all__ = [
    "DEFAULTS",
    "Alert",
    "LineReader",
    "SessionEvent",
    "SessionMetric",
    "SessionMonitor",
    "get_session_monitor",
]
