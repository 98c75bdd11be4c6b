"""node.toml: what it gives, and that all faults are named at once in the words of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsmd.algorithms import KeyType
from hsmd.deployment.version_directories import Access
from hsmd.errors import ConfigurationError
from hsmd.node.config import parse
from hsmd.node.keys import AgentKeys, FileKeys, TokenKeys
from hsmd.node.probe import Probe, Speech, Whose
from tests.support.node_files import node_toml


def test_a_server(tmp_path: Path) -> None:
    probes = '[[probe]]\nconnect = "192.0.2.7"\nname = "www.example.com"\n[[probe]]\nconnect = "[2001:db8::1]:8443"\ntimeout_s = 3\n'
    config = parse(node_toml(tmp_path, 'kind = "nginx"', probes))
    assert (config.client, config.authority, config.keys) == ("web1", "root", FileKeys(KeyType.P256))
    assert (config.server.unit, config.server.command) == ("nginx", ())
    assert config.probes == (
        Probe(Whose.OWN, "192.0.2.7", 443, "www.example.com", Speech.HTTP),
        Probe(Whose.OWN, "2001:db8::1", 8_443, "2001:db8::1", Speech.HTTP, timeout_s=3),
    )
    assert config.access == Access(0o600, 0o700, None)


def test_a_client(tmp_path: Path) -> None:
    probes = '[[probe]]\nconnect = "db.example.com"\nspeaks = "postgresql"\n[[probe]]\ncommand = ["/usr/bin/curl", "x"]\n'
    config = parse(node_toml(tmp_path, 'kind = "curl"\ncommand = ["/bin/true", "a"]', probes))
    assert (config.server.unit, config.server.command) == ("", ("/bin/true", "a"))
    assert config.probes == (
        Probe(Whose.COUNTERPART, "db.example.com", 443, "db.example.com", Speech.POSTGRESQL),
        Probe(Whose.COUNTERPART, command=("/usr/bin/curl", "x")),
    )


def test_a_group_reads_the_key(tmp_path: Path) -> None:
    import grp

    group = grp.getgrgid(os.getgid())
    config = parse(node_toml(tmp_path, f'kind = "nginx"\ngroup = "{group.gr_name}"'))
    assert config.access == Access(0o640, 0o750, (-1, group.gr_gid))


def test_all_faults_are_named(tmp_path: Path) -> None:
    program = 'kind = "exim"\nowner = "nobody-here"\nunit = "-x"\ncolour = "red"'
    probes = '[[probe]]\nconnect = "a:b:c d"\nspeaks = "smtp"\n[[probe]]\ncommand = ["curl"]\n[[probe]]\nname = "x"\n'
    text = (
        node_toml(tmp_path, program, probes)
        .replace('authority = "root"', "")
        .replace("192.0.2.1", "192.0.2.1:0x")
    )
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    named = {fault.split(":")[0] for fault in raised.value.faults}
    assert named >= {
        "certificate.authority", "program.kind", "program.owner", "program.unit", "program.colour", "probe[0].connect",
        "probe[0].speaks", "probe[1].command", "probe[2].connect", "daemon[0].address",
    }  # fmt: skip


@pytest.mark.parametrize("files", ["/etc/../x", "relative", "/"])
def test_the_directory_of_files_is_named_in_full(tmp_path: Path, files: str) -> None:
    with pytest.raises(ConfigurationError, match=r"program\.files"):
        parse(node_toml(tmp_path).replace(f"{tmp_path}/files", files))


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ('key_type = "rsa-2048"', FileKeys(KeyType.RSA_2048)),
        (
            'key = "token"\ntoken = "/etc/hsmd/token.toml"\nlabel = "web1"',
            TokenKeys(Path("/etc/hsmd/token.toml"), "web1"),
        ),
        ('key = "agent"\nname = "www"', AgentKeys(Path("/run/hsmd/agent.sock"), "www")),
    ],
)
def test_the_three_places_of_a_key(tmp_path: Path, settings: str, keys: object) -> None:
    text = node_toml(tmp_path).replace('authority = "root"', f'authority = "root"\n{settings}')
    assert parse(text).keys == keys


def test_settings_of_another_place_are_faults(tmp_path: Path) -> None:
    text = node_toml(tmp_path).replace(
        'authority = "root"', 'authority = "root"\nkey = "token"\nkey_type = "p-256"'
    )
    with pytest.raises(ConfigurationError) as raised:
        parse(text)
    assert [fault.split(":")[0] for fault in raised.value.faults] == [
        "certificate.token", "certificate.label", "certificate.key_type",
    ]  # fmt: skip
