"""A complete installation: token and daemon, agent and nginx, and a certificate for every key."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.protocol.messages import CertificateImport, GrantAdd, KeyGenerate, KeyInfo, KeyShow
from tests.support import network as networks
from tests.support.authority import Authority, private_pem
from tests.support.front_end import HOST, Agent, Nginx, Served
from tests.support.installed_daemon import Daemon
from tests.support.polling import wait_until
from tests.support.provider_build import build_module
from tests.support.tls_client import Handshake, client_context, shake_hands

CLIENT = "web1"


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """A key of the site."""

    name: str
    key_type: str
    purposes: tuple[str, ...]
    decrypts: bool = False

    @property
    def host(self) -> str:
        """The DNS name it serves."""
        return f"{self.name}.test"


KEYS = (
    KeyPlan("p256", "p-256", ("tls-server",)),
    KeyPlan("p384", "p-384", ("tls-server",)),
    KeyPlan("p521", "p-521", ("tls-server",)),
    KeyPlan("rsa", "rsa-2048", ("tls-server",)),
    KeyPlan("ed25519", "ed25519", ("tls-server",)),
    KeyPlan("rsakx", "rsa-2048", ("tls12-rsa-premaster",), decrypts=True),
)
PEM_HOST = "pem.test"
"""A name that the same nginx serves with a private key in a PEM file."""
PEM_RSA_HOST = "pem-rsa.test"


class Site:
    """Built once for all tests; `settle` restores what a test has changed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hsmd-e2e-"))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.chmod(0o755)
        self.module = build_module(self.directory / "provider")
        self.network = networks.make()
        self._stack.callback(self.network.close)
        self.authority = Authority(self.directory)
        self.daemon = Daemon(self._new("daemon"), self.network)
        self._stack.callback(self.daemon.close)
        self.daemon.start()
        self.daemon.wait_for_token()
        self.agent = Agent(self.directory / "agent", self.daemon, CLIENT)
        self._stack.callback(self.agent.stop)
        self.keys: dict[str, KeyInfo] = {plan.name: self.make_key(plan) for plan in KEYS}
        self.agent.start()
        self.served = [Served(plan.host, *self.agent.export(plan.name)) for plan in KEYS]
        self.served += [
            self.pem_files(PEM_HOST, ec.generate_private_key(ec.SECP256R1())),
            self.pem_files(PEM_RSA_HOST, rsa.generate_private_key(65537, 2048)),
        ]
        self.openssl = self.agent.openssl(self.module)
        self.nginx = Nginx(self.directory / "nginx", self.openssl, self.served)
        self._stack.callback(self.nginx.stop)
        self.nginx.start()

    def close(self) -> None:
        """End everything and remove every file."""
        self._stack.close()

    def _new(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(mode=0o755)
        return path

    # --- keys and certificates ---

    def make_key(self, plan: KeyPlan, *clients: str) -> KeyInfo:
        """Generate a key, certify it, and grant it to the clients (by default the site's agent)."""
        info: KeyInfo = self.daemon.ask(KeyGenerate(plan.name, plan.key_type, list(plan.purposes)))
        return self.certify(info, plan, *clients)

    def certify(self, info: KeyInfo, plan: KeyPlan, *clients: str) -> KeyInfo:
        """Issue a certificate from the test authority, and add grants."""
        public_key, is_client = load_der_public_key(info.public_key), plan.purposes == ("tls-client",)
        chain = self.authority.issue(public_key, plan.host, decrypts=plan.decrypts, client=is_client)
        info = self.daemon.ask(CertificateImport(plan.name, chain, force=True))  # without the root
        for client in clients or (CLIENT,):
            self.daemon.ask(GrantAdd(client, plan.name, list(plan.purposes)))
        return info

    def import_key(self, plan: KeyPlan, pem: bytes) -> None:
        """Import a private key with `hsmd key import`, remove its file, certify it and grant it."""
        path = self.daemon.directory / f"{plan.name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(pem)
        purposes = [word for purpose in plan.purposes for word in ("--purpose", purpose)]
        try:
            self.daemon.command("key", "import", plan.name, path, "--config", self.daemon.config, *purposes)
        finally:
            path.unlink()
        self.certify(self.daemon.ask(KeyShow(plan.name)), plan)

    def pem_files(self, host: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Served:
        """A name with an ordinary private key in a PEM file."""
        directory = self.directory / "pem"
        directory.mkdir(exist_ok=True)
        chain, private = directory / f"{host}.pem", directory / f"{host}.key"
        chain.write_text(self.authority.issue(key.public_key(), host))
        private.touch(mode=0o600)
        private.write_bytes(private_pem(key))
        return Served(host, chain, private)

    def second_nginx(self, name: str, served: list[Served], *, host: str = HOST, extra: str = "") -> Nginx:
        """Start another nginx, with one worker."""
        nginx = Nginx(
            self.directory / f"nginx-{name}", self.openssl, served, workers=1, host=host, extra=extra
        )
        nginx.start()
        return nginx

    # --- using it ---

    def handshake(
        self,
        host: str,
        version: str = "",
        ciphers: str = "",
        *,
        nginx: Nginx | None = None,
        timeout_s: float = 10.0,
    ) -> Handshake:
        """Do a verified handshake with a name. Raises ssl.SSLError or OSError."""
        context = client_context(self.authority.file, version, ciphers)
        return shake_hands((HOST, (nginx or self.nginx).port), host, context, timeout_s)

    def serves(self, host: str = "p256.test") -> bool:
        """Whether a handshake with the name succeeds."""
        try:
            self.handshake(host, timeout_s=2.0)
        except OSError:
            return False
        return True

    def settle(self) -> None:
        """Start and connect whatever does not run, and wait until a handshake succeeds."""
        self.network.restore()
        if not self.daemon.running:
            self.daemon.start()
        if not self.agent.running:
            self.agent.start(connected=False)
        if not self.nginx.running:
            self.nginx.start()
        self.daemon.wait_for_token()
        wait_until(lambda: self.agent.connected, "the agent is connected", 20)
        wait_until(self.serves, "a handshake succeeds", 20)


def is_root() -> bool:
    """Whether the tests run as root."""
    return os.geteuid() == 0
