"""`hsmd bench`: operations per second of a temporary daemon, compared with the raw rate of the same token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hsmd.cli.base import programs
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.output import Output, table
from hsmd.cli.bench import web

if TYPE_CHECKING:
    from hsmd.testing import Daemon

app = typer.Typer(add_completion=False)

IN_FLIGHT = (1, 16, 64, 256)
WORKERS = (1, 2)
SECONDS = 4.0
QUICK_SECONDS = 0.8
ANSWER_S = 120.0
PROGRAMS = ("softhsm2-util", "nginx", "wrk")
"""Of other packages."""


@dataclass(frozen=True, slots=True)
class BenchKey:
    """A key to measure with: its name in the report, its type, and a TLS 1.3 signature scheme."""

    name: str
    key_type: str
    scheme: int


KEYS = (BenchKey("p256", "p-256", 0x0403), BenchKey("rsa2048", "rsa-2048", 0x0804))


@dataclass(frozen=True, slots=True)
class Operations:
    """Signatures over SSH on loopback. `cpu_us` is the CPU time of front process and workers per signature."""

    key: str
    workers: int
    in_flight: int
    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Handshakes:
    """Full TLS 1.3 handshakes of nginx; `via` is pem or hsmd."""

    key: str
    via: str
    handshakes_per_s: float


@command(
    app,
    "bench",
    example="hsmd bench --quick\nhsmd bench --json > bench.json\nhsmd bench --scale --keys 100 --keys 1000",
)
def bench(
    output: Output,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter measurements, less than 50 seconds in total.")
    ] = False,
    scale: Annotated[
        bool,
        typer.Option("--scale", help="Measure instead what many keys cost: starts, gaps, lists, memory."),
    ] = False,
    keys: Annotated[
        list[int] | None,
        typer.Option(
            "--keys",
            metavar="N",
            min=1,
            max=99_999,
            help="With --scale: number of keys; may be repeated.  [default: 100, 1000, 3000, 10000]",
        ),
    ] = None,
) -> None:
    """Measure operations per second: raw token, hsmd over SSH, and nginx with and without hsmd.

    It uses temporary daemons with a software token on loopback, and nginx and wrk of the distribution. Compare the ratios; the
    absolute figures depend mostly on the machine. The raw rate is that of a single python-pkcs11 process. With --scale it
    measures a daemon with many keys instead, which takes some minutes; the token is in a memory file system.
    """
    if scale:
        from hsmd.cli.bench import scale as many_keys

        many_keys.run(output, keys or many_keys.SIZES)
        return
    for program in PROGRAMS:
        programs.find(program)
    seconds = QUICK_SECONDS if quick else SECONDS
    raw: dict[str, list[float]] = {key.name: [] for key in KEYS}
    measured: list[dict[str, Any]] = []
    handshakes: list[Handshakes] = []
    for workers in WORKERS:
        with (
            output.working(f"measuring with {workers} worker{'s' if workers > 1 else ''}"),
            _daemon(workers) as daemon,
        ):
            for name, rate in _raw(daemon, seconds).items():
                raw[name].append(rate)
            for key in KEYS:
                measured += _operations(daemon, key, workers, seconds)
            if workers == WORKERS[0]:
                handshakes = _handshakes(daemon, max(2.0, seconds))
    rates = {name: sum(found) / len(found) for name, found in raw.items()}
    operations = [Operations(ratio=each["per_s"] / rates[each["key"]], **each) for each in measured]
    _show(output, rates, operations, handshakes)


@contextmanager
def _daemon(workers: int) -> Iterator[Daemon]:
    from hsmd.testing import Daemon

    with Daemon([f"{key.name}:{key.key_type}:tls-server" for key in KEYS], workers=workers) as daemon:
        yield daemon


# --- measuring ---


def _raw(daemon: Daemon, seconds: float) -> dict[str, float]:
    from hsmd.pkcs11.softhsm import softhsm_module

    token = daemon.directory / "softhsm"
    order = {
        "module": str(softhsm_module()),
        "pin_file": str(token / "pin"),
        "seconds": seconds,
        "labels": [key.name for key in KEYS],
    }
    rates = _measure("raw", order, {"SOFTHSM2_CONF": str(token / "softhsm2.conf")})
    return {str(name): float(rate) for name, rate in rates.items()}


def _operations(daemon: Daemon, key: BenchKey, workers: int, seconds: float) -> list[dict[str, Any]]:
    host, _, port = daemon.address.rpartition(":")
    order = {
        "host": host,
        "port": int(port),
        "host_keys": [daemon.host_key],
        "user": daemon.front_end,
        "identity_file": str(daemon.front_end_identity),
        "key": daemon.keys[key.name].digest.hex(),
        "scheme": key.scheme,
        "in_flight": IN_FLIGHT,
        "seconds": seconds,
        "pids": _processes(daemon),
    }
    found = _measure("load", order, {})
    if errors := sum(each.pop("errors") for each in found):
        raise CommandError(f"{errors} requests failed", "see the daemon's log: hsmd dev --log")
    return [{"key": key.name, "workers": workers, **each} for each in found]


def _measure(module: str, order: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """Run a measuring module of this package in its own process."""
    done = subprocess.run(
        [sys.executable, "-m", f"hsmd.cli.bench.{module}"],
        input=json.dumps(order).encode(),
        capture_output=True,
        env={**os.environ, **environment},
        timeout=ANSWER_S,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(
            f"the measurement failed: {done.stderr.decode(errors='replace').strip()}",
            "fix this and run it again",
        )
    return json.loads(done.stdout)


def _processes(daemon: Daemon) -> list[int]:
    """The pids of front process and workers: descendants of `hsmd dev` that run a module of the daemon."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, pending = [], [daemon.pid]
    while pending:
        pid = pending.pop()
        pending += children.get(pid, [])
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(word.startswith(b"hsmd.daemon.") for word in command_line):
            found.append(pid)
    return found


def _handshakes(daemon: Daemon, seconds: float) -> list[Handshakes]:
    if daemon.openssl_configuration is None:
        raise CommandError("the OpenSSL provider is not installed", "install hsmd from a wheel")
    with tempfile.TemporaryDirectory(prefix="hsmd-bench-") as name:
        directory = Path(name)
        sites = {
            (key.name, via): _site(daemon, key, via, directory) for key in KEYS for via in ("pem", "hsmd")
        }
        with web.nginx(directory, list(sites.values()), daemon.openssl_configuration):
            return [
                Handshakes(key, via, web.handshakes_per_s(site, seconds))
                for (key, via), site in sites.items()
            ]


def _site(daemon: Daemon, key: BenchKey, via: str, directory: Path) -> web.Site:
    served = daemon.keys[key.name]
    if via == "hsmd":
        assert served.chain is not None
        return web.Site(served.chain, served.reference, web.free_port())
    return web.Site(*_software_key(key, directory), web.free_port())


def _software_key(key: BenchKey, directory: Path) -> tuple[Path, Path]:
    """Generate a key in a PEM file for comparison; return (certificate, key)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    is_ec = key.key_type == "p-256"
    private = ec.generate_private_key(ec.SECP256R1()) if is_ec else rsa.generate_private_key(65_537, 2_048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, private.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    chain, file = directory / f"{key.name}.pem", directory / f"{key.name}.key"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    file.touch(mode=0o600)
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, file


# --- report ---


def _show(
    output: Output,
    rates: Mapping[str, float],
    operations: Sequence[Operations],
    handshakes: Sequence[Handshakes],
) -> None:
    document = {
        "raw": {name: round(rate, 1) for name, rate in rates.items()},
        "hsmd": [{name: _rounded(value) for name, value in asdict(each).items()} for each in operations],
        "nginx": [{name: _rounded(value) for name, value in asdict(each).items()} for each in handshakes],
    }
    output.show(document, lambda: tuple(_tables(rates, operations, handshakes)))


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _tables(
    rates: Mapping[str, float], operations: Sequence[Operations], handshakes: Sequence[Handshakes]
) -> Iterator[Any]:
    yield "A single python-pkcs11 process, signatures per second"
    yield table(["key", "per second"], [[name, f"{rate:,.0f}"] for name, rate in rates.items()])
    yield "\nhsmd over SSH on loopback, including grants, purposes and audit"
    yield table(
        ["key", "workers", "in flight", "per second", "of raw", "median us", "p99 us", "daemon CPU us"],
        [
            [
                each.key,
                str(each.workers),
                str(each.in_flight),
                f"{each.per_s:,.0f}",
                f"{each.ratio:.2f}",
                f"{each.p50_us:,.0f}",
                f"{each.p99_us:,.0f}",
                f"{each.cpu_us:,.0f}",
            ]
            for each in operations
        ],
    )
    yield f"\nnginx, {web.WORKERS} workers, {web.CONNECTIONS} connections, full TLS 1.3 handshakes; one token worker"
    by_key = {(each.key, each.via): each.handshakes_per_s for each in handshakes}
    yield table(
        ["key", "PEM file per second", "hsmd per second", "hsmd / PEM"],
        [
            [
                key.name,
                f"{by_key[key.name, 'pem']:,.0f}",
                f"{by_key[key.name, 'hsmd']:,.0f}",
                f"{by_key[key.name, 'hsmd'] / by_key[key.name, 'pem']:.2f}",
            ]
            for key in KEYS
            if (key.name, "pem") in by_key
        ],
    )
