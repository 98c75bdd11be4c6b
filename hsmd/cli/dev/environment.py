"""The environment of `hsmd dev`: directory, token, daemon, keys, and optionally an agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmd.cli.base import agent_toml, profile as profiles, sqlite_store, ssh_keys
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, connect
from hsmd.cli.base.daemon_toml import Layout, TokenChoice, render
from hsmd.cli.base.files import PRIVATE, PUBLIC, write_new
from hsmd.cli.base.key_files import export_key
from hsmd.cli.base.output import Output, fields, to_json
from hsmd.cli.base.sqlite_store import FirstClient
from hsmd.cli.dev import child_processes, temporary_directory
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.messages import CertificateSelfSigned, GrantAdd, KeyGenerate, KeyInfo, Status

if TYPE_CHECKING:
    from hsmd.cli.base.output import TextOutput
    from hsmd.client import Client

OPERATOR = "operator"
FRONT_END = "front-end"
CERTIFICATE_DAYS = 30
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key to generate, from NAME:TYPE:PURPOSE,..."""

    name: str
    key_type: str
    purposes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadyKey:
    """A generated key: digest in hex, and the files that a TLS server loads (`chain` is empty without a certificate)."""

    name: str
    key_type: str
    digest: str
    reference: str
    chain: str


@dataclass(frozen=True, slots=True)
class Ready:
    """How to use the environment. `operator` and `front_end` are client names, each with an identity file."""

    address: str
    host_key: str
    directory: str
    profile: str
    operator: str
    operator_identity: str
    front_end: str
    front_end_identity: str
    agent_socket: str
    openssl_configuration: str
    keys: list[ReadyKey]


def run(
    output: Output,
    keys: Sequence[KeySpec],
    *,
    workers: int,
    with_agent: bool,
    one_line: bool,
    show_log: bool,
) -> None:
    """Start everything, print how to use it, wait for the end, and remove everything."""
    with suppress(child_processes.Terminated), child_processes.terminated_by_signals():
        child_processes.follow_parent()
        with ExitStack() as resources:
            children: list[subprocess.Popen[bytes]] = []
            directory = resources.enter_context(temporary_directory.directory())
            log = resources.enter_context(_log(directory, show_log))
            with output.working("preparing a token, a daemon and keys"):
                ready = _start(resources, directory, keys, workers, children, log, with_agent)
            _announce(output, ready, one_line)
            child_processes.wait_for_the_end(children)


@contextmanager
def _log(directory: Path, show: bool) -> Iterator[int]:
    """The log of the children: standard error, or a file that is printed if an error occurs."""
    if show:
        yield sys.stderr.fileno()
        return
    path = directory / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
    try:
        yield descriptor
    except Exception:
        sys.stderr.write(path.read_text(errors="replace"))
        raise
    finally:
        os.close(descriptor)


def _start(
    resources: ExitStack,
    directory: Path,
    keys: Sequence[KeySpec],
    workers: int,
    children: list[subprocess.Popen[bytes]],
    log: int,
    with_agent: bool,
) -> Ready:
    layout = Layout(directory / "hsmd.toml", directory)
    host = prepare(layout, workers)
    address = start_daemon(resources, layout, children, log)
    profile = profiles.Profile(address, OPERATOR, directory / OPERATOR, (host,))
    profile_file = directory / profiles.PROFILE_NAME
    write_new(profile_file, profiles.render(profile), PRIVATE)
    with connect(profile) as client:
        wait_for_token(client, children[0], workers)
        ready_keys = [_make(client, key, directory) for key in keys]
    socket = start_agent(resources, directory, profile, children, log) if with_agent else ""
    return Ready(
        address=address,
        host_key=host,
        directory=str(directory),
        profile=str(profile_file),
        operator=OPERATOR,
        operator_identity=str(directory / OPERATOR),
        front_end=FRONT_END,
        front_end_identity=str(directory / FRONT_END),
        agent_socket=socket,
        openssl_configuration=_openssl(directory, socket) if socket else "",
        keys=ready_keys,
    )


def prepare(layout: Layout, workers: int) -> str:
    """Create token, host key, store with two clients, and configuration; return the host key line."""
    from hsmd.pkcs11.softhsm import make_token
    from hsmd.protocol.roles import Role

    made = make_token(layout.state / "softhsm")
    host = ssh_keys.make(layout.host_key, "temporary host key")
    clients = [
        FirstClient(name, role, ssh_keys.make(layout.state / name, f"temporary {name}"))
        for name, role in ((OPERATOR, Role.OPERATOR), (FRONT_END, Role.FRONT_END))
    ]
    sqlite_store.create(layout.database, clients)
    token = TokenChoice(
        made.module, made.label, made.pin_file, made.environment, name="softhsm", workers=workers
    )
    write_new(layout.config, render("dev", layout, ["127.0.0.1:0"], token), PRIVATE)
    return host.line


def start_daemon(
    resources: ExitStack, layout: Layout, children: list[subprocess.Popen[bytes]], log: int
) -> str:
    """Start the daemon; return its address, with the port that the system chose."""
    reader, writer = os.pipe()
    try:
        arguments = ["serve", "--config", str(layout.config), "--ready-fd", str(writer)]
        child = child_processes.start(
            arguments, pass_fds=[writer], log=log, run_time_directory=layout.config.parent
        )
    finally:
        os.close(writer)
    resources.callback(child_processes.stop, child)
    children.append(child)
    os.set_blocking(reader, False)
    with open(reader, "rb") as pipe:
        notice = bytearray()
        child_processes.wait_for(lambda: _has_line(pipe, notice), "the daemon", seconds=READY_S, child=child)
    return str(json.loads(notice)["addresses"][0])


def _has_line(pipe: Any, notice: bytearray) -> bool:
    notice += pipe.read() or b""
    return notice.endswith(b"\n")


def wait_for_token(
    client: Client, child: subprocess.Popen[bytes], workers: int, seconds: float = READY_S
) -> None:
    """Wait until all workers are ready: those that sign, of which there are `workers`, the spare and the control worker.

    Raises CommandError after `seconds`.
    """

    def ready() -> bool:
        tokens = client.control(Status(), timeout_s=READY_S).tokens
        states = [worker.state for worker in tokens[0].workers] if tokens else []
        return len(states) == workers + 2 and all(state in ("ready", "spare") for state in states)

    child_processes.wait_for(ready, "the token", seconds=seconds, child=child)


def _make(client: Client, key: KeySpec, directory: Path) -> ReadyKey:
    """Generate a key with a self-signed certificate (unless it decrypts), a grant for the front end, and its public files."""
    request = KeyGenerate(key.name, key.key_type, list(key.purposes))
    try:
        info: KeyInfo = client.control(request, timeout_s=SLOW_TIMEOUT_S)
    except (BadRequest, Conflict) as error:
        raise type(error)(f"--key {key.name}:{key.key_type}: {error.text}") from None
    if "x509-self-signed" in info.purposes:
        names = ["localhost", f"{key.name}.test"]
        client.control(
            CertificateSelfSigned(key.name, names, ["127.0.0.1", "::1"], CERTIFICATE_DAYS),
            timeout_s=SLOW_TIMEOUT_S,
        )
    client.control(GrantAdd(FRONT_END, key.name, list(key.purposes)), timeout_s=SLOW_TIMEOUT_S)
    made = export_key(client, key.name, directory, timeout_s=SLOW_TIMEOUT_S)
    return ReadyKey(info.name, info.key_type, info.digest, str(made.reference), str(made.chain or ""))


def start_agent(
    resources: ExitStack,
    directory: Path,
    profile: profiles.Profile,
    children: list[subprocess.Popen[bytes]],
    log: int,
) -> str:
    """Start an agent for all local users; return its socket once it is connected."""
    socket = directory / "agent.sock"
    config = directory / "agent.toml"
    pinned = agent_toml.Pinned(profile.daemon, profile.host_keys, FRONT_END, directory / FRONT_END)
    local = agent_toml.Local(socket, directory / "agent", ("*",))
    write_new(config, agent_toml.render(local, pinned), PRIVATE)
    child = child_processes.start(
        ["agent", "run", "--config", str(config)], log=log, run_time_directory=directory
    )
    resources.callback(child_processes.stop, child)
    children.append(child)
    child_processes.wait_for(lambda: _is_connected(socket), "the agent", seconds=READY_S, child=child)
    return str(socket)


def _is_connected(socket: Path) -> bool:
    """Whether the agent answers and is connected to a daemon."""
    from hsmd.client import AgentEndpoint, Client
    from hsmd.errors import HsmdError
    from hsmd.protocol.messages import WhoAmI

    try:
        with Client.connect(AgentEndpoint(socket)) as agent:
            return bool(agent.control(WhoAmI(), timeout_s=5.0).daemon)
    except HsmdError:
        return False


def _openssl(directory: Path, socket: str) -> str:
    """Write the OpenSSL configuration for the agent; return its path, empty if the provider is not installed."""
    from hsmd.provider import openssl_configuration

    path = directory / "openssl.cnf"
    try:
        write_new(path, openssl_configuration(socket), PUBLIC)
    except FileNotFoundError:
        return ""
    return str(path)


def _announce(output: Output, ready: Ready, one_line: bool) -> None:
    if one_line:
        print(json.dumps(json.loads(to_json(ready)), ensure_ascii=True), flush=True)
        return
    output.show(
        asdict(ready),
        lambda: _text_output(ready),
        hints=f"\nManage it:  hsmd key list --profile {ready.profile}\n"
        "Stop it:    Ctrl-C; the directory is then removed.",
    )
    sys.stdout.flush()


def _text_output(ready: Ready) -> TextOutput:
    return fields(
        [
            ("daemon", ready.address),
            ("keys", ", ".join(f"{key.name} ({key.key_type})" for key in ready.keys)),
            ("agent", ready.agent_socket),
            ("openssl", ready.openssl_configuration and f"OPENSSL_CONF={ready.openssl_configuration}"),
            ("directory", ready.directory),
        ]
    )
