"""A1: decryption of RSA premaster secrets is no oracle: not through answers, records, metrics or timing."""

from __future__ import annotations

import http.client
import os
import random
import statistics
import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, encode_key_operation
from hsmd.purposes import Purpose
from tests.support.daemon import WEB, Daemon, run_aside
from tests.support.ssh_peer import ssh, wire
from tests.support.statistics_of_time import chi_square_tail, friedman, ranks
from tests.support.tokens import RawWorker

SIZE = 256
SAMPLES = int(os.environ.get("HSMD_TEST_ORACLE_SAMPLES", "400"))
"""Measurements of each class; `scripts/soak oracle` takes 10^5."""
BOUND_S = 100e-9
"""The largest allowed difference of a class's median from that of the valid one (G13) ..."""
ERRORS = 6
"""... plus this many standard errors of that median: a smaller difference cannot be distinguished from noise on this machine."""
LOWEST_P = 1e-3
TRIES = 3
"""Noise on a shared machine can fail one try; an oracle fails each of them."""


def blocks(noise: random.Random) -> dict[str, bytes]:
    """A fresh plaintext of each class: a valid one and twelve that PKCS #1 (RFC 8017, 7.2) or TLS forbids."""

    def filled(length: int) -> bytes:
        return bytes(noise.randrange(1, 256) for _ in range(length))

    def block(secret: bytes, lead: bytes = b"\0\2", gap: bytes = b"\0") -> bytes:
        return lead + filled(SIZE - len(lead) - len(gap) - len(secret)) + gap + secret

    secret = b"\3\3" + noise.randbytes(46)
    good = block(secret)
    early, late = 2 + noise.randrange(8), SIZE - 50 - noise.randrange(20)
    return {
        "good": good,
        "block type 1": block(secret, b"\0\1"),
        "block type 0": block(secret, b"\0\0"),
        "first byte": block(secret, b"\1\2"),
        "no separator": block(filled(48), gap=b""),
        "early zero": good[:early] + b"\0" + good[early + 1 :],
        "late zero": good[:late] + b"\0" + good[late + 1 :],
        "47 bytes": block(secret[:-1]),
        "49 bytes": block(secret + b"x"),
        "empty": block(b""),
        "version 3.1": block(b"\3\1" + secret[2:]),
        "version 3.4": block(b"\3\4" + secret[2:]),
        "noise": b"\0" + noise.randbytes(SIZE - 1),
    }


class Target:
    """A key that decrypts premaster secrets, and its public key."""

    def __init__(self, spki: bytes) -> None:
        public = load_der_public_key(spki)
        assert isinstance(public, RSAPublicKey)
        self._numbers = public.public_numbers()

    def ciphertexts(self, noise: random.Random) -> dict[str, bytes]:
        """A fresh ciphertext of each class."""
        n, e = self._numbers.n, self._numbers.e
        return {
            name: pow(int.from_bytes(plain), e, n).to_bytes(SIZE) for name, plain in blocks(noise).items()
        }


def test_answers_records_and_metrics_are_alike(open_daemon: Callable[..., Daemon]) -> None:
    """Through a complete daemon: one shape of answers, one of records, no log line, one series in the metrics."""
    daemon = open_daemon()
    key = daemon.add_key("old", "rsa-2048", "tls12-rsa-premaster")
    target = Target(daemon.ask(messages.KeyShow("old")).public_key)
    noise = random.Random(1)
    cases = [(name, data) for _ in range(5) for name, data in target.ciphertexts(noise).items()]
    before = len(daemon.log())

    async def open_all() -> list[tuple[int, int, bytes]]:
        shapes = []
        async with await ssh(daemon, WEB) as connection:
            channel = await wire(connection)
            for number, (_, data) in enumerate(cases, 1):
                kind, answer = await channel.use(
                    number, key, data, purpose=Purpose.TLS12_RSA_PREMASTER, scheme=0
                )
                shapes.append((kind, len(answer), answer[:2]))
        return shapes

    assert set(run_aside(open_all)) == {(Kind.RESULT, 48, b"\3\3")}
    assert {line["event"] for line in daemon.log()[before:]} <= {"connection.opened", "connection.closed"}
    for event in ("attempt", "outcome"):
        records = [
            record
            for record in daemon.audit(event)
            if record.get("purpose", "") in ("", "tls12-rsa-premaster")
        ]
        shapes = {(*record, record.get("result"), record.get("error")) for record in records}
        assert len(shapes) == 1, shapes
    port = int(daemon.logged("metrics.listening")[-1]["address"].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    series = [
        line
        for line in text.splitlines()
        if line.startswith("hsmd_operations_total{") and "premaster" in line
    ]
    assert len(series) == 1
    assert series[0].endswith(f" {len(cases)}.0")


@pytest.mark.timeout(max(120, SAMPLES // 20))
def test_valid_and_invalid_take_the_same_time(
    worker: RawWorker, keys: dict[str, KeyDescription], request: pytest.FixtureRequest
) -> None:
    """Directly at a worker, for the least noise. Each round measures a fresh ciphertext of each class, in random order."""
    noise = random.Random(request.config.getoption("randomly_seed", 1))
    found = []
    for _ in range(TRIES):
        p, apart = measured(worker, keys["premaster"], noise)
        name, (apart_s, error_s) = max(apart.items(), key=lambda item: abs(item[1][0]) - ERRORS * item[1][1])
        found.append(
            f"p = {p:.2g}; {name}: {apart_s * 1e9:.0f} ns from the good one, standard error {error_s * 1e9:.0f}"
        )
        if p > LOWEST_P and abs(apart_s) < BOUND_S + ERRORS * error_s:
            break
    else:
        pytest.fail(f"{SAMPLES} of each class: {' | '.join(found)}")
    print(f"{SAMPLES} of each class: {found[-1]}")


def measured(
    worker: RawWorker, key: KeyDescription, noise: random.Random
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Friedman's p over all classes; for each invalid class (median, standard error of the median), in seconds, of how much
    longer it takes than the valid one of the same round."""
    target, digest = Target(key.public_key), bytes.fromhex(key.key)
    rounds = []
    for number in range(SAMPLES):
        cases = list(target.ciphertexts(noise).items())
        noise.shuffle(cases)
        # One decryption that is not measured, so that the first measured one is like the others.
        open_timed(worker, digest, cases[0][1], number)
        took = {name: open_timed(worker, digest, data, number) for name, data in cases}
        rounds.append([took[name] for name in sorted(took)])
    names = sorted(blocks(noise))
    good = names.index("good")
    apart = {
        name: median_and_error([took[at] - took[good] for took in rounds])
        for at, name in enumerate(names)
        if at != good
    }
    return friedman(rounds), apart


def median_and_error(values: list[float]) -> tuple[float, float]:
    """The median and its standard error, from the interquartile range (1.349 sigma in a normal distribution)."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, 1.2533 * (high - low) / 1.349 / len(values) ** 0.5


def open_timed(worker: RawWorker, digest: bytes, data: bytes, number: int) -> float:
    """Seconds from the last byte of the request to the answer."""
    frame = encode_key_operation(number + 1, 10_000, Purpose.TLS12_RSA_PREMASTER, 0, digest, data)
    begun = time.perf_counter()
    worker.send(frame)
    kind, _, answer = worker.frame()
    ended = time.perf_counter()
    assert (kind, len(answer)) == (Kind.RESULT, 48)
    return ended - begun


def test_the_statistics_detect_a_slow_class() -> None:
    """The statistics above detect an oracle: the same test on generated times, with one class 3 % slower and with none."""
    noise = random.Random(7)

    def rounds(extra: float) -> list[list[float]]:
        return [[noise.gauss(600, 30) + extra * (at == 5) for at in range(13)] for _ in range(400)]

    assert friedman(rounds(18.0)) < 1e-6
    assert sum(friedman(rounds(0.0)) < 0.05 for _ in range(60)) <= 10
    assert abs(median_and_error([noise.gauss(18, 30) for _ in range(400)])[0] - 18) < 10
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
    assert abs(chi_square_tail(21.026, 12) - 0.05) < 1e-4  # from any table of the distribution
