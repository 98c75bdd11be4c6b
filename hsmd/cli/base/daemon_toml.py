"""The text of a new hsmd.toml, with a comment for each setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsmd.cli.base.toml import quote


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """The token of a new configuration: module, label or serial number, file with the PIN, environment of its workers."""

    module: Path
    label: str
    pin_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "token"
    workers: int = 1
    credential: str = ""
    """Name of the systemd credential with the PIN; empty if workers read the file themselves."""
    serial: str = ""
    """In place of the label."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of a daemon's files."""

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
    store_url: str = "",
) -> str:
    """The whole file; with the store of `layout` if no `store_url` is given."""
    addresses = ", ".join(quote(address) for address in listen)
    environment = ", ".join(f"{key} = {quote(value)}" for key, value in token.environment.items())
    return f"""\
# Configuration of an hsmd daemon. Relative paths are relative to this file's directory.
# Keys, clients and grants are in the store: `hsmd key`, `hsmd client` and `hsmd grant` manage them.

# Name of this daemon in its log, status and audit checkpoints; must be unique in the fleet.
name = {quote(name)}
# debug, info, warning or error.
#log_level = "info"

[listen]
# Literal addresses, on a network that only front ends and operators can reach.
addresses = [{addresses}]
# SSH host key. Front ends pin its public half: keep it across restarts and restores.
host_key = {quote(str(layout.host_key))}
# OpenSSH host certificate for it, if front ends pin a host CA instead.
#host_certificate = "host_ed25519-cert.pub"
# Required to listen on 0.0.0.0 or [::], which exposes the daemon to every network of this host.
#allow_wildcard = false

[store]
# SQLite for a single daemon; for several that share keys: "postgresql+psycopg://user@host/database".
url = {quote(store_url or f"sqlite:///{layout.database}")}

[[token]]
name = {quote(token.name)}
# PKCS#11 module of the token's vendor.
module = {quote(str(token.module))}
# Selects the token; exactly one of label, serial and slot.
{f"serial = {quote(token.serial)}" if token.serial else f"label = {quote(token.label)}"}
{_pin(token)}
# Workers start one after the other with this lock file; by default in the run-time directory of their user.
#lock_file = ""
# Environment variables for the module; set in its workers only.
environment = {{ {environment} }}
# Worker processes, with one PKCS#11 session each: as many as the token serves in parallel; with SoftHSM at most one per core.
workers = {token.workers}
# A worker that makes no progress for this long (ms) is replaced.
#stall_ms = 2000
# An idle worker probes the token at this interval (s); keep it below the idle timeout of firewalls in between.
#probe_s = 20
# Keep one more worker logged in as a spare, which takes over at once when another worker is lost.
#spare = true
# Replace each worker after this many operations or seconds, one at a time and without failed requests; 0: never.
#recycle_after_operations = 5000000
#recycle_after_s = 86400
# RSA signatures are always verified before they are returned; "all" also verifies all others.
#verify = "rsa"
# Whether workers may open network connections; required for modules that reach their HSM over the network.
#network = false
# Workers may only use system calls that modules need (seccomp); "off" if libseccomp is not available.
#sandbox = "on"
# Lock workers' memory: "auto" if the system permits it, "always" (fail otherwise) or "never".
#lock_memory = "auto"

[audit]
directory = {quote(str(layout.audit))}
# "group": sync records of handshakes to disk in groups. "always": sync each record before its key is used.
#sync = "group"

[limits]
# Connections that have not logged in yet, and the time they have for it (s).
#startups = 100
#login_s = 10
# Networks without penalties for failed logins, such as relays that many clients share.
#penalty_exempt = ["127.0.0.0/8", "::1/128"]
# Limits on connections, open requests of one connection, and requests queued for a token.
#connections = 1000
#open_requests = 512
#queue = 4096
# Time that open requests have to finish when the daemon stops (s).
#drain_s = 10

[metrics]
# Address for Prometheus (GET /metrics). It exposes names of clients and keys: other than loopback requires allow_network.
address = "127.0.0.1:9444"
#allow_network = false
# Maximum number of operation series (client, key, purpose, outcome); further series are aggregated as "other".
#series = 1000

[certificates]
# A certificate is reported as ending soon so many days before its end, or in the last fifth of its term if that is less.
#warn_days = 14

[users]
# When started as root: the users that the front process and the workers run as.
{_setting("front", front_user, "hsmd")}
{_setting("workers", worker_user, "hsmd-token")}
"""


def _pin(token: TokenChoice) -> str:
    if token.credential:
        return f"""\
# systemd credential that contains only the user PIN (LoadCredential= in the unit); without systemd use pin_file.
pin_credential = {quote(token.credential)}"""
    return f"""\
# File that contains only the user PIN. With LoadCredential= of systemd, name the credential instead:
#pin_credential = "pin"
pin_file = {quote(str(token.pin_file))}"""


def _setting(name: str, value: str, example: str) -> str:
    return f"{name} = {quote(value)}" if value else f"#{name} = {quote(example)}"
