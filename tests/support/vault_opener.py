"""Tries to open envelopes with everything that a directory holds, as who has copied a whole server would.

    python -m tests.support.vault_opener DIRECTORY [--thorough] [--jobs N]

DIRECTORY has `envelopes/` (one in each file), `recipients/` (the public wrapping keys, as SubjectPublicKeyInfo), and any other
files: databases, dumps, archives, logs, tokens; images of memory below `memory/`. It takes from them every byte string that
parses as a private key (DER and PEM, in files also in base64 or hexadecimal), and every window that looks random and has the length
of a symmetric key, a scalar, a seed or a prime: at each offset of a file, and where allocators place values in an image. Each is
tried as the private key of each recipient. With --thorough each is also tried as the content key, and as the shared secret, of
each envelope; more offsets are tried, and text in images is decoded, too. Prints one JSON object: what was tried, and the
SHA-256 of what was opened, by file of envelope.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_ssh_private_key,
)

from hsmd.envelopes import aes_kwp, recipients, rsa_aes_kwp, sealing
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import HybridPrivateKey, HybridPublicKey, SymmetricKey
from hsmd.errors import EnvelopeInvalid
from tests.support import hpke_reference
from tests.support.processes import program

KEY_BYTES, SEED_BYTES = 32, 64
LIKE_RANDOM = {KEY_BYTES: (24, 5), SEED_BYTES: (46, 14), 0: (110, 60)}
"""How many different byte values a window of so many bytes has at least (0: a prime), and how many bytes that are no ASCII; a
random one has less once in ten thousand."""
ALIGNMENT = 16
"""Of what the allocators of Python and of the C library give out; with --thorough half of it."""
LAYERS = 2
"""How often what was decoded is searched for more that can be decoded."""
_DER = re.compile(rb"\x30(?:[\x10-\x7f]|\x81.|\x82..)\x02\x01[\x00\x01]", re.DOTALL)
_PEM = re.compile(rb"-----BEGIN ([A-Z ]{0,20}PRIVATE KEY)-----.{40,16000}?-----END \1-----", re.DOTALL)
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/_-]{40,}={0,2}(?:\r?\n|\\n)?)+(?:[A-Za-z0-9+/_-]+={0,2})?")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}:?){32,}")
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


# --- what there is ---


@dataclass
class Loot:
    """What was found in the files."""

    envelopes: dict[str, Envelope]
    recipients: dict[bytes, Any]
    """Public wrapping keys by their digest."""
    keys: list[Any] = field(default_factory=list)
    """Private keys that were encoded as such."""
    windows: dict[int, set[bytes]] = field(default_factory=dict)
    """By length."""
    in_memory: set[bytes] = field(default_factory=set)
    """Those in images: there numbers of OpenSSL begin with their last byte, and seeds of ML-KEM with their second half."""


def gather(directory: Path, work: Path, *, thorough: bool) -> Loot:
    loot = Loot(
        {each.name: Envelope.decode(each.read_bytes()) for each in (directory / "envelopes").iterdir()},
        {
            sha256(each.read_bytes()).digest(): _public(each.read_bytes())
            for each in (directory / "recipients").iterdir()
        },
    )
    images = [each for each in (directory / "memory").glob("*") if each.is_file()]
    apart = {directory / name for name in ("memory", "envelopes", "recipients")}
    files = [
        each
        for each in directory.rglob("*")
        if each.is_file() and apart.isdisjoint(each.parents) and each.stat().st_size
    ]
    found: dict[bytes, Any] = {}
    layer = images + files
    for number in range(LAYERS + 1):
        decoded = work / f"layer-{number}"
        with decoded.open("wb") as out:
            for path in layer:
                data = path.read_bytes()
                for key in _encoded_keys(data):
                    found[_identity(key)] = key
                if thorough or path not in images:
                    for each in set(_decoded(data, thorough=thorough)):
                        out.write(each + bytes(16))
        layer = [decoded] if decoded.stat().st_size else []
        files += layer
    loot.keys = list(found.values())
    primes = {
        (key.key_size + 15) // 16 for key in loot.recipients.values() if isinstance(key, rsa.RSAPublicKey)
    }
    for length in (KEY_BYTES, SEED_BYTES, *primes):
        found_there = _windows(work, length, images, ALIGNMENT >> thorough)
        # A write-ahead log has what the other files have, many times at other offsets.
        searched = [each for each in files if thorough or not each.name.endswith("-wal")]
        loot.windows[length] = _windows(work, length, searched, 1) | found_there
        loot.in_memory |= found_there
    return loot


def _public(spki: bytes) -> Any:
    with suppress(EnvelopeInvalid):
        return HybridPublicKey.from_spki(spki)
    return load_der_public_key(spki)


def _encoded_keys(data: bytes) -> Iterator[Any]:
    for match in _DER.finditer(data):
        with suppress(Exception):
            yield load_der_private_key(data[match.start() : match.start() + _der_length(match[0])], None)
    for match in _PEM.finditer(data):
        text = match[0].replace(b"\\n", b"\n")
        for load in (load_pem_private_key, load_ssh_private_key):
            with suppress(Exception):
                yield load(text, None)


def _der_length(head: bytes) -> int:
    if head[1] < 0x80:
        return 2 + head[1]
    count = head[1] & 0x7F
    return 2 + count + int.from_bytes(head[2 : 2 + count], "big")


def _identity(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


def _decoded(data: bytes, *, thorough: bool) -> Iterator[bytes]:
    """What stands in base64 or hexadecimal; what stands before it may be of the alphabet, too."""
    for match in _BASE64.finditer(data):
        text = match[0].replace(b"\\n", b"").translate(bytes.maketrans(b"-_", b"+/"), b"\r\n=")
        for offset in range(4 if thorough else 1):
            part = text[offset:]
            with suppress(binascii.Error):
                yield base64.b64decode(part + b"=" * (-len(part) % 4))
    for match in _HEX.finditer(data):
        text = match[0].replace(b":", b"")
        for offset in range(2 if thorough else 1):
            part = text[offset:]
            with suppress(ValueError):
                yield bytes.fromhex(part[: len(part) // 2 * 2].decode())


def _windows(work: Path, length: int, files: Iterable[Path], step: int) -> set[bytes]:
    finder = work / "find_windows"
    if not finder.exists():
        source = Path(__file__).with_name("find_windows.c")
        subprocess.run([program("gcc"), "-std=c11", "-O2", source, "-o", finder], check=True)
    distinct, high = LIKE_RANDOM.get(length, LIKE_RANDOM[0])
    command = [finder, *map(str, (length, step, distinct, high)), *files]
    found = subprocess.run(command, check=True, capture_output=True).stdout
    return {found[at : at + length] for at in range(0, len(found), length)}


# --- what opens ---


class Opener:
    """Tries keys; `opened` has the digests of what came out."""

    def __init__(self, loot: Loot, *, thorough: bool) -> None:
        self._loot = loot
        self._thorough = thorough
        self._by_recipient: dict[bytes, list[str]] = {}
        for name, envelope in loot.envelopes.items():
            self._by_recipient.setdefault(envelope.header.recipient, []).append(name)
        self._x25519 = {
            key.x25519.public_bytes_raw(): key
            for key in loot.recipients.values()
            if isinstance(key, HybridPublicKey)
        }
        self.opened: dict[str, str] = {}
        self.halves: dict[str, dict[bytes, bytes]] = {"x25519": {}, "mlkem768": {}}
        """Of hybrid keys: private halves by public ones."""

    def key(self, key: Any) -> None:
        """Try a private key of some class."""
        with suppress(TypeError, AttributeError, EnvelopeInvalid, ValueError):
            self._open(key, recipients.digest(key.public_key()))

    def window(self, window: bytes) -> None:
        """Try 32 bytes as each kind of key."""
        little = self._thorough or window in self._loot.in_memory
        for each in (window, window[::-1])[: 1 + little]:
            number = int.from_bytes(each, "big")
            if 0 < number < _P256_ORDER:
                self.key(ec.derive_private_key(number, ec.SECP256R1()))
        key = x25519.X25519PrivateKey.from_private_bytes(window)
        public = key.public_key().public_bytes_raw()
        self._open(key, recipients.digest(key.public_key()))
        if public in self._x25519:
            self.halves["x25519"][public] = window
        symmetric = SymmetricKey(window)
        self._open(symmetric, symmetric.check_value)
        if self._thorough:
            self._as_content_key(window)

    def seed(self, seed: bytes) -> None:
        """Try 64 bytes as the seed of ML-KEM-768."""
        swapped = self._thorough or seed in self._loot.in_memory
        for each in (seed, seed[KEY_BYTES:] + seed[:KEY_BYTES])[: 1 + swapped]:
            public = mlkem.MLKEM768PrivateKey.from_seed_bytes(each).public_key().public_bytes_raw()
            if any(public == key.mlkem768.public_bytes_raw() for key in self._x25519.values()):
                self.halves["mlkem768"][public] = each

    def prime(self, window: bytes) -> None:
        """Try some bytes as a prime of each RSA key."""
        for key in self._loot.recipients.values():
            if isinstance(key, rsa.RSAPublicKey):
                numbers = key.public_numbers()
                for order in ("big", "little"):
                    prime = int.from_bytes(window, order)  # type: ignore[arg-type]
                    if 1 < prime < numbers.n and numbers.n % prime == 0:
                        self.key(_rsa_key(numbers, prime))

    def combine(self) -> None:
        """Try the hybrid keys of which both halves were found."""
        for key in self._x25519.values():
            first = self.halves["mlkem768"].get(key.mlkem768.public_bytes_raw())
            second = self.halves["x25519"].get(key.x25519.public_bytes_raw())
            if first and second:
                self.key(
                    HybridPrivateKey(
                        mlkem.MLKEM768PrivateKey.from_seed_bytes(first),
                        x25519.X25519PrivateKey.from_private_bytes(second),
                    )
                )

    def _open(self, key: Any, digest: bytes) -> None:
        for name in self._by_recipient.get(digest, ()):
            with suppress(EnvelopeInvalid):
                self._note(name, sealing.open_envelope(self._loot.envelopes[name], key))

    def _as_content_key(self, window: bytes) -> None:
        for name, envelope in self._loot.envelopes.items():
            suite = envelope.header.suite
            if suite.is_hpke:
                with suppress(InvalidTag, ValueError):
                    self._note(name, _with_shared_secret(envelope, window))
            else:
                parts = self._parts(name)
                with suppress(EnvelopeInvalid):
                    rsa_aes_kwp.kwp_unwrap(window, parts.tag)
                    self._note(name, rsa_aes_kwp.kwp_unwrap(window, parts.kwp))

    @cache  # noqa: B019  one of a process
    def _parts(self, name: str) -> rsa_aes_kwp.Parts:
        envelope = self._loot.envelopes[name]
        if envelope.header.suite.is_rsa:
            return rsa_aes_kwp.split(envelope, self._loot.recipients[envelope.header.recipient])
        return aes_kwp.split(envelope, envelope.header.recipient)

    def _note(self, name: str, content: bytes) -> None:
        self.opened[name] = sha256(content).hexdigest()


_KEMS = {
    Suite.HPKE_P256: (hpke_reference.P256, 65),
    Suite.HPKE_X25519: (hpke_reference.X25519, 32),
    Suite.HPKE_MLKEM768_X25519: (hpke_reference.XWING, 1_120),
}
"""Number of the KEM, and length of the encapsulated key."""


def _with_shared_secret(envelope: Envelope, secret: bytes) -> bytes:
    kem, length = _KEMS[envelope.header.suite]
    enc, ciphertext = envelope.body[:length], envelope.body[length:]
    context = hpke_reference.schedule(kem, hpke_reference.AES_256_GCM, enc, secret, envelope.header.encode())
    return context.open(ciphertext)


def _rsa_key(numbers: rsa.RSAPublicNumbers, p: int) -> rsa.RSAPrivateKey:
    q = numbers.n // p
    d = rsa.rsa_recover_private_exponent(numbers.e, p, q)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *crt, numbers).private_key()


# --- in several processes ---

_Found = tuple[dict[str, str], dict[str, dict[bytes, bytes]]]
_opener: Opener


def _begin(loot: Loot, thorough: bool) -> None:
    global _opener
    _opener = Opener(loot, thorough=thorough)


def _try(task: tuple[str, list[bytes]]) -> _Found:
    kind, windows = task
    attempt = getattr(_opener, kind)
    for window in windows:
        attempt(window)
    return _opener.opened, _opener.halves


def _tasks(loot: Loot, lengths: Iterable[int]) -> Iterator[tuple[str, list[bytes]]]:
    for length in lengths:
        kind = {KEY_BYTES: "window", SEED_BYTES: "seed"}.get(length, "prime")
        every = sorted(loot.windows[length])
        for at in range(0, len(every), 500):
            yield kind, every[at : at + 500]


def run(directory: Path, *, thorough: bool, jobs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        loot = gather(directory, Path(work), thorough=thorough)
    opener = Opener(loot, thorough=thorough)
    for key in loot.keys:
        opener.key(key)
    # Forked: what was gathered is not sent to each process.
    with multiprocessing.get_context("fork").Pool(jobs, _begin, (loot, thorough)) as pool:

        def attempt(lengths: Iterable[int]) -> None:
            for opened, halves in pool.imap_unordered(_try, _tasks(loot, lengths)):
                opener.opened |= opened
                for kind, found in halves.items():
                    opener.halves[kind] |= found

        attempt([length for length in loot.windows if length != SEED_BYTES])
        if opener.halves[
            "x25519"
        ]:  # without this half of a hybrid key, the seed of the other one opens nothing
            attempt([SEED_BYTES])
    opener.combine()
    return {
        "envelopes": len(loot.envelopes),
        "keys": len(loot.keys),
        "windows": {str(length): len(windows) for length, windows in loot.windows.items()},
        "opened": opener.opened,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    json.dump(run(given.directory, thorough=given.thorough, jobs=given.jobs), sys.stdout)


if __name__ == "__main__":
    main()
