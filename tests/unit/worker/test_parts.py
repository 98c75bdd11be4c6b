"""Small parts of worker, ipc and pkcs11: ceilings, public halves, templates, the start lock, the progress page, settings."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import msgspec
import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, strategies as st
from pkcs11 import Attribute

from hsmd.algorithms import KeyType
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.worker import ceilings, key_index
from hsmd.errors import BadRequest, ProtocolError, Unavailable
from hsmd.pkcs11 import errors, mechanisms, start_lock, templates
from hsmd.pkcs11.errors import Fault
from hsmd.pkcs11.public_keys import PublicHalf, public_attributes, read_public_half
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.softhsm import CONFIGURATION
from hsmd.pkcs11.start_lock import StartLock, lock_path
from hsmd.purposes import Purpose

PRIVATES = [
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(),
]
HALVES = [half for half in (PublicHalf.of(private.public_key()) for private in PRIVATES) if half is not None]
P256 = HALVES[1]


# --- ceilings ---


def document(**changes: object) -> bytes:
    import base64

    values = {
        "version": 1, "key": P256.digest.hex(), "cka_id": "3a0f", "purposes": ["tls13-server"],
        "public_key": base64.b64encode(P256.spki).decode(),
    }  # fmt: skip
    return json.dumps({**values, **changes}).encode()


def test_a_ceiling_is_read() -> None:
    ceiling = ceilings.parse(document())
    assert ceiling is not None
    assert (ceiling.half.digest, ceiling.cka_id, ceiling.purposes) == (
        P256.digest,
        b"\x3a\x0f",
        {Purpose.TLS13_SERVER},
    )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 4000,
        b"\xff",
        document(version=2),
        document(key="00" * 32),
        document(key=P256.digest.hex().upper()),
        document(cka_id="3"),
        document(purposes=[]),
        document(purposes=["anything"]),
        document(purposes=["tls12-rsa-premaster"]),
        document(purposes=["tls13-server", "sign-digest"]),
        document(public_key="AAAA"),
        document(extra=1),
    ],
)
def test_what_is_no_ceiling_is_passed_over(value: bytes) -> None:
    assert ceilings.parse(value) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_ceiling_or_none(value: bytes) -> None:
    assert ceilings.parse(value) is None


# --- public halves ---


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.key_type.value)
def test_public_halves_survive_the_token(half: PublicHalf) -> None:
    attributes = public_attributes(half)
    assert read_public_half(attributes) == half
    if Attribute.EC_POINT in attributes:
        bare = attributes[Attribute.EC_POINT][2 if half.key_type is not KeyType.P521 else 3 :]
        assert read_public_half({**attributes, Attribute.EC_POINT: bare}) == half
    assert PublicHalf.from_spki(half.spki) == half
    assert PublicHalf.from_spki(half.spki + b"\0") is None


@pytest.mark.parametrize(
    "private", [ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65537, 1024)]
)
def test_other_keys_have_no_half(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    assert PublicHalf.of(private.public_key()) is None


def test_a_point_off_the_curve_is_no_public_half() -> None:
    attributes = public_attributes(P256)
    point = bytearray(attributes[Attribute.EC_POINT])
    point[-1] ^= 1
    assert read_public_half({**attributes, Attribute.EC_POINT: bytes(point)}) is None


# --- templates ---


def test_a_value_that_cannot_be_packed_never_reaches_the_binding() -> None:
    for template in (
        {Attribute.LABEL: b"bytes"},
        {Attribute.LABEL: "\ud800"},
        {Attribute.ID: "text"},
        {Attribute.MODULUS_BITS: -1},
        {Attribute.ALLOWED_MECHANISMS: [1]},
    ):
        with pytest.raises(ValueError, match="cannot be packed"):
            templates.checked(template)


def test_a_key_signs_or_decrypts() -> None:
    for purposes in ({Purpose.TLS13_SERVER}, {Purpose.SIGN_DIGEST}, {Purpose.TLS12_RSA_PREMASTER}):
        template = templates.private_key(frozenset(purposes))
        assert template[Attribute.SIGN] is not template[Attribute.DECRYPT]
        for attribute, value in (
            (Attribute.SENSITIVE, True),
            (Attribute.EXTRACTABLE, False),
            (Attribute.MODIFIABLE, False),
            (Attribute.COPYABLE, False),
        ):
            assert template[attribute] is value


def test_needed_mechanisms_are_used_ones() -> None:
    for kind in KeyType:
        for purpose in (Purpose.TLS13_SERVER, Purpose.TLS12_RSA_PREMASTER):
            assert mechanisms.needed(kind, frozenset({purpose})) <= mechanisms.USED


# --- faults ---


def test_faults_are_told_apart() -> None:
    assert errors.classify(pkcs11.KeyHandleInvalid()) is Fault.KEY_GONE
    assert errors.classify(pkcs11.DataLenRange()) is Fault.OPERATION
    assert errors.classify(pkcs11.GeneralError()) is Fault.UNCLEAR
    assert errors.classify(pkcs11.DeviceRemoved()) is Fault.POISONED
    assert errors.classify(pkcs11.PKCS11Error("Unmapped error code 0x68")) is Fault.OPERATION
    assert errors.classify(pkcs11.PKCS11Error("Unmapped error code 0x54321")) is Fault.POISONED
    assert errors.classify(RuntimeError("Unmapped error code 0x68")) is Fault.POISONED
    assert errors.name_of(pkcs11.PKCS11Error("Unmapped error code 0x68")) == "CKR 0x68"


# --- inventory ---


class EmptySession:
    """A token with nothing in it; counts searches."""

    def __init__(self) -> None:
        self.searches = 0

    def get_objects(self, template: object) -> list[object]:
        self.searches += 1
        return []


def test_unknown_keys_cause_at_most_one_look_a_second() -> None:
    now = [100.0]
    session = EmptySession()
    keys = key_index.KeyIndex(session, verify="rsa", clock=lambda: now[0])
    keys.scan()
    searches = session.searches
    for _ in range(50):
        assert keys.find(bytes(32)) is None
    assert session.searches == searches
    now[0] += 1.0
    for _ in range(50):
        keys.find(bytes(32))
    assert session.searches == 2 * searches


# --- start lock ---


def hold(path: str, held: object, let_go: object) -> None:
    with StartLock(Path(path)):
        held.set()  # type: ignore[attr-defined]
        let_go.wait(10)  # type: ignore[attr-defined]


def test_the_start_lock_keeps_processes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    path = tmp_path / "start.lock"
    other = context.Process(target=hold, args=(str(path), held, let_go))
    other.start()
    assert held.wait(20)
    monkeypatch.setattr(start_lock, "LOCK_WAIT_S", 0.1)
    with pytest.raises(Unavailable), StartLock(path):
        pass
    let_go.set()
    other.join(10)
    with StartLock(path) as lock:
        assert lock.note == ""
        lock.write_note("a version")
    with StartLock(path) as lock:
        assert lock.note == "a version"
        lock.write_note("")
        assert lock.note == ""


def test_the_start_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "start.lock").symlink_to(tmp_path / "target")
    with pytest.raises(Unavailable), StartLock(tmp_path / "start.lock"):
        pass


def test_one_lock_for_each_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    one = lock_path(TokenSettings(module="m", label="one"))
    assert one.parent == tmp_path
    assert one == lock_path(TokenSettings(module="m", label="one", read_write=True, cleared=True))
    assert one != lock_path(TokenSettings(module="m", label="two"))


# --- progress page ---


def test_both_ends_see_the_same_page() -> None:
    fd = ProgressPage.create()
    worker, front = ProgressPage(fd), ProgressPage(fd)
    os.close(fd)
    worker.counters[ProgressPage.STARTED] = 2**40
    worker.counters[ProgressPage.FINISHED] = 7
    assert (front.started, front.finished) == (2**40, 7)
    assert worker.counters[ProgressPage.FENCE] == 0
    front.fence()
    assert worker.counters[ProgressPage.FENCE] == 1
    worker.close()
    front.close()


# --- messages and settings ---


@given(st.binary(max_size=200))
def test_any_document_is_a_request_or_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        worker_messages.decode_request(value)
    with pytest.raises(ProtocolError):
        worker_messages.decode_event(value)


def test_settings_travel() -> None:
    settings = WorkerSettings(
        token=TokenSettings(module="/m.so", serial="01", pin_credential="pin"), verify="all", control=True
    )
    assert msgspec.json.decode(msgspec.json.encode(settings), type=WorkerSettings) == settings


def test_the_template_beside_the_script_is_the_one_in_use() -> None:
    template = Path(__file__).resolve().parents[3] / "softhsm" / "softhsm2.conf.template"
    assert template.read_text() == CONFIGURATION


def test_time_limits_are_in_order() -> None:
    """The pool's times are ordered: sweeps well below stalls, the start limit above what all others' starts take."""
    from hsmd.daemon.front.tokens import pool
    from hsmd.pkcs11 import start_lock

    assert pool.SWEEP_S <= 0.02
    assert start_lock.LOCK_WAIT_S < pool.START_LIMIT_S
    assert time.get_clock_info("monotonic").monotonic
