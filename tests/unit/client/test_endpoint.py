"""Endpoints: what is refused before a connection is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmd.client import Endpoint, parse_address
from hsmd.client.endpoint import host_key_fault, read_identity, split_host_key
from hsmd.errors import BadRequest, ConfigurationError

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
GOOD: dict[str, Any] = {
    "host": "10.0.0.1",
    "port": 7440,
    "host_keys": (LINE,),
    "user": "web-1",
    "identity_file": Path("/id"),
}


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "::1", "fe80::1%eth0", "hsm.example.net", "hsm-1", "localhost", "a.b."]
)
def test_valid_hosts_are_accepted(host: str) -> None:
    Endpoint(**GOOD | {"host": host})


@pytest.mark.parametrize(
    "host", ["", " ", "a b", "-a", "a..b", "user@host", "host:22", "a/b", "x" * 254, "ex\n"]
)
def test_invalid_hosts_are_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="host:"):
        Endpoint(**GOOD | {"host": host})


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Endpoint("", 0, (), "a b", Path("/id"))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["host", "port", "user", "host_keys"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "cert-authority",
        "AAAA",
        "ssh-rsa AAAAB3NzaC1yc2E",
        "ssh-ed25519",
        "ssh-ed25519 %%%",
        LINE[:-8],
        LINE + "AAAA",
        "* " + LINE,
    ],
)
def test_invalid_host_keys_are_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match="host_keys:"):
        Endpoint(**GOOD | {"host_keys": (LINE, line)})


def test_host_keys_and_host_cas_are_distinguished() -> None:
    assert split_host_key(f"{LINE} comment") == (False, f"{LINE} comment")
    assert split_host_key(f"cert-authority  {LINE}") == (True, LINE)
    assert host_key_fault(f"cert-authority {LINE} comment") == ""


def test_an_address_survives_writing_and_reading() -> None:
    for host in ("10.0.0.1", "2001:db8::1", "hsm.example.net"):
        assert parse_address(Endpoint(**GOOD | {"host": host}).address) == (host, 7440)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1", "10.0.0.1", 7440),
        ("10.0.0.1:22", "10.0.0.1", 22),
        ("hsm:65535", "hsm", 65535),
        ("[::1]", "::1", 7440),
        ("[::1]:1", "::1", 1),
        ("2001:db8::1", "2001:db8::1", 7440),
    ],
)
def test_addresses_are_parsed(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":22", "host:", "host:0", "host:65536", "host:x", "[::1", "[::1]22", "[::1]:", "a b", "host:١"],
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_address(text)


def test_the_identity_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text("key")
    for mode in (0o640, 0o604, 0o660, 0o601):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_identity(path)
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert read_identity(path) == b"key"
