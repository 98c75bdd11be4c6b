"""Addresses as text: splitting, refused texts, and joining as the inverse of splitting."""

import pytest

from hsmd.system.addresses import is_host, join_address, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 7440),
        ("192.0.2.1:0", "192.0.2.1", 0),
        ("hsm.example.net:65535", "hsm.example.net", 65_535),
        ("[2001:db8::1]", "2001:db8::1", 7440),
        ("[2001:db8::1]:22", "2001:db8::1", 22),
        ("2001:db8::1", "2001:db8::1", 7440),
    ],
)
def test_addresses_are_split(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert split_address(join_address(host, port)) == (host, port)


def test_the_caller_chooses_the_default_port() -> None:
    assert split_address("[::1]", 9444) == ("::1", 9444)


@pytest.mark.parametrize("text", ["[::1", "[::1]22", "a:x", "a:-1", "a:65536", "a:000022", "a:١"])
def test_other_texts_are_not_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address|no valid port"):
        split_address(text)


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "hsm", "hsm.example.net."])
def test_valid_hosts_are_recognised(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize("text", ["", "a b", "-a", "a..b", "a" * 254, "192.0.2.1:7440"])
def test_other_texts_are_not_hosts(text: str) -> None:
    assert not is_host(text)
