"""The text of a new hsmd.toml, with a comment for each setting that somebody may want to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsmd.cli.base.toml import quote


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """The token a new configuration names: module, CKA label, the file with its PIN, environment of its workers."""

    module: Path
    label: str
    pin_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "token"
    workers: int = 1
    credential: str = ""
    """The systemd credential that the PIN file becomes; empty where workers read the file themselves."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of a daemon are."""

    config: Path
    state: Path

    @property
    def host_key(self) -> Path:
        """The daemon's SSH host key."""
        return self.config.parent / "host_ed25519"

    @property
    def database(self) -> Path:
        """The SQLite store."""
        return self.state / "hsmd.sqlite"

    @property
    def audit(self) -> Path:
        """The directory of the audit log."""
        return self.state / "audit"


def render(
    name: str,
    layout: Layout,
    listen: list[str],
    token: TokenChoice,
    front_user: str = "",
    worker_user: str = "",
) -> str:
    """The whole file."""
    addresses = ", ".join(quote(address) for address in listen)
    environment = ", ".join(f"{key} = {quote(value)}" for key, value in token.environment.items())
    return f"""\
# Configuration of an hsmd daemon. Paths that are not absolute are relative to this file's directory.
# What may be done with which key is not here: `hsmd key`, `hsmd client` and `hsmd grant` keep it in the store.

# What this daemon calls itself in logs and status, and its audit log in checkpoints: no two daemons of a fleet may share it.
name = {quote(name)}
# debug, info, warning or error.
#log_level = "info"

[listen]
# Literal addresses of the network that only front ends and operators can reach.
addresses = [{addresses}]
# Front ends pin the public half of this key: it must survive restarts and restores.
host_key = {quote(str(layout.host_key))}
# An OpenSSH host certificate for it, where front ends pin a host CA instead.
#host_certificate = "host_ed25519-cert.pub"
# Needed to listen on 0.0.0.0 or [::], which exposes the daemon to every network of this host.
#allow_wildcard = false

[store]
# SQLite for one daemon; for several that share keys: "postgresql+psycopg://user@host/database".
url = {quote(f"sqlite:///{layout.database}")}

[[token]]
name = {quote(token.name)}
# The PKCS#11 module of the token's vendor.
module = {quote(str(token.module))}
# The token is chosen by exactly one of label, serial and slot.
label = {quote(token.label)}
{_pin(token)}
# Environment variables that the module needs; set for its workers only.
environment = {{ {environment} }}
# One process and one PKCS#11 session each. As many as the token can use at once, at most one for each core with SoftHSM.
workers = {token.workers}
# A worker that makes no progress for so long is replaced.
#stall_ms = 2000
# A worker that is idle asks the token something this often (s): less than what a firewall on the way to it forgets.
#probe_s = 20
# One more worker that is logged in and waits: it takes over at once when another one is lost.
#spare = true
# Workers are replaced by fresh ones, one at a time and without a failed request, after so many operations or seconds; 0: never.
#recycle_after_operations = 5000000
#recycle_after_s = 86400
# RSA signatures are always verified before they leave; "all" verifies the others too.
#verify = "rsa"
# Workers cannot open connections; a module that talks to its HSM over the network needs true.
#network = false
# System calls that no module needs are refused to workers (seccomp); "off" where libseccomp is not to be had.
#sandbox = "on"
# Workers' memory is kept out of the swap if the system lets them; "always" insists, "never" does not try.
#lock_memory = "auto"

[audit]
directory = {quote(str(layout.audit))}
# "group": records of handshakes are synced to disk in groups. "always": each before its key is used.
#sync = "group"

[limits]
# Connections that have not logged in yet, and the seconds they have for it.
#startups = 32
#login_s = 10
# Networks whose failed logins are not held against them: relays that many come through.
#penalty_exempt = ["127.0.0.0/8", "::1/128"]
# Connections in all, requests one connection may have open, requests waiting for a token.
#connections = 1000
#open_requests = 512
#queue = 4096
# Seconds that open requests have to end when the daemon stops.
#drain_s = 10

[metrics]
# Where Prometheus may ask (GET /metrics). Names of clients and keys are shown there: anything but loopback needs allow_network.
address = "127.0.0.1:9444"
#allow_network = false
# Series of operations at most (client, key, purpose, outcome); what comes then is counted as "other".
#series = 1000

[users]
# When started as root: the users for the process on the network and for the workers with the PIN.
{_setting("front", front_user, "hsmd")}
{_setting("workers", worker_user, "hsmd-token")}
"""


def _pin(token: TokenChoice) -> str:
    if token.credential:
        return f"""\
# The systemd credential with the user PIN and nothing else (LoadCredential= of the unit); outside of systemd: pin_file.
pin_credential = {quote(token.credential)}"""
    return f"""\
# The file holds the user PIN and nothing else. With systemd's LoadCredential= name the credential instead:
#pin_credential = "pin"
pin_file = {quote(str(token.pin_file))}"""


def _setting(name: str, value: str, example: str) -> str:
    return f"{name} = {quote(value)}" if value else f"#{name} = {quote(example)}"
