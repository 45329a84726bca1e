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
_LONGEST_ADDRESS: Final = 100  # characters, the name of an interface included; what is longer is none


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
    client = scope.get("client")
    host = client[0] if client else None
    agent = b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value[: 4 * _LONGEST]
            break
    # A proxy may pass on what a visitor wrote: long texts are not remembered.
    is_address = isinstance(host, str) and len(host) <= _LONGEST_ADDRESS
    return dict(_facts_of(host if is_address else None, agent))


@lru_cache(1024)  # to take an address apart is slow, and it comes again
def _facts_of(host: str | None, agent: bytes) -> Mapping[str, JsonValue]:
    facts: dict[str, JsonValue] = {}
    network = None if host is None else _network_around(host)
    if network is not None:
        facts["network"] = network
    if agent:
        facts["user_agent"] = _printable(agent)
    return facts


def _network_around(host: str) -> str | None:
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
    text = agent.decode("latin-1")
    if not text.isprintable():
        text = "".join(sign for sign in text if sign.isprintable())
    return text[:_LONGEST]
