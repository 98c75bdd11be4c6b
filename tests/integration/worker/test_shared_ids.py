"""Objects that share a CKA_ID in a real token: the pair that fits is told by proof, whatever the order of the objects."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon.ipc.worker_messages import Adopt, Describe
from hsmd.errors import BadRequest, Refused, TokenFailure
from hsmd.pkcs11.softhsm import SoftHsmToken
from tests.support.messy_tokens import OBJECTS, candidates, certificate_pem, handshake_signature
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import generate, in_token


def digest(spki: str) -> str:
    return hashlib.sha256(bytes.fromhex(spki)).hexdigest()


def assert_signs(worker, spki: str) -> None:
    """The worker signs with the private key of this public key."""
    signature = handshake_signature(worker, digest(spki))
    public_key = load_der_public_key(bytes.fromhex(spki))
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(signature, CERTIFICATE_VERIFY, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("foreign_first", [True, False])
@pytest.mark.parametrize("certificate", [True, False])
def test_the_public_key_that_fits_is_adopted(
    fresh_token: SoftHsmToken, start, foreign_first: bool, certificate: bool
) -> None:
    foreign = 'for _ in range(3): foreign_public_key(b"\\x90")\n'
    own = 'own = spki(ec_pair("own", b"\\x90")[0])\n'
    made = in_token(fresh_token, OBJECTS + (foreign + own if foreign_first else own + foreign) + "show(own)")
    control = start(fresh_token, control=True).ready()
    (candidate,) = candidates(control)
    assert candidate.key == digest(made)
    pem = certificate_pem(made) if certificate else ""
    adopted = control.control(Adopt(name="w", cka_id="90", purposes=["tls-server"], certificate=pem))
    assert adopted.public_key.hex() == made
    assert_signs(start(fresh_token).ready(), made)


@pytest.mark.parametrize("certificate", [True, False])
def test_a_private_key_without_its_public_key_is_not_paired_with_another(
    fresh_token: SoftHsmToken, start, certificate: bool
) -> None:
    script = (
        'public, _ = ec_pair("own", b"1")\nshow(spki(public))\npublic.destroy()\nforeign_public_key(b"1")'
    )
    own = in_token(fresh_token, OBJECTS + script)
    control = start(fresh_token, control=True).ready()
    adopt = Adopt(name="w", cka_id="31", purposes=["tls-server"])
    if not certificate:
        with pytest.raises(BadRequest, match="give its certificate"):
            control.control(adopt)
        assert control.control(Describe()).keys == []
        return
    right = Adopt(name="w", cka_id="31", purposes=["tls-server"], certificate=certificate_pem(own))
    assert control.control(right).public_key.hex() == own


TWO_KEYS = OBJECTS + 'show([spki(ec_pair(label, b"9")[0]) for label in ("one", "two")])'


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_certificate_decides_between_private_keys(fresh_token: SoftHsmToken, start, chosen: int) -> None:
    made = in_token(fresh_token, TWO_KEYS)
    control = start(fresh_token, control=True).ready()
    with pytest.raises(BadRequest, match="2 private keys"):
        control.control(Adopt(name="w", cka_id="39", purposes=["tls-server"]))
    by_certificate = Adopt(
        name="w", cka_id="39", purposes=["tls-server"], certificate=certificate_pem(made[chosen])
    )
    assert control.control(by_certificate).public_key.hex() == made[chosen]
    worker = start(fresh_token).ready()
    assert_signs(worker, made[chosen])
    with pytest.raises(Refused):
        handshake_signature(worker, digest(made[1 - chosen]))


def test_private_keys_that_share_everything_but_their_label_serve_side_by_side(
    fresh_token: SoftHsmToken, start
) -> None:
    made = in_token(fresh_token, TWO_KEYS)
    control = start(fresh_token, control=True).ready()
    for label, spki in zip(("one", "two"), made, strict=True):
        adopted = control.control(Adopt(name=label, cka_label=label, purposes=["tls-server"]))
        assert adopted.public_key.hex() == spki
    worker = start(fresh_token).ready()
    for spki in made:
        assert_signs(worker, spki)


@pytest.mark.parametrize("restart", [True, False])
def test_the_served_key_stays_when_another_with_its_id_appears(
    fresh_token: SoftHsmToken, start, restart: bool
) -> None:
    made = in_token(fresh_token, OBJECTS + 'show(spki(ec_pair("own", b"9")[0]))')
    control = start(fresh_token, control=True).ready()
    control.control(Adopt(name="w", cka_id="39", purposes=["tls-server"]))
    worker = start(fresh_token).ready()
    assert_signs(worker, made)
    in_token(fresh_token, OBJECTS + 'ec_pair("own", b"9")\nec_pair("own", b"9")')
    worker.send(b"\x00\x00\x00\x21\x81" + bytes(8) + b'{"event":"keys-changed"}')
    assert_signs(start(fresh_token).ready() if restart else worker, made)


def test_a_key_that_took_the_place_of_another_is_not_served(fresh_token: SoftHsmToken, start) -> None:
    made = in_token(fresh_token, OBJECTS + 'show(spki(ec_pair("own", b"9")[0]))')
    control = start(fresh_token, control=True).ready()
    control.control(Adopt(name="w", cka_id="39", purposes=["tls-server"]))
    replace = (
        "for key in list(session.get_objects({A.CLASS: C.PRIVATE_KEY})): key.destroy()\n"
        'ec_pair("own", b"9"); ec_pair("own", b"9")'
    )
    in_token(fresh_token, OBJECTS + replace)
    with pytest.raises(Refused):
        handshake_signature(start(fresh_token).ready(), digest(made))
    (described,) = control.control(Describe()).keys
    assert (
        "none of 2 private keys with its CKA_ID and type belongs to its public key" in described.warnings[0]
    )


def test_a_single_key_that_took_the_place_of_another_signs_nothing(fresh_token: SoftHsmToken, start) -> None:
    """What an EC private key shows does not tell: its first signature is verified."""
    made = in_token(fresh_token, OBJECTS + 'show(spki(ec_pair("own", b"9")[0]))')
    control = start(fresh_token, control=True).ready()
    control.control(Adopt(name="w", cka_id="39", purposes=["tls-server"]))
    other = generate(control, "other", "p-256", ["tls-server"])
    replace = (
        "for key in list(session.get_objects({A.CLASS: C.PRIVATE_KEY, A.ID: b'9'})): key.destroy()\n"
        'ec_pair("own", b"9")'
    )
    in_token(fresh_token, OBJECTS + replace)
    worker = start(fresh_token).ready()
    for _ in range(3):
        with pytest.raises(TokenFailure, match="not the one that was adopted"):
            handshake_signature(worker, digest(made))
        assert handshake_signature(worker, other.key)
