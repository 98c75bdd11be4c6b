"""Evidence: the calls the fault module saw, the audit log and the answers of clients must agree.

The module's record of calls is the independent witness. A use of a key is matched to its attempt by its input: signing
mechanisms get the SHA-256 in the record (after a DigestInfo for PKCS #1), raw decryption the ciphertext itself. It is matched
to an outcome by its output: the signature in its TLS form, the 48 bytes of the premaster secret.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import signal
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.client import Connection
from hsmd.daemon.worker.premaster import full_domain_constant
from hsmd.errors import HsmdError
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import Frontier
from tests.support.audit_logs import end_of_chain
from tests.support.daemon import MAIL, WEB, Daemon
from tests.support.fault_module.control import Call, FaultModule, Function
from tests.support.tls_bytes import tls13

P256, RSA_PSS = 0x0403, 0x0804
PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the daemon, and the requests made of it."""

    digest: bytes
    public: Any
    purpose: Purpose
    scheme: int

    def request(self, number: int) -> tuple[bytes, bytes]:
        """(data of the request, answer if it is known in advance), different for each number."""
        if self.purpose is Purpose.TLS13_SERVER:
            return tls13(number), b""
        secret = b"\x03\x03" + number.to_bytes(46, "big")
        return self.public.encrypt(secret, padding.PKCS1v15()), secret

    def is_right(self, data: bytes, answer: bytes, expected: bytes) -> bool:
        """Whether this is a correct answer to that request."""
        if expected:
            return answer == expected
        try:
            if isinstance(self.public, ec.EllipticCurvePublicKey):
                self.public.verify(answer, data, ec.ECDSA(hashes.SHA256()))
            else:
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                self.public.verify(answer, data, pss, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def make_keys(daemon: Daemon, *, decrypting: bool = True) -> dict[str, Key]:
    """Make P-256 and RSA keys for TLS 1.3, and one for RSA premaster secrets, granted to both clients."""
    wanted = {
        "p-256": ("p-256", "tls-server", Purpose.TLS13_SERVER, P256),
        "rsa": ("rsa-2048", "tls-server", Purpose.TLS13_SERVER, RSA_PSS),
    }
    if decrypting:
        wanted["premaster"] = ("rsa-2048", "tls12-rsa-premaster", Purpose.TLS12_RSA_PREMASTER, 0)
    made = {}
    for name, (key_type, ceiling, purpose, scheme) in wanted.items():
        digest = daemon.add_key(name, key_type, ceiling, grant_to=(WEB, MAIL))
        public = load_der_public_key(daemon.ask(messages.KeyShow(name)).public_key)
        made[name] = Key(digest, public, purpose, scheme)
    return made


@dataclass(slots=True)
class Done:
    """A completed or failed request; times are monotonic."""

    key: str
    data: bytes
    expected: bytes
    began_s: float
    ended_s: float
    answer: bytes = b""
    error: HsmdError | None = None


@dataclass
class Client:
    """A client that uses all keys in turn, with `parallel` open requests, and continues after errors."""

    daemon: Daemon
    name: str
    keys: dict[str, Key]
    parallel: int = 6
    pause_s: float = PAUSE_S
    timeout_s: float = 3.0
    done: list[Done] = field(default_factory=list)
    _stopping: bool = False
    _number: int = 0

    async def __aenter__(self) -> Client:
        self._connection = Connection(self.daemon.endpoint(self.name))
        await self._connection.start()
        # The two clients' requests differ, and so do those of two runs on one daemon.
        self._number = random.getrandbits(64) << 64
        self._tasks = [asyncio.create_task(self._keep_using()) for _ in range(self.parallel)]
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._connection.close()

    async def _keep_using(self) -> None:
        names = list(self.keys)
        while not self._stopping:
            self._number += 1
            name = names[self._number % len(names)]
            key = self.keys[name]
            data, expected = key.request(self._number)
            done = Done(name, data, expected, time.monotonic(), 0.0)
            try:
                done.answer = await self._connection.use_key(
                    key.digest, key.purpose, key.scheme, data, timeout_s=self.timeout_s
                )
            except HsmdError as error:
                done.error = error
            done.ended_s = time.monotonic()
            self.done.append(done)
            await asyncio.sleep(self.pause_s)

    @property
    def answers(self) -> list[Done]:
        return [done for done in self.done if done.answer]

    def wrong(self, key: str = "") -> list[Done]:
        """The incorrect answers."""
        return [
            done for done in self.answers
            if (not key or done.key == key) and not self.keys[done.key].is_right(done.data, done.answer, done.expected)
        ]  # fmt: skip


async def next_good(clients: list[Client], within_s: float = 20.0) -> None:
    """Wait until a request that begins after this call is answered."""
    now, seen = time.monotonic(), [len(client.done) for client in clients]
    async with asyncio.timeout(within_s):
        while not any(
            done.answer and done.began_s >= now
            for client, at in zip(clients, seen, strict=True)
            for done in client.done[at:]
        ):
            await asyncio.sleep(0.005)


# --- killing ---


class TokenFile:
    """SoftHSM rewrites its token's file in place at every login: a process that is killed while writing can leave a token that
    cannot be found any more. Hardware has no such file; here a copy is restored, and counted."""

    CHECK_S = 0.25

    def __init__(self, daemon: Daemon) -> None:
        self._path = next((daemon.directory / "softhsm" / "tokens").glob("*/token.object"))
        self._good = self._path.read_bytes()
        self.restored = 0

    async def __aenter__(self) -> TokenFile:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._task.cancel()

    async def _keep(self) -> None:
        torn = 0
        while True:
            await asyncio.sleep(self.CHECK_S)
            torn = torn + 1 if self._path.stat().st_size != len(self._good) else 0
            if torn == 3:  # torn, not just being written
                self._path.write_bytes(self._good)
                self.restored += 1


@dataclass(frozen=True, slots=True)
class Kill:
    what: str
    at_s: float


async def kill_at_random(
    daemon: Daemon, clients: list[Client], seed: int, *, fronts: int, workers: int, progress_every: int = 0
) -> list[Kill]:
    """SIGKILL the front process and workers these numbers of times, in an order and at moments that depend on the seed."""
    draw = random.Random(seed)
    order = ["front"] * fronts + ["worker"] * workers
    draw.shuffle(order)
    kills: list[Kill] = []
    began = time.monotonic()
    async with TokenFile(daemon) as token_file:
        for what in order:
            await _kill_once(daemon, clients, what, draw, kills)
            if progress_every and len(kills) % progress_every == 0:
                asked = sum(len(client.done) for client in clients)
                print(
                    f"{len(kills)}/{len(order)} kills, {asked} requests, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
        await next_good(clients)
    print(f"SoftHSM's token file was torn {token_file.restored} times")
    return kills


async def _kill_once(
    daemon: Daemon, clients: list[Client], what: str, draw: random.Random, kills: list[Kill]
) -> None:
    try:
        await next_good(clients)
    except TimeoutError:
        raise AssertionError(f"not back after {len(kills)} kills:\n{recent(daemon)}") from None
    await asyncio.sleep(draw.random() * 0.1)
    kills.append(await _kill(daemon, what, draw))


def recent(daemon: Daemon) -> str:
    """The daemon's last log lines, without those about connections."""
    lines = daemon.log_path.read_text().splitlines()
    return "\n".join([line for line in lines if '"connection.' not in line][-60:])


async def _kill(daemon: Daemon, what: str, draw: random.Random) -> Kill:
    """Kill a random process of this kind; wait until there is one."""
    async with asyncio.timeout(20):
        while True:
            with suppress(ProcessLookupError, IndexError):  # there is none at the moment
                victims = daemon.worker_pids() if what == "worker" else [daemon.front_pid]
                os.kill(draw.choice(victims), signal.SIGKILL)
                return Kill(what, time.monotonic())
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from each fault to the first error that a client got before the next fault, and to the first answer to a request
    that began after the fault."""

    to_error: list[float]
    to_recovery: list[float]

    def __str__(self) -> str:
        return f"time to error {quantiles(self.to_error)}; time to recovery {quantiles(self.to_recovery)}"


def figures(faults: list[float], clients: list[Client]) -> Figures:
    """The effect on clients of faults at these times."""
    done = sorted((each for client in clients for each in client.done), key=lambda each: each.ended_s)
    ended = [each.ended_s for each in done]
    to_error, to_recovery = [], []
    for fault, following in zip(faults, [*faults[1:], float("inf")], strict=True):
        after = done[bisect_left(ended, fault) :]
        error = next(
            (each for each in takewhile(lambda each: each.ended_s < following, after) if each.error), None
        )
        if error is not None:
            to_error.append(error.ended_s - fault)
        good = next((each for each in after if each.answer and each.began_s >= fault), None)
        if good is not None:
            to_recovery.append(good.ended_s - fault)
    return Figures(to_error, to_recovery)


def quantiles(values: list[float]) -> str:
    """n, p50, p99 and maximum, in milliseconds."""
    if not values:
        return "none"
    ordered = sorted(values)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return f"n={len(ordered)} p50={p50 * 1e3:.0f} ms p99={p99 * 1e3:.0f} ms max={ordered[-1] * 1e3:.0f} ms"


# --- the log ---


@dataclass(slots=True)
class Attempt:
    """An attempt and its outcome; `position` is (number of the file in the log, offset of the record's end)."""

    index: int
    asked: str
    position: tuple[int, int]
    result: str = ""
    answer: str = ""
    error: str = ""


class LogRead:
    """The complete log of a daemon, sealed segments and the live one; reading checks the chain."""

    def __init__(self, directory: Path) -> None:
        self.files = [*sorted((directory / "segments").glob("*.jsonl")), directory / "audit.jsonl"]
        self.inodes = {path.stat().st_ino: number for number, path in enumerate(self.files)}
        self.attempts: dict[int, Attempt] = {}
        self.leaves: list[bytes] = []
        self.keys: set[str] = set()
        self.count = end_of_chain(self._lines()).size

    def _lines(self) -> Iterator[bytes]:
        for number, path in enumerate(self.files):
            end = 0
            with path.open("rb") as file:
                for line in file:
                    end += len(line)
                    self.leaves.append(leaf_hash(line.rstrip(b"\n")))
                    self._note(json.loads(line), (number, end))
                    yield line

    def _note(self, record: dict[str, Any], position: tuple[int, int]) -> None:
        if record["event"] == "attempt":
            self.attempts[record["index"]] = Attempt(record["index"], record["asked"], position)
            self.keys.add(record["key"])
        elif record["event"] == "outcome":
            attempt = self.attempts[record["attempt"]]
            assert not attempt.result, f"attempt {attempt.index} has two outcomes"
            attempt.result, attempt.answer = record["result"], record.get("answer", "")
            attempt.error = record.get("error", "")

    @cached_property
    def by_asked(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts.values():
            found[attempt.asked].append(attempt)
        return found

    def is_checkpoint(self, text: bytes) -> bool:
        """Whether this is the signed text of a correct checkpoint: with origin, size and root of a prefix of this log."""
        parts = text.split(b"\n")
        if len(parts) != 4 or not parts[0].startswith(b"hsmd/") or not parts[1].isdigit():
            return False
        size = int(parts[1])
        tree = Frontier()
        tree.append(self.leaves[:size])
        return size <= len(self.leaves) and base64.b64encode(tree.root()) == parts[2]


# --- comparing ---


@dataclass(frozen=True, slots=True)
class Evidence:
    """Numbers of what was compared."""

    records: int
    uses: int
    own_uses: Counter[str]
    results: Counter[str]
    answers: int


def compare(log: LogRead, module: FaultModule, clients: list[Client]) -> Evidence:
    """Check that uses, attempts, outcomes and answers match; AssertionError names the first difference."""
    own_uses, uses = _sort_uses(log, module)
    _each_use_has_its_attempt(log, uses)
    _each_attempt_is_closed(log)
    _each_performed_outcome_was_seen(log, uses)
    answers = [done for client in clients for done in client.answers]
    for done in answers:
        digest = hashlib.sha256(done.answer).hexdigest()
        attempts = log.by_asked[hashlib.sha256(done.data).hexdigest()]
        closed = [each for each in attempts if each.result == "performed" and each.answer == digest]
        assert closed, f"an answer for {done.key} without its records"
    results = Counter(attempt.result for attempt in log.attempts.values())
    return Evidence(log.count, sum(map(len, uses.values())), own_uses, results, len(answers))


def _sort_uses(log: LogRead, module: FaultModule) -> tuple[Counter[str], dict[str, list[Call]]]:
    """(the daemon's own uses, uses for requests by digest of the input). Its own uses: the decryption of a fixed value with each
    decrypting key (premaster.py), the trial use of a new key pair, and checkpoints of its log."""
    own: Counter[str] = Counter()
    uses: dict[str, list[Call]] = defaultdict(list)
    constants = _constants(log)
    generated = Counter(call.pid for call in module.calls(Function.GENERATE_KEY_PAIR) if call.rv == 0)
    for call in module.uses():
        digests = [call.asked[-32:].hex(), hashlib.sha256(call.asked).hexdigest()]
        digest = next((each for each in digests if each in log.by_asked), None)
        if digest is not None:
            uses[digest].append(call)
        elif call.function is Function.DECRYPT and call.asked in constants:
            own["opening"] += 1
        elif generated[call.pid]:
            generated[call.pid] -= 1
            own["proof of a new pair"] += 1
        else:
            assert log.is_checkpoint(call.asked), f"a key was used without an attempt: {call}"
            own["checkpoint"] += 1
    return own, uses


def _constants(log: LogRead) -> set[bytes]:
    return {full_domain_constant(bytes.fromhex(key), 256) for key in log.keys}


def _each_use_has_its_attempt(log: LogRead, uses: dict[str, list[Call]]) -> None:
    """Check that the n-th use for the same request began after n attempts were in the file. An attempt with the outcome not
    performed or refused permits no use."""
    for digest, calls in uses.items():
        attempts = sorted(attempt.position for attempt in log.by_asked[digest])
        for number, call in enumerate(sorted(calls, key=lambda call: call.began_s)):
            seen = (log.inodes[call.watched_inode], call.watched_size)
            assert number < len(attempts), f"more uses than attempts for {digest}"
            assert attempts[number] <= seen, (
                f"the key was used before attempt {digest} was in the log: {call}"
            )
        usable = [each for each in log.by_asked[digest] if each.result not in ("not-performed", "refused")]
        assert len(calls) <= len(usable), f"a key was used for {digest}, but its outcome says otherwise"


def _each_attempt_is_closed(log: LogRead) -> None:
    for attempt in log.attempts.values():
        assert attempt.result, f"attempt {attempt.index} was left open"
        assert bool(attempt.answer) == (attempt.result == "performed"), attempt


def _each_performed_outcome_was_seen(log: LogRead, uses: dict[str, list[Call]]) -> None:
    """Check that the token returned the answer of each performed outcome, once for each."""
    for digest, attempts in log.by_asked.items():
        performed = Counter(each.answer for each in attempts if each.result == "performed")
        seen = Counter(_answered(call) for call in uses.get(digest, []))
        assert not performed - seen, f"the token did not return the answer for {digest}"


def _answered(call: Call) -> str:
    """SHA-256 of the answer that hsmd makes from the token's result."""
    if call.function is Function.DECRYPT:
        answer = b"\x03\x03" + call.answer[-46:]
    elif len(call.answer) == 64 and len(call.asked) == 32:
        r, s = (int.from_bytes(half, "big") for half in (call.answer[:32], call.answer[32:]))
        answer = utils.encode_dss_signature(r, s)
    else:
        answer = call.answer
    return hashlib.sha256(answer).hexdigest()
