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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("[::1", "is not an address"),
        ("[::1]22", "is not an address"),
        ("[::1]:", "is not an address"),
        ("[192.0.2.1]:22", "brackets are for IPv6"),
        ("[hsm.example]:22", "brackets are for IPv6"),
        ("a:", "ends with a colon"),
        ("a:x", "no valid port"),
        ("a:-1", "no valid port"),
        ("a:65536", "no valid port"),
        ("a:000022", "no valid port"),
        ("a:١", "no valid port"),
        (":22", "neither an IP address nor a host name"),
        ("::1:7440", r"write \[::1\]:7440 for port 7440, or \[::1:7440\] for the address"),
        ("2001:db8::5:22", r"write \[2001:db8::5\]:22"),
        ("fe80::1%eth0:22", r"write \[fe80::1%eth0\]:22"),
        ("::1:70000", r"write \[::1\]:70000 for port 70000\Z"),
        ("192.0.2.1:22:22", "in brackets"),
        (" 192.0.2.1", "white space around"),
        ("192.0.2.1\n", "white space around"),
        ("192.0.2.1 :22", "contains white space"),
        ("a\0b", "control character"),
        ("ssh://hsm:22", "leave out ssh://"),
        ("/run/hsmd/agent.sock", "is a path"),
        ("10.0.0.0/8", "mask"),
        ("root@hsm:22", "before @"),
        ("192.0.2.010:22", "without leading zeros"),
        ("192.0.2.256", "from 0 to 255"),
        ("10.1", "four numbers"),
        ("2130706433", "four numbers"),
        ("0x7f.1", "four numbers"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("fe80::1", "needs the interface"),
        ("[fe80::1]:22", "needs the interface"),
        ("[fe80::1%]:22", "not the name of an interface"),
        ("[fe80::1%a/b]:22", "is a path"),
        ("[2001:db8::1%eth0]:22", "only a link-local"),
        ("192.0.2.1%eth0", "only a link-local"),
        ("hsm%eth0", "only a link-local"),
        ("-a", "neither"),
        ("a..b", "neither"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "2001:db8::1",
        "::ffff:192.0.2.1",
        "fe80::1%eth0",
        "fe80::1%3",
        "hsm",
        "hsm_1.example",
        "hsm.example.net.",
        "xn--bcher-kva.example",
        "1.hsm",
    ],
)
def test_valid_hosts_are_recognised(text: str) -> None:
    assert is_host(text)
    assert split_address(text) == (text, 7440)


@pytest.mark.parametrize("text", ["", "a b", "-a", "a..b", "a" * 254, "192.0.2.1:7440", "1.2.3"])
def test_other_texts_are_not_hosts(text: str) -> None:
    assert not is_host(text)


def test_an_ipv6_address_that_can_be_read_in_one_way_only_needs_no_brackets() -> None:
    assert split_address("2001:db8:1:2:3:4:5:6") == ("2001:db8:1:2:3:4:5:6", 7440)
    assert split_address("2001:db8::1:abcd") == ("2001:db8::1:abcd", 7440)
