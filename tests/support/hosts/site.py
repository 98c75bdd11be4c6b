"""A key host and a front end that the documents set up: addresses, token and the client of the public side."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts.bed import Bed
from tests.support.hosts.documents import ADDRESSES, MODULE, SECRETS, TOKEN_LABEL, Step, carry_out, steps
from tests.support.hosts.host import Host
from tests.support.hosts.roots import Root
from tests.support.processes import program

PUBLIC = "198.51.100"
"""The first three numbers of the network on which TLS clients reach front ends (RFC 5737)."""
_LAST = {name: address.rpartition(".")[2] for name, address in ADDRESSES.items()}


_TOKENS = "/var/lib/softhsm/tokens"
SOFTHSM = "runuser -u hsmd-token -- softhsm2-util"
_MODULE = f"""
install -d "$(dirname {MODULE})"
ln -sf "$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)" {MODULE}
useradd --system --uid 890 --user-group --no-create-home --shell /usr/sbin/nologin --groups softhsm hsmd-token
"""
_CLIENT = Path(__file__).with_name("client_loop.py")


@dataclass(slots=True)
class Clients:
    """What a loop of clients saw, when it has ended: see `Site.clients`."""

    handshakes: int = 0
    failures: Mapping[str, int] = ()  # type: ignore[assignment]
    certificates: Mapping[str, tuple[float, float]] = ()  # type: ignore[assignment]
    longest_s: float = 0.0
    outage_s: float = 0.0


class Site:
    """Hosts with the names and addresses of the documents. Several sites in one bed do not see each other."""

    def __init__(
        self, bed: Bed, name: str, roots: Mapping[str, Root], binds: Mapping[Path, str] | None = None
    ) -> None:
        self.bed = bed
        self.name = name
        self.dedicated = bed.network("10.9.0.254/24")
        self.public = bed.network(f"{PUBLIC}.254/24")
        self._binds = binds or {}
        self._tokens = bed.directory / f"{name}-tokens"  # key hosts share a token, as one on the network
        self._tokens.mkdir()
        self.hosts: dict[str, Host] = {host: self._made(host, root) for host, root in roots.items()}

    def _made(self, name: str, root: Root) -> Host:
        binds = dict(self._binds)
        if name.startswith("key"):
            binds[self._tokens] = f"{_TOKENS}:rw"
        networks = {self.dedicated: ADDRESSES[name]}
        if name == "front":
            networks[self.public] = f"{PUBLIC}.{_LAST[name]}"
        return self.bed.host(name, root, networks, binds, log=f"{self.name}-{name}")

    @property
    def key(self) -> Host:
        """The key host."""
        return self.hosts["key"]

    @property
    def front(self) -> Host:
        """The front end."""
        return self.hosts["front"]

    @property
    def public_address(self) -> str:
        """Where TLS clients find the front end."""
        return f"{PUBLIC}.{_LAST['front']}"

    def make_token(self) -> None:
        """What comes with a token: its module at the documents' path, and a user that may use it."""
        for name, host in self.hosts.items():
            if name.startswith("key"):
                host.sh(_MODULE)
        self.key.sh(f"""
            chown root:softhsm {_TOKENS}
            chmod 2770 {_TOKENS}
            {SOFTHSM} --init-token --free --label {TOKEN_LABEL} --pin {SECRETS["PIN"]} --so-pin so-pin-1234
        """)

    def do(self, journey: str) -> list[tuple[Step, str]]:
        """Carry out the steps of a journey on the hosts that this site has; return them with what they printed."""
        return [(step, carry_out(step, self.hosts)) for step in steps(journey) if step.host in self.hosts]

    def handshake(
        self, port: int = 443, name: str = "www.example.org", *options: str
    ) -> subprocess.CompletedProcess[str]:
        """A handshake of an ordinary client on the public side (openssl s_client)."""
        return self.public.run(
            program("openssl"), "s_client", "-connect", f"{self.public_address}:{port}", "-servername", name, "-brief", *options,
            timeout_s=20,
        )  # fmt: skip

    @contextmanager
    def clients(self, port: int = 443, name: str = "www.example.org", version: str = "") -> Iterator[Clients]:
        """Handshakes of a client on the public side, one after the other, while the block runs."""
        seen = Clients()
        words = [*self.public.prefix, sys.executable, str(_CLIENT), self.public_address, str(port), name]
        with subprocess.Popen(
            [*words, *([version] if version else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as loop:
            try:
                yield seen
            finally:
                out, _ = loop.communicate(timeout=30)
        for member, value in json.loads(out).items():
            setattr(seen, member, value)
