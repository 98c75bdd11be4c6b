"""Signatures that go on while something else is measured, through the daemon or on the bare token."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hsmd.cli.base.errors import CommandError
from hsmd.cli.bench.scale.site import Site


@dataclass(slots=True)
class Found:
    """What went on inside the block; filled in at its end."""

    longest_gap_s: float = 0.0
    signatures: int = 0
    failed: int = 0


@contextmanager
def signing(site: Site, *, in_flight: int, key: int = 0) -> Iterator[Found]:
    """Sign with a key through the daemon, with this number of requests open."""
    with _running(site, "signer", site.client_order(key) | {"in_flight": in_flight}) as found:
        yield found


@contextmanager
def bare_signing(site: Site, *, key: int = 0) -> Iterator[Found]:
    """Sign with a key in a loop of python-pkcs11, in a process that does nothing else."""
    with _running(site, "bare_signer", {"cka_label": site.key_name(key)}) as found:
        yield found


def line(child: subprocess.Popen[bytes]) -> str:
    """The next line that a measuring program prints. Raises CommandError if it has ended."""
    assert child.stdout is not None
    text = child.stdout.readline().decode()
    if not text:
        raise CommandError("a measuring program ended early", "see its output above")
    return text.strip()


@contextmanager
def _running(site: Site, program: str, order: dict[str, object]) -> Iterator[Found]:
    found = Found()
    with site.started(program, order) as child:
        line(child)
        yield found
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None  # what is left to close when the block ends
        for name, value in json.loads(line(child)).items():
            setattr(found, name, value)
        child.wait()
