"""Directly on a worker's socket: a compromised front gets no more signed than an honest one."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import PurposeMismatch, Refused
from hsmd.pkcs11.softhsm import make_token
from hsmd.purposes import Purpose
from tests.support.tls_bytes import P256, TLS13
from tests.support.tokens import RawWorker, generate
from tests.support.vectors import vectors

pytestmark = pytest.mark.timeout(60)
SAMPLE = int(os.environ.get("HSMD_TEST_HOSTILE", "150"))
TLS_PURPOSES = (Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT, Purpose.TLS12_SERVER, Purpose.TLS12_CLIENT)


@pytest.fixture(scope="module")
def worker_and_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawWorker, KeyDescription]]:
    token = make_token(Path(tmp_path_factory.mktemp("hostile")) / "token", "hostile")
    control = RawWorker(token, {"control": True}).ready()
    key = generate(control, "tls", "p-256", ["tls-server", "tls-client"])
    worker = RawWorker(token).ready()
    yield worker, key
    worker.close()
    control.close()


def test_hostile_bytes_are_not_signed(worker_and_key: tuple[RawWorker, KeyDescription]) -> None:
    worker, key = worker_and_key
    digest = bytes.fromhex(key.key)
    corpus = [entry for entry in vectors("purposes/hostile.json") if "p-256" in entry["keys"]]
    finished = worker.progress.finished
    for entry in corpus[:: max(1, len(corpus) // SAMPLE)]:
        for purpose in TLS_PURPOSES:
            with pytest.raises(PurposeMismatch):
                worker.use(purpose, P256, digest, base64.b64decode(entry["data"]))
    assert worker.progress.finished == finished, "the key was not used"
    assert worker.use(Purpose.TLS13_SERVER, P256, digest, TLS13)


def test_operations_outside_the_ceiling_are_refused(worker_and_key: tuple[RawWorker, KeyDescription]) -> None:
    worker, key = worker_and_key
    for purpose in (0, 5, 6, 7, 8, 9, 0x7F, 0x90, 0xFF):
        with pytest.raises((PurposeMismatch, Refused)):
            worker.use(purpose, P256, bytes.fromhex(key.key), b"\x11" * 32)
    with pytest.raises(Refused):
        worker.use(Purpose.TLS13_SERVER, P256, b"\x07" * 32, TLS13)
