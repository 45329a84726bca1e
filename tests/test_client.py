"""What is kept of a client: enough to tell devices apart, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from session_middleware import ConfigurationError, SessionManager
from session_middleware.client import _facts_of, client_of


def scope(client: Any = None, agent: bytes | None = None) -> dict[str, Any]:
    return {"client": client, "headers": [] if agent is None else [(b"host", b"x"), (b"user-agent", agent)]}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("0.0.0.1", "0.0.0.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("::1", "::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
    ],
)
def test_an_address_is_cut_to_its_network(address: str, network: str) -> None:
    assert client_of(scope((address, 5))) == {"network": network}


@pytest.mark.parametrize(
    "client", [None, (), ("testclient", 5), ("", 0), ("unix:", None), ("1.2.3", 1), (None, 1), ([1], 1)]
)
def test_what_is_no_address_is_left_out(client: Any) -> None:
    assert client_of(scope(client)) == {}


def test_what_a_proxy_passes_on_is_not_remembered_however_long_it_is() -> None:
    remembered = _facts_of.cache_info().currsize
    for letter in "abcdef":
        assert client_of(scope((letter * 60_000, 5))) == {}
    assert _facts_of.cache_info().currsize <= remembered + 1  # that of nobody's address


def test_a_user_agent_is_cut_and_has_no_control_characters() -> None:
    agent = b"Mozilla\x1b[31m/5.0\r\n\x00\x85 (X11)\xe9" + b"x" * 64_000
    found = client_of(scope(agent=agent))["user_agent"]
    assert found.startswith("Mozilla[31m/5.0 (X11)éxxx")
    assert len(found) == 200


def test_an_empty_user_agent_is_none() -> None:
    assert client_of(scope(agent=b"")) == {}


@pytest.mark.parametrize("wrong", [None, 1, "yes", {}])
def test_an_illegal_option_is_named(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="client_facts"):
        SessionManager(client_facts=wrong)
