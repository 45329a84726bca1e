"""From a URL to a backend: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`,
`redis://…`.

Backends of other packages register under the entry point group `session_middleware.backends`, by URL scheme,
as a callable that takes the URL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from urllib.parse import unquote

from session_middleware.backends.base import Backend
from session_middleware.errors import ConfigurationError

__all__ = ["backend_from"]


def backend_from(backend: Backend | str) -> Backend:
    """The backend itself, or the one a URL names. Raises `ConfigurationError` for anything else."""
    if isinstance(backend, str):
        return _from_url(backend)
    if isinstance(backend, type) or not callable(getattr(backend, "port", None)):
        raise ConfigurationError(
            f"backend: found {type(backend).__name__}, pass a backend object (such as MemoryBackend()) or a "
            'URL such as "sqlite:///sessions.db"'
        )
    return backend


def _from_url(url: str) -> Backend:
    scheme, separator, rest = url.partition("://")
    make = _OWN.get(scheme) if separator else None
    if make is not None:
        return make(rest)
    for entry in entry_points(group="session_middleware.backends", name=scheme) if separator else ():
        made: Backend = entry.load()(url)
        return made
    known = ", ".join(sorted(f"{name}://" for name in _OWN))
    raise ConfigurationError(f"backend: no backend is known for the URL scheme {scheme!r}; there are {known}")


def _memory(rest: str) -> Backend:
    from session_middleware.backends.memory import MemoryBackend  # noqa: PLC0415  (only what is asked for)

    if rest:
        raise ConfigurationError('backend: "memory://" takes nothing after it')
    return MemoryBackend()


def _sqlite(rest: str) -> Backend:
    from session_middleware.backends.sqlite import SQLiteBackend  # noqa: PLC0415  (only what is asked for)

    if not rest.startswith("/") or rest == "/" or "?" in rest:
        raise ConfigurationError(
            "backend: pass sqlite:///relative.db (three slashes) or sqlite:////absolute.db (four); "
            "options go to SQLiteBackend(path, ...)"
        )
    return SQLiteBackend(unquote(rest[1:]))


def _postgres(rest: str) -> Backend:
    from session_middleware.backends.postgres import PostgresBackend  # noqa: PLC0415  (only what is asked for)

    return PostgresBackend(f"postgresql://{rest}")


def _redis(scheme: str) -> Callable[[str], Backend]:
    def make(rest: str) -> Backend:
        from session_middleware.backends.redis import RedisBackend  # noqa: PLC0415  (only what is asked for)

        return RedisBackend(f"{scheme}://{rest}")

    return make


_OWN: Mapping[str, Callable[[str], Backend]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
    **{
        scheme: _redis(scheme)
        for name in ("redis", "rediss", "valkey", "valkeys")
        for scheme in (name, f"{name}+cluster", f"{name}+sentinel")
    },
}
