"""agent.toml: what is accepted, what is refused, and that all faults are reported at once."""

from __future__ import annotations

import base64
import os
import pwd
from pathlib import Path

import pytest

from hsmd.agent.config import KEEP, load, parse
from hsmd.errors import ConfigurationError
from hsmd.transparency.note import key_id

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
ME = pwd.getpwuid(os.getuid()).pw_name
MINIMAL = f"""
[agent]
client = "web-1"
identity = "/etc/hsmd/agent_ed25519"
[[daemon]]
address = "10.0.0.1:7440"
host_keys = ["{HOST_KEY}"]
"""


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return list(caught.value.faults)


def test_minimal() -> None:
    config = parse(MINIMAL)
    assert config.client == "web-1"
    assert config.socket.path == Path("/run/hsmd/agent.sock")
    assert (config.socket.mode, config.socket.owner, config.socket.group) == (0o660, KEEP, KEEP)
    assert config.state == Path("/var/lib/hsmd-agent")
    assert [daemon.address for daemon in config.daemons] == ["10.0.0.1:7440"]
    assert config.daemons[0].user == "web-1"
    assert config.daemons[0].certificate_file is None
    assert not config.rules.allow(0, "www")


def test_everything(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f"""
[agent]
socket = "/run/x/agent.sock"
mode = "0600"
owner = "{ME}"
group = "12345"
state = "/var/lib/x"
client = "web-1"
identity = "/id"
certificate = "/id-cert.pub"
[[daemon]]
address = "10.0.0.1"
host_keys = ["{HOST_KEY}"]
[[daemon]]
address = "[2001:db8::1]:7441"
host_keys = ["cert-authority {HOST_KEY}", "{HOST_KEY}"]
[defaults]
users = ["1000"]
[keys."www.example.net"]
users = ["{ME}", "65534"]
[keys.all]
users = ["*"]
[keys.none]
users = []
""")
    config = load(path)
    assert (config.socket.mode, config.socket.owner, config.socket.group) == (0o600, os.getuid(), 12345)
    assert [daemon.address for daemon in config.daemons] == ["10.0.0.1:7440", "[2001:db8::1]:7441"]
    assert config.daemons[1].certificate_file == Path("/id-cert.pub")
    assert config.rules.default == {1000}
    assert config.rules.by_key == {"www.example.net": {os.getuid(), 65534}, "all": None, "none": frozenset()}


def test_all_faults_are_reported_at_once() -> None:
    reported = faults("""
colour = "red"
[agent]
socket = "run/agent.sock"
mode = "888"
owner = "no-such-user-here"
group = "no-such-group-here"
state = 5
identity = "id"
unknown = 1
[[daemon]]
address = "a b"
host_keys = ["ssh-rsa AAAA"]
port = 22
[defaults]
users = ["no-such-user-here"]
[keys.www]
user = ["x"]
""")
    assert {fault.partition(":")[0] for fault in reported} == {
        "colour", "agent.socket", "agent.mode", "agent.owner", "agent.group", "agent.state", "agent.client", "agent.identity",
        "agent.unknown", "daemon[0].port", "defaults.users", "keys.www.users", "keys.www.user",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("10.0.0.1:7440", "a b"), "daemon[0].address: 'a b'"),
        ((f'host_keys = ["{HOST_KEY}"]', "host_keys = []"), "daemon[0].host_keys: none given"),
        (
            (f'host_keys = ["{HOST_KEY}"]', 'host_keys = "x"'),
            "daemon[0].host_keys: must be a list of strings",
        ),
        (
            (f'host_keys = ["{HOST_KEY}"]', "host_keys = [1]"),
            "daemon[0].host_keys: must be a list of strings",
        ),
        (("ssh-ed25519", "ssh-rsa"), "daemon[0].host_keys: 'ssh-rsa"),
        (("[[daemon]]", "[daemon]"), "daemon: must be one or more [[daemon]] tables"),
        (("web-1", "web 1"), "agent.client: is not a client name"),
        (('"web-1"', "1"), "agent.client: must be a string"),
        (("[agent]", '[agent]\nsocket = "/run/../agent.sock"'), "agent.socket: must name a file, without .."),
        (("[agent]", f'[agent]\nsocket = "/{"x" * 110}"'), "agent.socket: longer than"),
        (("[agent]", '[agent]\nsocket = "@abstract"'), "agent.socket: '@abstract' must be an absolute path"),
        (("[agent]", "[agent]\nmode = 660"), "agent.mode: must be a string"),
        (("[agent]", "keys = 1\n[agent]"), "keys: must be a table"),
    ],
)
def test_single_faults(change: tuple[str, str], fault: str) -> None:
    reported = faults(MINIMAL.replace(*change))
    assert any(entry.startswith(fault) for entry in reported), reported


def test_no_daemon_and_a_daemon_listed_twice_are_faults() -> None:
    assert faults(MINIMAL.partition("[[daemon]]")[0]) == [
        "daemon: is missing; it must be one or more [[daemon]] tables"
    ]
    daemon = MINIMAL[MINIMAL.index("[[daemon]]") :]
    assert faults(MINIMAL + daemon) == ["daemon: 10.0.0.1:7440 is listed twice"]


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load(tmp_path / "bad.toml")
    assert "not TOML" in faults("[agent")[0]
    assert "not TOML" in faults("x = " + "[" * 100_000)[0]


def test_a_file_that_is_too_large_is_refused_and_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(MINIMAL + "#" * (1 << 20))
    with pytest.raises(ConfigurationError, match="more than 1048576 bytes"):
        load(path)


def test_an_empty_client_name_is_refused() -> None:
    assert faults(MINIMAL.replace("web-1", "")) == ["agent.client: must be a string that is not empty"]


def test_statement_keys_are_pinned_and_checked() -> None:
    key = "hsmd.statement/fra-1+{}+AVXbMaNQKT0hFpOcUoAmty1abYe5iI9nRYEfm0gniSfX"
    raw = base64.b64decode(key.rpartition("+")[2])
    good = key.format(key_id("hsmd.statement/fra-1", raw[0], raw[1:]).hex())
    assert parse(MINIMAL).statement_keys == ()
    pinned = MINIMAL.replace("[[daemon]]", f'statement_keys = ["{good}"]\n[[daemon]]')
    assert [each.vkey for each in parse(pinned).statement_keys] == [good]
    (fault,) = faults(pinned.replace("fra-1", "lon-1"))
    assert "statement_keys" in fault and "not a verifier key" in fault
