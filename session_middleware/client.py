"""What is kept of a visitor's client: coarse, so that it tells devices apart and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final, TypeAlias

from session_middleware.errors import ConfigurationError
from session_middleware.values import JsonValue

__all__ = ["ClientFacts", "client_facts_of", "client_of"]

ClientFacts: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, JsonValue]]
"""Given the scope of ASGI (of WSGI: `path, method, headers, client`, and `environ`), what to keep."""

_NETWORKS: Final = {4: 24, 6: 48}  # bits that are kept of an address
_LONGEST: Final = 200  # characters of a user agent


def client_facts_of(option: object) -> ClientFacts | None:
    """What the option `client_facts` says. Raises `ConfigurationError`."""
    if option is True:
        return client_of
    if option is False:
        return None
    if not callable(option):
        raise ConfigurationError(
            f"client_facts: found {type(option).__name__}, pass True, False, or a function of the scope that "
            "answers a mapping"
        )
    return option


def client_of(scope: Mapping[str, Any]) -> dict[str, JsonValue]:
    """`network`, the client's address cut to its /24 or /48, and `user_agent`, cut; what is known of both.

    The address is that of whoever connected: behind a proxy it is for the server to put the visitor's there
    (uvicorn's `--proxy-headers`, Werkzeug's `ProxyFix`).
    """
    facts: dict[str, JsonValue] = {}
    client = scope.get("client")
    network = _network_of(client[0]) if client else None
    if network is not None:
        facts["network"] = network
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), None)
    if agent:
        facts["user_agent"] = _printable(agent)
    return facts


@lru_cache(1024)  # an address takes apart slowly, and comes again
def _network_of(host: str) -> str | None:
    """None for what is no address: a socket in the file system, a test client."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    plain = str(address).partition("%")[0]  # without the name of an interface
    return str(ip_network(f"{plain}/{_NETWORKS[address.version]}", strict=False))


def _printable(agent: bytes) -> str:
    text = agent[: 4 * _LONGEST].decode("latin-1")
    if not text.isprintable():
        text = "".join(sign for sign in text if sign.isprintable())
    return text[:_LONGEST]
