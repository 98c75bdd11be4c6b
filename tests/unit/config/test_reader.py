"""hsmd.toml: what is accepted, and that all faults are reported at once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from hsmd.daemon.config import reader
from hsmd.daemon.config.settings import Config
from hsmd.errors import ConfigurationError
from tests.support.daemon_config import GOOD


def parse(text: str) -> Config:
    return reader.parse(text, Path("/etc/hsmd/hsmd.toml"))


def faults_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return str(caught.value)


def test_relative_paths_are_relative_to_the_file() -> None:
    good = parse(GOOD)
    assert good.listen.host_key == Path("/etc/hsmd/host_key")
    assert good.audit.directory == Path("/etc/hsmd/audit")
    assert good.store_url == "sqlite:////etc/hsmd/hsmd.db"
    assert good.tokens[0].settings.pin_file == "/etc/hsmd/pin"


def test_addresses_have_a_default_port() -> None:
    assert [str(address) for address in parse(GOOD).listen.addresses] == [
        "192.0.2.1:7440",
        "[2001:db8::1]:7440",
    ]


@pytest.mark.parametrize("wildcard", ["0.0.0.0:7440", "[::]:7440"])
def test_wildcard_addresses_are_refused_unless_allowed(wildcard: str) -> None:
    text = GOOD.replace("192.0.2.1:7440", wildcard)
    assert "every network" in faults_of(text)
    parse(text.replace("[listen]", "[listen]\nallow_wildcard = true"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("workers = 2", "workers = 0", "token[0].workers: must be a whole number from 1 to 64"),
        ("workers = 2", "workers = true", "token[0].workers: must be a whole number"),
        ("workers = 2", "worker = 2", "token[0].worker: is not a setting"),
        ('label = "hsmd"', "", "token[0].label: choose the token by exactly one"),
        ('label = "hsmd"', 'label = "hsmd"\nslot = 3', "token[0].label: choose the token by exactly one"),
        ('pin_file = "pin"', "", "token[0].pin_file: name exactly one"),
        ('"192.0.2.1:7440"', '"localhost:7440"', "literal IP address"),
        ('"192.0.2.1:7440"', '"192.0.2.1:99999"', "no valid port"),
        ('"192.0.2.1:7440"', '"192.0.2.1:-1"', "no valid port"),
        ('"[2001:db8::1]"', '"[2001:db8::1"', "is not an address like"),
        ("sqlite:///hsmd.db", "mysql://x", "store.url: must begin with"),
        ("[audit]", '[audit]\nsync = "never"', "audit.sync: must be one of group, always"),
        ('name = "main"', "name = 7", "token[0].name: must be a string"),
        ('name = "main"', 'name = "main', "is not TOML"),
    ],
)
def test_a_fault_names_the_setting_and_the_fix(old: str, new: str, fault: str) -> None:
    assert fault in faults_of(GOOD.replace(old, new))


def test_all_faults_are_reported_at_once() -> None:
    faults = faults_of('colour = 1\n[listen]\naddresses = ["x"]\n[store]\nurl = "sqlite:///a"\n')
    for setting in ("colour", "listen.addresses", "listen.host_key", "token", "audit.directory"):
        assert f"hsmd.toml: {setting}" in faults


def test_two_tokens_need_different_names() -> None:
    second = GOOD[GOOD.index("[[token]]") :]
    assert "two tokens are named 'main'" in faults_of(GOOD + second)


def test_a_missing_file_is_an_error_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="hsmd init"):
        reader.load(Path("/nonexistent/hsmd.toml"))


def test_the_store_url_is_not_shown() -> None:
    text = GOOD.replace("sqlite:///hsmd.db", "postgresql+psycopg://hsmd:secret@db/hsmd")
    assert "secret" not in repr(parse(text))


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_raises_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        parse(text)


def test_metrics_listen_on_loopback_only_unless_allowed() -> None:
    assert parse(GOOD).metrics.address is None
    on_loopback = parse(GOOD + '[metrics]\naddress = "127.0.0.1"\n').metrics
    assert str(on_loopback.address) == "127.0.0.1:9444"
    outside = GOOD + '[metrics]\naddress = "192.0.2.1:9444"\n'
    assert "allow_network" in faults_of(outside)
    assert parse(outside + "allow_network = true\n").metrics.address is not None
    assert "literal" in faults_of(GOOD + '[metrics]\naddress = "localhost:9444"\n')
