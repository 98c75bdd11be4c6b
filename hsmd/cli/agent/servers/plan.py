"""The plan of an installation: changes of files, and the steps that remain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsmd.cli.agent.servers import changes
from hsmd.cli.agent.servers.changes import Change
from hsmd.cli.base import server_list
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.deployment.servers import SUFFIX, Server

OPENSSL_CONFIGURATION = Path("/etc/hsmd/openssl.cnf")
SITE_CONFIGURATION = Path("/etc/ssl/openssl.cnf")
UNITS = Path("/etc/systemd/system")
ENVIRONMENT = f"OPENSSL_CONF={OPENSSL_CONFIGURATION}"
DECRYPTING_CIPHERS = "ECDHE+ECDSA:kRSA+AES"
DECRYPTING_SIGNATURES = "ECDSA+SHA256:ECDSA+SHA384:RSA+SHA256"
"""For a key that only decrypts: RSA key exchange with it, and what an ECDSA key on the same port can serve. Without RSA-PSS, TLS
1.3 does not use it."""
_SIGNING_CIPHERS = "HIGH:!aNULL:!MD5:!kRSA:!DHE"
"""For an RSA key that signs: no RSA key exchange, and no DHE, whose parameters the daemon does not sign."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an installation is asked for: keys, the directory that `agent export` wrote to, the agent's socket and configuration,
    the site's OpenSSL configuration, and where the files are written below."""

    keys: tuple[str, ...]
    exported: Path
    socket: Path
    config: Path
    site: Path = SITE_CONFIGURATION
    root: Path = Path("/")
    cluster: str = ""
    installed: tuple[str, ...] = ()
    """The keys that were installed for this server before."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """For RSA keys, as far as they are known: `signs with RSA`, or `decrypts`."""

    def ciphers(self, key: str) -> str:
        """The cipher suites of TLS 1.2 that a key can serve, as in ciphers(1); empty if it serves all that are chosen for it."""
        return {"decrypts": DECRYPTING_CIPHERS, "signs with RSA": _SIGNING_CIPHERS}.get(
            self.kinds.get(key, ""), ""
        )

    def signatures(self, key: str) -> str:
        """The signature algorithms that a server may offer with a key; empty for all."""
        return DECRYPTING_SIGNATURES if self.kinds.get(key) == "decrypts" else ""

    def below(self, path: Path) -> Path:
        """The path of a file of the running system, now."""
        return self.root / path.relative_to("/")

    def text(self, path: Path) -> str | None:
        """The text of such a file; None if there is none."""
        try:
            return self.below(path).read_text()
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in their order, the steps that remain, the files of each key that the server reads (reference and chain), and its
    systemd unit."""

    changes: tuple[Change, ...]
    steps: tuple[str, ...]
    files: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    unit: str = ""


def openssl_configuration(request: Request) -> Change:
    """The OpenSSL configuration. Raises CommandError if the provider is not installed, or a value is unsuitable."""
    from hsmd.provider import openssl_configuration as configuration

    site = request.below(request.site)
    try:
        text = configuration(str(request.socket), include=str(site))
    except FileNotFoundError as error:
        raise CommandError(str(error), "install hsmd from a wheel, which contains it") from None
    except ValueError as error:
        step = "choose another --socket" if str(error).startswith("socket") else "run the command again then"
        raise CommandError(str(error), step, Exit.USAGE) from None
    except OSError as error:
        raise CommandError(f"OpenSSL 3 is not installed: {error}", "install the package libssl3") from None
    return changes.whole(OPENSSL_CONFIGURATION, text.replace(str(site), str(request.site), 1))


def allowed(request: Request, user: str) -> list[Change]:
    """The user in agent.toml, for each key; nothing if there is no agent.toml yet."""
    if request.text(request.config) is None:
        return []
    return [changes.user(request.config, user, key) for key in request.keys]


def unit_drop_in(unit: str, *service: str) -> Change:
    """A drop-in that gives a service the OpenSSL configuration, and starts it after the agent."""
    lines = (
        "# OpenSSL reads the configuration that this variable names.",
        "[Unit]",
        "Wants=hsmd-agent.service",
        "After=hsmd-agent.service",
        "",
        "[Service]",
        f"Environment={ENVIRONMENT}",
        *service,
    )
    return changes.whole(UNITS / f"{unit}.d" / "hsmd.conf", "\n".join(lines) + "\n")


def after_agent(unit: str) -> Change:
    """A drop-in that starts a service, which has its environment from elsewhere, after the agent."""
    text = "# Handshakes need the agent.\n[Unit]\nWants=hsmd-agent.service\nAfter=hsmd-agent.service\n"
    return changes.whole(UNITS / f"{unit}.d" / "hsmd.conf", text)


def renewed(request: Request, server: str, unit: str, directory: Path) -> Change:
    """The entry of a server in the list of those whose certificates are renewed, with all its keys so far."""
    listed = Server(server, (directory,), frozenset((*request.installed, *request.keys)), unit)
    return changes.whole(server_list.beside(request.config) / f"{server}{SUFFIX}", server_list.text(listed))


def needs_keys(request: Request, server: str, *, one: bool = False) -> None:
    """Raises CommandError without a key, or with several where there must be one."""
    if not request.keys:
        raise CommandError(f"the key for {server} is not given", "add --key KEY", Exit.USAGE)
    if one and len(request.keys) > 1:
        raise CommandError(f"{server} uses one key", "give --key once", Exit.USAGE)
