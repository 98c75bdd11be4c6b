"""TLS clients in separate processes that open connections at a steady rate, and the outcome of each handshake.

As a program (`python -m tests.support.tls_load`) it reads its task from standard input, as JSON, and writes one line for each
handshake until it gets SIGTERM. Times are from CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import ROOT, environment
from tests.support.tls_client import Proof, client_context, shake_hands

END_S = 15.0


@dataclass(frozen=True, slots=True)
class Lane:
    """Clients of one name, each of which begins a handshake every `interval_s` seconds, or later if the previous one takes longer."""

    host: str
    version: str = "1.2"
    ciphers: str = ""
    clients: int = 2
    interval_s: float = 0.02


class Sample(NamedTuple):
    """One handshake: its begin, its duration, and its error (empty if it succeeded)."""

    host: str
    began: float
    seconds: float
    error: str
    proof: Proof | None

    @property
    def ended(self) -> float:
        """Time of its end."""
        return self.began + self.seconds


class Load:
    """Running clients, one process for each group of lanes; a context manager that ends them."""

    def __init__(
        self, address: tuple[str, int], authority: Path, groups: Iterable[Sequence[Lane]], results: Path
    ) -> None:
        self._results: list[Path] = []
        self._programs: list[subprocess.Popen[str]] = []
        results.mkdir(exist_ok=True)
        for number, lanes in enumerate(groups):
            order: dict[str, object] = {
                "address": address,
                "authority": str(authority),
                "lanes": [asdict(lane) for lane in lanes],
            }
            self._results.append(results / f"{number}-{time.monotonic_ns()}.jsonl")
            self._programs.append(_start(order, self._results[-1]))

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._programs:
            each.terminate()
        for each in self._programs:
            try:
                each.wait(END_S)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
            if each.stdin is not None:
                each.stdin.close()

    def samples(self) -> list[Sample]:
        """The samples so far, in the order of their begin."""
        lines = [
            line for path in self._results for line in path.read_text().splitlines() if line.endswith("]")
        ]
        return sorted((_sample(json.loads(line)) for line in lines), key=lambda sample: sample.began)

    def during(self, begin: float, end: float) -> list[Sample]:
        """Handshakes that began between two times."""
        return [sample for sample in self.samples() if begin <= sample.began < end]

    def check(self) -> None:
        """Raise AssertionError if a load generator has ended."""
        assert all(each.poll() is None for each in self._programs), "a load generator has ended"


def _start(order: dict[str, object], results: Path) -> subprocess.Popen[str]:
    with results.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.tls_load"],
            stdin=subprocess.PIPE,
            stdout=output,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
    assert child.stdin is not None
    child.stdin.write(json.dumps(order) + "\n")
    child.stdin.flush()
    return child


def _sample(values: list[object]) -> Sample:
    host, began, seconds, error, proof = values
    assert isinstance(began, float) and isinstance(seconds, float)
    return Sample(str(host), began, seconds, str(error), Proof(*proof) if isinstance(proof, list) else None)


def percentile(samples: Sequence[Sample], share: float) -> float:
    """The duration that this share of the handshakes did not exceed."""
    times = sorted(sample.seconds for sample in samples)
    assert times
    return times[min(len(times) - 1, int(len(times) * share))]


# --- the program ---


class _Clients:
    def __init__(self, address: tuple[str, int], authority: Path) -> None:
        self._address, self._authority = address, authority
        self._stop = threading.Event()
        self._write = threading.Lock()

    def run(self, lanes: Iterable[Lane]) -> None:
        threads = []
        for lane in lanes:
            for number in range(lane.clients):
                offset_s = lane.interval_s * number / lane.clients
                threads.append(threading.Thread(target=self._client, args=(lane, offset_s)))
        for thread in threads:
            thread.start()
        sys.stdin.read()  # until the parent process ends, or the signal
        self._stop.set()
        for thread in threads:
            thread.join()

    def stop(self, *_: object) -> None:
        raise KeyboardInterrupt

    def _client(self, lane: Lane, offset_s: float) -> None:
        context = client_context(self._authority, lane.version, lane.ciphers)
        due = time.monotonic() + offset_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            proof, error = None, ""
            try:
                proof = shake_hands(self._address, lane.host, context).proof
            except OSError as problem:
                error = f"{type(problem).__name__}: {problem}"
            line = json.dumps(
                [lane.host, began, time.monotonic() - began, error, proof and [proof.asked, proof.answer]]
            )
            with self._write:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            due = max(due + lane.interval_s, time.monotonic())


def _main() -> None:
    order = json.loads(sys.stdin.readline())
    host, port = order["address"]
    clients = _Clients((host, port), Path(order["authority"]))
    signal.signal(signal.SIGTERM, clients.stop)
    lanes = [Lane(**lane) for lane in order["lanes"]]
    try:
        clients.run(lanes)
    except KeyboardInterrupt:
        clients._stop.set()


if __name__ == "__main__":
    _main()
