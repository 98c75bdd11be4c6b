"""Search for secrets in the memory of processes and in files, in every encoding that software here uses for them."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.processes import program, run

WINDOW = 16
"""Length of the searched parts of a secret: long enough to exclude chance, short enough to remain in a freed block."""
_PYTHON_DIGIT_BITS = 30
_LITTLE_MEMORY = 1 << 20

Needles = Mapping[str, list[bytes]]
"""Byte strings to search for, by the name under which any of them is reported."""


def rsa_needles(key: rsa.RSAPrivateKey) -> Needles:
    """Primes and exponents, each of which discloses the key."""
    numbers = key.private_numbers()
    size = key.key_size // 16
    secrets = {
        "p": numbers.p,
        "q": numbers.q,
        "dmp1": numbers.dmp1,
        "dmq1": numbers.dmq1,
        "iqmp": numbers.iqmp,
    }
    return {name: integer_layouts(value, size) for name, value in secrets.items()} | {
        "d": integer_layouts(numbers.d, 2 * size)
    }


def ec_needles(key: ec.EllipticCurvePrivateKey) -> Needles:
    """The scalar."""
    return {"scalar": integer_layouts(key.private_numbers().private_value, (key.key_size + 7) // 8)}


def text_needles(name: str, text: str) -> Needles:
    """A secret text, such as a PIN."""
    raw = text.encode()
    return {name: [raw, *_base64(raw), raw.hex().encode(), text.encode("utf-16-le")]}


def integer_layouts(value: int, size: int) -> list[bytes]:
    """Windows of an integer of `size` bytes: big-endian (DER, PKCS#11), little-endian (OpenSSL's BIGNUM limbs on this machine, however
    wide), big-endian in swapped words, hexadecimal, base64 (PEM) at each alignment, and Python's digits of 30 bits."""
    big, little = value.to_bytes(size, "big"), value.to_bytes(size, "little")
    swapped = b"".join(big[at : at + 8][::-1] for at in range(0, size, 8))
    found = [window for layout in (big, little, swapped) for window in _windows(layout)]
    hexadecimal = big[size // 2 : size // 2 + WINDOW].hex()
    with_colons = ":".join(re.findall("..", hexadecimal))
    found += [text.encode() for text in (hexadecimal, hexadecimal.upper(), with_colons, with_colons.upper())]
    found += [*_base64(big[size // 2 : size // 2 + WINDOW + 4]), _windows(_python_digits(value))[-1]]
    return found


def _windows(layout: bytes) -> list[bytes]:
    """A part after the bytes that malloc overwrites in a freed block, and one at the end."""
    return list({layout[WINDOW : 2 * WINDOW], layout[-WINDOW:]})


def _base64(part: bytes) -> list[bytes]:
    """`part` inside a base64 text, for each of the three alignments at which it may begin."""
    texts = []
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + part)
        texts.append(text[4 if shift else 0 : len(text) // 4 * 4 - 4])
    return texts


def _python_digits(value: int) -> bytes:
    digits = []
    while value:
        digits.append((value & (1 << _PYTHON_DIGIT_BITS) - 1).to_bytes(4, "little"))
        value >>= _PYTHON_DIGIT_BITS
    return b"".join(digits)


# --- searching ---


def find_in(data: bytes, needles: Needles) -> set[str]:
    """The names of the needles found in `data`."""
    return {name for name, layouts in needles.items() if any(layout in data for layout in layouts)}


def find_in_files(directory: Path, needles: Needles) -> dict[str, set[str]]:
    """The names of the needles found in the regular files below a directory, by path."""
    found = {
        str(path): find_in(path.read_bytes(), needles) for path in directory.rglob("*") if path.is_file()
    }
    return {path: names for path, names in found.items() if names}


class Memory:
    """Searches the memory of processes, with sudo where the tests' user may not read it."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "find_in_memory"
        source = Path(__file__).with_name("find_in_memory.c")
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
        done = run([program("gcc"), *flags, source, "-o", self._program])
        assert done.returncode == 0, done.stderr

    def find(self, pids: Iterable[int], needles: Needles) -> dict[int, set[str]]:
        """The names of the needles found in readable mappings, by process. Raises PermissionError if these cannot be read."""
        wanted = list(pids)
        names = [name for name, layouts in needles.items() for _ in layouts]
        text = "".join(f"{layout.hex()}\n" for layouts in needles.values() for layout in layouts)
        found: dict[int, set[str]] = {pid: set() for pid in wanted}
        for pid, *rest in (line.split() for line in self._run(wanted, text).splitlines()):
            if rest[0] != "read":
                found[int(pid)].add(names[int(rest[0])])
            else:
                assert int(rest[1]) > _LITTLE_MEMORY, (
                    f"hardly any memory of process {pid} could be read: {rest[1]} bytes"
                )
        return found

    def _run(self, pids: list[int], text: str) -> str:
        command: list[str | Path] = [self._program, *map(str, pids)]
        done = run(command, text=text)
        if done.returncode == 1:
            done = _as_root(command, text)
        if done.returncode != 0:
            raise PermissionError(
                f"the memory of {pids} cannot be read; run the tests as root, or with sudo without a password: {done.stderr}"
            )
        return done.stdout

    def can_search(self, pid: int) -> bool:
        """Whether the memory of this process can be read."""
        try:
            self.find([pid], {})
        except PermissionError:
            return False
        return True


def _as_root(command: list[str | Path], text: str) -> subprocess.CompletedProcess[str]:
    return run([program("sudo"), "-n", "--", *command], text=text)
