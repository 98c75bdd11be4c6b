"""The health table of docs/monitoring.md: what a daemon and an agent tell in each state, taken from real ones.

The table in the document is what this test saw. After a change that is meant, write it anew:
HSMD_WRITE_TABLES=1 .venv/bin/python -m pytest tests/faults/test_health_table.py
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import io
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from prometheus_client.parser import text_string_to_metric_families

from hsmd import cli
from hsmd.client import AgentEndpoint, Client
from hsmd.errors import AuditFailure, HsmdError
from hsmd.protocol import messages
from hsmd.provider import openssl_configuration
from hsmd.purposes import Purpose
from tests.support.agent_process import AgentProcess
from tests.support.authority import Authority
from tests.support.daemon import OPERATOR, WEB, Daemon, public_line
from tests.support.fault_module.control import FaultModule
from tests.support.fault_module.disk import FailingDisk
from tests.support.fleet import free_port
from tests.support.monitoring_files import exposed, expressions, names_in
from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.provider_build import build_module
from tests.support.tls_bytes import P256, tls13

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
BEGIN, END = "<!-- health table: begin -->", "<!-- health table: end -->"
DATABASE = "health_table"
KEY = "www"
OF_OTHERS = {"certificate.replaced", "client.enrolled", "events.position", "grant.exhausted"}
"""Kinds of events that tell of what the test did, not of health."""
WITHIN_S = 30.0
VARIABLE = r"127\.0\.0\.1:\d+|\d+ s ago|\d+ MiB|\(\d{4}.*?\)"
"""What differs from run to run in the text of a finding."""

pytestmark = pytest.mark.timeout(240)


class Place:
    """A daemon, an agent that serves one key of it, and the files of a TLS server that uses the key."""

    def __init__(self, stack: ExitStack, directory: Path, module: FaultModule, cluster: Cluster) -> None:
        cluster.run(f"CREATE DATABASE {DATABASE}")
        self.module, self.cluster = module, cluster
        self.disk = FailingDisk(directory / "disk")
        self.ports = {"daemon": free_port(), "agent": free_port()}
        self.daemon = Daemon(
            directory / "daemon",
            before=module.before,
            token_settings={"probe_s": 1},
            environment=self.disk.environment,
            store_url=cluster.url(DATABASE),
            addresses=[f"127.0.0.1:{free_port()}"],
            metrics=f"127.0.0.1:{self.ports['daemon']}",
            checkpoint_s=1,
        )
        self.pin = self.daemon.pin_file.read_text()
        stack.callback(self.daemon.end)
        self.daemon.start()
        self.daemon.add_key(KEY)
        self.authority = Authority(directory)
        self.certify()
        self.agent = AgentProcess(directory / "agent", self.daemon, WEB)
        self.configuration = self.agent.config.read_text()
        self.configure_agent("")
        stack.callback(self.agent.stop)
        self.agent.start()
        self.keys = directory / "keys"
        self.export()
        self.openssl = directory / "openssl.cnf"
        self.openssl.write_text(
            openssl_configuration(str(self.agent.socket), 2_000, build_module(directory / "provider"))
        )
        self.hsmd_toml = self.daemon.config.read_text()

    # --- what states do ---

    def certify(self, *, expired: bool = False) -> None:
        info = self.daemon.ask(messages.KeyShow(KEY))
        begun, left = (80, -1) if expired else (1, 60)
        chain = self.authority.issue(
            load_der_public_key(info.public_key),
            "www.test",
            begun=dt.timedelta(days=begun),
            left=dt.timedelta(days=left),
        )
        self.daemon.ask(messages.CertificateImport(KEY, chain, force=True))

    def export(self) -> None:
        """Write the files that the TLS server loads."""
        files = ("--config", self.agent.config, "--out", self.keys)
        assert self.hsmd("agent", "export", KEY, *files)[0] == 0

    def configure_agent(self, more: str) -> None:
        metrics = f'[metrics]\naddress = "127.0.0.1:{self.ports["agent"]}"\n'
        self.agent.config.write_text(f"{self.configuration}\n{metrics}{more}")

    def restart_with(self, old: str, new: str) -> None:
        """Restart the daemon with another configuration."""
        self.daemon.stop()
        assert old in self.hsmd_toml
        self.daemon.config.write_text(self.hsmd_toml.replace(old, new, 1))
        self.daemon.begin()

    def restart(self) -> None:
        """Restart the daemon with the configuration as it was."""
        self.daemon.end()
        self.daemon.config.write_text(self.hsmd_toml)
        self.daemon.begin()

    # --- what it tells ---

    def hsmd(self, *arguments: str | Path) -> tuple[int, str]:
        """Exit code and standard output of a command line, run in this process."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = cli.run(list(map(str, arguments)))
        return code, out.getvalue()

    def status(self, *options: str) -> tuple[int, str]:
        endpoint = self.daemon.endpoint(OPERATOR)
        host_keys = [word for line in endpoint.host_keys for word in ("--host-key", line)]
        who = ("--daemon", endpoint.address, "--user", OPERATOR, "--identity", endpoint.identity_file)
        return self.hsmd("status", *map(str, who), *host_keys, *options)

    def agent_status(self, *options: str) -> tuple[int, str]:
        return self.hsmd("agent", "status", "--socket", self.agent.socket, *options)

    def agent_check(self) -> tuple[int, list[str]]:
        """Exit code, and the subjects of the problems."""
        code, text = self.hsmd(
            "agent", "check", KEY, "--config", self.agent.config, "--file", self.keys / f"{KEY}.key",
            "--openssl", self.openssl, "--json",
        )  # fmt: skip
        found = json.loads(text)["findings"]
        return code, list(dict.fromkeys(each["subject"] for each in found if not each["ok"]))

    def get(self, which: str, path: str) -> tuple[str, str]:
        """Status and body; ("-", "") if the endpoint does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[which], timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return str(answer.status), answer.read().decode()
        except OSError:
            return "-", ""
        finally:
            connection.close()

    def conditions(self, which: str) -> list[str]:
        """The conditions that /readyz names."""
        _, body = self.get(which, "/readyz")
        return [each["condition"] for each in json.loads(body)["findings"]] if body else ["(no answer)"]

    def cursor(self) -> str:
        return str(self.daemon.ask(messages.EventsRead("now")).cursor)

    def events(self, since: str) -> list[str]:
        with contextlib.suppress(HsmdError, OSError):
            page = self.daemon.ask(messages.EventsRead(since))
            return [each.kind for each in page.events if each.kind not in OF_OTHERS]
        return []


@dataclass(frozen=True)
class State:
    """A state: how it begins and ends, the conditions that daemon and agent are to tell, and the events of it."""

    name: str
    begin: Callable[[Place], None]
    end: Callable[[Place], None]
    daemon: tuple[str, ...]
    agent: tuple[str, ...]
    events: tuple[str, ...] = ()


def nothing(place: Place) -> None:
    """The state is the normal one."""


def refuse_pin(place: Place) -> None:
    place.daemon.pin_file.write_text("wrong-pin-1234\n")
    for pid in place.daemon.worker_pids():
        os.kill(pid, signal.SIGKILL)


def correct_pin(place: Place) -> None:
    place.daemon.pin_file.write_text(place.pin)
    place.daemon.ask(messages.TokenClear("main"))


def lose_store(place: Place) -> None:
    place.cluster.run(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
    place.cluster.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}'")


def find_store(place: Place) -> None:
    place.cluster.run(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")


def miss_module(place: Place) -> None:
    place.restart_with(str(place.daemon.token.module), "/usr/lib/vendor/libpkcs11.so")


def fill_disk(place: Place) -> None:
    place.restart_with("[audit]\n", f"[audit]\nreserve_mib = {2**30}\nwarn_free_mib = {2**30}\n")


def fail_log(place: Place) -> None:
    """Nothing is written while nothing happens, so the first use of a key notices it."""
    place.disk.fail(write=28)
    key = bytes.fromhex(place.daemon.ask(messages.KeyShow(KEY)).digest)
    with Client.connect(AgentEndpoint(place.agent.socket)) as agent, pytest.raises(AuditFailure):
        agent.use_key(key, Purpose.TLS13_SERVER, P256, tls13(1), timeout_s=5)


def certify(place: Place, *, expired: bool = False) -> None:
    """Store another certificate, and have the agent notice it now."""
    place.certify(expired=expired)
    ask_about_key(place)
    if not expired:
        place.export()


def ask_about_key(place: Place) -> None:
    """Have the agent ask for its key now; it does that by itself once a minute, and after a refused operation."""
    with Client.connect(AgentEndpoint(place.agent.socket)) as agent, contextlib.suppress(HsmdError):
        agent.control(messages.KeyShow(KEY), timeout_s=5)


def take_grant(place: Place) -> None:
    place.daemon.ask(messages.GrantRemove(WEB, KEY, ["tls-server"]))
    ask_about_key(place)


def give_grant(place: Place) -> None:
    place.daemon.ask(messages.GrantAdd(WEB, KEY, ["tls-server"]))
    ask_about_key(place)


def revoke(place: Place) -> None:
    fingerprint = place.daemon.keys[WEB].get_fingerprint()
    place.daemon.ask(messages.ClientRevoke(fingerprint=fingerprint))


def register(place: Place) -> None:
    """Give the agent another key: a revoked one stays so. It gets it last, and so finds its grant when it connects."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    place.daemon.ask(messages.ClientRemove(WEB))
    place.daemon.ask(messages.ClientAdd(WEB, public_key=public_line(key)))
    place.daemon.ask(messages.GrantAdd(WEB, KEY, ["tls-server"]))
    key.write_private_key(place.daemon.directory / WEB)


def add_twin(place: Place) -> None:
    """A second daemon in agent.toml, where nothing listens."""
    line = place.daemon.endpoint(WEB).host_keys[0]
    place.configure_agent(f'[[daemon]]\naddress = "127.0.0.1:{free_port()}"\nhost_keys = ["{line}"]\n')
    place.agent.process.send_signal(signal.SIGHUP)


def remove_twin(place: Place) -> None:
    place.configure_agent("")
    place.agent.process.send_signal(signal.SIGHUP)


AWAY = ("token.away", "token.back")
FINDING = ("health.finding", "health.cleared")
STATES = (
    State("all well", nothing, nothing, (), ()),
    State(
        "token away", lambda place: place.module.token_away(), lambda place: place.module.token_back(),
        ("token-away",), ("daemon-failing",), AWAY,
    ),
    State("PIN refused", refuse_pin, correct_pin, ("pin-refused",), ("daemon-failing",), ("logins.stopped",)),
    State("module missing", miss_module, Place.restart, ("token-away",), ("daemon-failing",), ("token.away",)),
    State(
        "disk full", fill_disk, Place.restart, ("disk-full",), ("daemon-failing",),
        ("log.nearly-full", "health.finding"),
    ),
    State(
        "log not writable", fail_log, lambda place: place.disk.repair(),
        ("log-not-writable",), ("daemon-failing",), FINDING,
    ),
    State("store away", lose_store, find_store, ("store-away",), (), FINDING),
    State(
        "certificate expired", lambda place: certify(place, expired=True), certify,
        ("certificate-ended",), ("certificate-ended",), ("certificate.ending",),
    ),
    State("grant missing", take_grant, give_grant, (), ("no-key",)),
    State("client revoked", revoke, register, (), ("no-daemon",)),
    State("agent without upstream", lambda place: place.daemon.end(), Place.restart, ("(no answer)",), ("no-daemon",)),
    State("one of two daemons away", add_twin, remove_twin, (), ("daemon-away",)),
)  # fmt: skip


@pytest.fixture
def place(root: Path, fault_library: Path, cluster: Cluster) -> Iterator[Place]:
    with ExitStack() as stack:
        module = FaultModule(root / "faults", fault_library, watch=root / "daemon" / "audit" / "audit.jsonl")
        stack.callback(module.close)
        yield Place(stack, root, module, cluster)


def test_the_table_in_the_document_is_what_daemon_and_agent_tell(place: Place) -> None:
    settled(place, (), ())
    rows = [row_of(place, state) for state in STATES]
    scraped = {name for which in ("daemon", "agent") for name in exposed(place.get(which, "/metrics")[1])}
    named = {name for each in expressions().values() for text in each for name in names_in(text)}
    assert named - scraped == {"up"}, "rules and dashboard name metrics that no daemon and no agent exposes"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    table = rendered(rows)
    if os.environ.get("HSMD_WRITE_TABLES"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
        written = table
    assert written.strip() == table, f"the table in docs/monitoring.md is to be written anew:\n{table}"


def settled(place: Place, daemon: tuple[str, ...], agent: tuple[str, ...]) -> None:
    """Wait until both tell these conditions."""
    for which, expected in (("daemon", daemon), ("agent", agent)):
        wait_until(
            lambda which=which, expected=expected: tuple(place.conditions(which)) == expected,  # type: ignore[misc]
            f"the {which} tells {expected}, not {place.conditions(which)}",
            WITHIN_S,
        )
    wait_until(lambda: heard(place), "the agent has heard that the token has started", WITHIN_S)


def heard(place: Place) -> bool:
    """Whether the agent has heard of its daemon since a start."""
    return "token-starting" not in place.agent_status("--json")[1]


def row_of(place: Place, state: State) -> dict[str, str]:
    """Bring the state about, take what is told in it, and end it."""
    since = place.cursor()
    state.begin(place)
    settled(place, state.daemon, state.agent)
    row = {"state": state.name} | of_daemon(place) | of_agent(place)
    if "store-away" not in state.daemon:  # a daemon that is killed loses events that are not in the store yet
        until_told(
            place, since, [kind for kind in state.events if kind not in ("token.back", "health.cleared")]
        )
    state.end(place)
    settled(place, (), ())
    until_told(place, since, state.events)
    row["events"] = ", ".join(f"`{kind}`" for kind in state.events) or "-"
    return row


def until_told(place: Place, since: str, kinds: Sequence[str]) -> None:
    wait_until(lambda: set(kinds) <= set(place.events(since)), f"the events {kinds}", WITHIN_S)


def of_daemon(place: Place) -> dict[str, str]:
    code, text = place.status()
    status, _ = place.get("daemon", "/healthz")
    ready, _ = place.get("daemon", "/readyz")
    return {
        "status": said(text) or "cannot connect",
        "exit": str(code),
        "healthz": status,
        "readyz": ready,
        "metrics": metrics(place, "daemon", "hsmd"),
    }


def of_agent(place: Place) -> dict[str, str]:
    code, text = place.agent_status()
    status, _ = place.get("agent", "/healthz")
    ready, _ = place.get("agent", "/readyz")
    check, problems = place.agent_check()
    return {
        "agent status": said(text),
        "agent exit": str(code),
        "agent healthz": status,
        "agent readyz": ready,
        "agent metrics": metrics(place, "agent", "hsmd_agent"),
        "check": f"{check}" + (f": {', '.join(problems)}" if problems else ""),
    }


def said(text: str) -> str:
    """The first line of a status, and what its findings say before their reasons."""
    lines = text.splitlines()
    if not lines:
        return ""
    head = lines[0]
    told = []
    for line in lines[1:]:
        if not line.strip():
            break
        severity, _, rest = line.partition(" ")
        if severity in ("failing", "partial", "degraded"):
            what, _, reason = rest.strip().partition(": ")
            if what.endswith("reports"):
                what = f"{what}: {reason}"
            told.append(re.sub(VARIABLE, "...", what))
    return " ".join([head, "; ".join(told)]).strip()


def metrics(place: Place, which: str, prefix: str) -> str:
    """The level and the findings as metrics tell them."""
    status, text = place.get(which, "/metrics")
    if status == "-":
        return "`up` 0"
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    (level,) = [each.labels["level"] for each in samples if each.name == f"{prefix}_health" and each.value]
    found = [
        each.labels["condition"]
        for each in samples
        if each.name == f"{prefix}_health_findings" and each.value
    ]
    return f"`{level}`" + "".join(f" `{condition}`" for condition in found)


def rendered(rows: list[dict[str, str]]) -> str:
    """Both tables."""
    of_daemons = {
        "state": "state", "`hsmd status`": "status", "exit": "exit", "`/healthz`": "healthz", "`/readyz`": "readyz",
        "`hsmd_health`, `hsmd_health_findings`": "metrics", "events": "events",
    }  # fmt: skip
    of_agents = {
        "state": "state", "`hsmd agent status`": "agent status", "exit": "agent exit", "`/healthz`": "agent healthz",
        "`/readyz`": "agent readyz", "`hsmd_agent_health`, `hsmd_agent_health_findings`": "agent metrics",
        "`hsmd agent check`: exit, problems": "check",
    }  # fmt: skip
    return "\n\n".join(
        [
            "On the key host:",
            markdown(of_daemons, rows),
            "On the front end at the same time:",
            markdown(of_agents, rows),
        ]
    )


def markdown(columns: dict[str, str], rows: list[dict[str, str]]) -> str:
    lines = [" | ".join(columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(row[column] for column in columns.values()) for row in rows]
    return "\n".join(f"| {line} |" if line[0] != "-" else f"|{line}|" for line in lines)
