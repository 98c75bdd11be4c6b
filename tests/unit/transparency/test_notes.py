"""Signed notes and checkpoints: published examples verify, written notes are stable, and malformed ones are refused."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, strategies as st

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.checkpoint import Checkpoint, origin_of
from hsmd.transparency.merkle import EMPTY_ROOT
from hsmd.transparency.note import Note, SignatureType, Verifier, key_id, signed, to_be_signed

# The example of the C2SP signed-note specification.
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
# Made once with the private key 32 times 0x07 (Ed25519) and the private number 7 (P-256).
ED25519_VKEY = "hsmd/east+bdffbf3d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"
ED25519_NOTE = """hsmd/east
42
47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=

— hsmd/east vf+/PZruSRwssMJeIBp4r4uqyn+PBRfS8bZ4WtS1cot8cKUeGmO+ajGzhqUYnBaxIKQvpHMYWl0+A+rrceeFNb8qUAs=
"""
P256_VKEY = "hsmd/west+11086649+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABI5TO2+gv3tGJbswZnwB+2B++fi4qA/vWzAGKHAxh7Kjc+sdveAzGDZtBp+DpvWQAFPHNjPLBBshxV4ahsH0ALQ="
P256_NOTE = """hsmd/west
42
47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=

— hsmd/west EQhmSTBGAiEAkqQGevvqEFRL8bub/9ybQ+B9Hx5BYppVSX3ZRXmzzDICIQDUjsgHYNWhunLiaB1upjZTJLQiANdm9l4a8VJjqT9yWA==
"""
ED25519_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
P256_KEY = ec.derive_private_key(7, ec.SECP256R1())
EAST = Verifier.from_public_key("hsmd/east", ED25519_KEY.public_key())
WEST = Verifier.from_public_key("hsmd/west", P256_KEY.public_key())


def sign(verifier: Verifier, text: str) -> Note:
    data = to_be_signed(text)
    if verifier.kind == SignatureType.ED25519:
        return signed(text, verifier, [ED25519_KEY.sign(data)])
    return signed(text, verifier, [P256_KEY.sign(data, ec.ECDSA(hashes.SHA256()))])


def spki(
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey, pem: bool = False
) -> bytes:
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_published_example_verifies() -> None:
    verifier = Verifier.from_vkey(C2SP_VKEY)
    note = Note.parse(C2SP_NOTE)
    verifier.verify(note)
    assert (verifier.name, verifier.vkey, note.render()) == ("example.com/foo", C2SP_VKEY, C2SP_NOTE)
    assert note.text == "This is an example message.\n"


def test_the_golden_note_verifies_and_is_reproduced() -> None:
    made = sign(EAST, Checkpoint("hsmd/east", 42, EMPTY_ROOT).text())
    assert (EAST.vkey, made.render()) == (ED25519_VKEY, ED25519_NOTE)
    assert checkpoints.parse(ED25519_NOTE, Verifier.from_vkey(ED25519_VKEY)) == Checkpoint(
        "hsmd/east", 42, EMPTY_ROOT
    )
    assert WEST.vkey == P256_VKEY
    assert checkpoints.parse(P256_NOTE, Verifier.from_vkey(P256_VKEY)) == Checkpoint(
        "hsmd/west", 42, EMPTY_ROOT
    )


def test_key_ids_follow_the_specification() -> None:
    raw = ED25519_KEY.public_key().public_bytes_raw()
    assert key_id("hsmd/east", 1, raw) == sha256(b"hsmd/east\n\x01" + raw).digest()[:4] == EAST.key_id
    assert WEST.key_id == sha256(spki(P256_KEY.public_key())).digest()[:4]


@pytest.mark.parametrize("verifier", [EAST, WEST], ids=["Ed25519", "P-256"])
def test_a_key_survives_its_written_forms(verifier: Verifier) -> None:
    key = (ED25519_KEY if verifier is EAST else P256_KEY).public_key()
    assert Verifier.from_vkey(f" {verifier.vkey}\n") == verifier
    assert Verifier.from_pem(verifier.name, spki(key, pem=True)) == verifier
    assert Verifier.from_spki(verifier.name, spki(key)) == verifier
    note = sign(verifier, Checkpoint(verifier.name, 3, EMPTY_ROOT).text())
    assert checkpoints.parse(note.render(), verifier) == Checkpoint(verifier.name, 3, EMPTY_ROOT)


@pytest.mark.parametrize("verifier", [EAST, WEST], ids=["Ed25519", "P-256"])
def test_every_changed_bit_of_a_note_is_refused(verifier: Verifier) -> None:
    note = sign(verifier, Checkpoint(verifier.name, 3, EMPTY_ROOT).text()).render().encode()
    for bit in range(len(note) * 8):
        changed = bytearray(note)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ProtocolError, ProofInvalid, UnicodeDecodeError)):
            checkpoints.parse(changed.decode(), verifier)


def test_signatures_by_unknown_keys_are_ignored() -> None:
    text = Checkpoint("hsmd/east", 3, EMPTY_ROOT).text()
    ours, theirs = sign(EAST, text), sign(WEST, text)
    both = Note(text, theirs.signatures + ours.signatures)
    assert checkpoints.parse(both, EAST).size == 3
    with pytest.raises(ProofInvalid, match="no signature by hsmd/east"):
        EAST.verify(theirs)


def test_one_wrong_signature_by_a_known_key_invalidates_the_note() -> None:
    text = Checkpoint("hsmd/east", 3, EMPTY_ROOT).text()
    good, other = sign(EAST, text), sign(EAST, Checkpoint("hsmd/east", 4, EMPTY_ROOT).text())
    with pytest.raises(ProofInvalid, match="wrong"):
        EAST.verify(Note(text, good.signatures + other.signatures))


def test_a_checkpoint_of_another_log_is_refused() -> None:
    with pytest.raises(ProofInvalid, match=r"hsmd/west.*hsmd/east"):
        checkpoints.parse(sign(EAST, Checkpoint("hsmd/west", 3, EMPTY_ROOT).text()), EAST)


@pytest.mark.parametrize(
    "text",
    [
        "hsmd/east\n3\n",
        "hsmd/east\n03\n{root}\n",
        "hsmd/east\n-3\n{root}\n",
        "hsmd/east\n\u0663\n{root}\n",
        "\n3\n{root}\n",
        "hsmd/east\n3\n{root}\nmore\n",
        "hsmd/east\n3\nAAAA\n",
        "hsmd/east\n3\n{loose}\n",
        "hsmd/east\n3\n{root}\n\n",
        "hsmd/east\n1" + "0" * 30 + "\n{root}\n",
        "hsmd/east\n3\n?\n",
    ],
)
def test_other_texts_are_not_a_checkpoint(text: str) -> None:
    root = base64.b64encode(EMPTY_ROOT).decode()
    loose = root[:-2] + "V="  # the same bytes, with unused bits set
    assert base64.b64decode(loose) == EMPTY_ROOT
    with pytest.raises(ProtocolError):
        checkpoints.parse_text(text.format(root=root, loose=loose))


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— a AAAAAAA=",
        "text\n\na AAAAAAA=\n",
        "text\n\n— AAAAAAA=\n",
        "text\n\n— a AAAA\n",
        "text\n\n— a AAAAAAB=\n",
        "te\rxt\n\n— a AAAAAAA=\n",
        "text\n\n— a+b AAAAAAA=\n",
        "text\n\n— a\u2028b AAAAAAA=\n",
        "text\n\n— a AAAAAAA=\n" + "— a AAAAAAA=\n" * 100,
        "t" * 131_072 + "\n\n— a AAAAAAA=\n",
        "\ud800\n\n— a AAAAAAA=\n",
        "text\n\n— a AAAA AAA=\n",
        "text\n\n- a AAAAAAA=\n",
    ],
)
def test_other_texts_are_not_a_note(note: str) -> None:
    assert Note.parse("text\n\n— a AAAAAAA=\n").signatures[0].signature == b"\0"
    with pytest.raises(ProtocolError):
        Note.parse(note)


@pytest.mark.parametrize("text", ["", "no line feed", "a\tb\n", "\ud800\n", "a\0\n"])
def test_invalid_texts_cannot_be_signed(text: str) -> None:
    with pytest.raises(ProtocolError):
        to_be_signed(text)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "hsmd/east",
        ED25519_VKEY.replace("bd", "be"),
        ED25519_VKEY.replace("east", "west"),
        ED25519_VKEY[:-1] + "t",
        ED25519_VKEY.replace("+Ae", "+Be"),
        "a b+" + ED25519_VKEY.partition("+")[2],
        ED25519_VKEY + "\nmore",
        ED25519_VKEY[:-4],
    ],
)
def test_other_texts_are_not_a_verifier_key(vkey: str) -> None:
    with pytest.raises(ProtocolError):
        Verifier.from_vkey(vkey)


def test_other_types_of_keys_cannot_sign_notes() -> None:
    for key in (ec.derive_private_key(7, ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(ProtocolError, match="Ed25519 or a P-256"):
            Verifier.from_spki("hsmd/east", spki(key.public_key()))
    for broken in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(ProtocolError):
            Verifier.from_pem("hsmd/east", broken)
    with pytest.raises(ProtocolError, match="name of a signer"):
        Verifier.from_public_key("hsmd east", ED25519_KEY.public_key())


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200),
    st.lists(st.binary(min_size=1), min_size=1, max_size=5),
)
def test_a_written_note_is_read_again(text: str, signatures: list[bytes]) -> None:
    note = signed(text + "\n", EAST, signatures)
    assert Note.parse(note.render()) == note


@given(st.text(max_size=300))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for candidate in (text, f"text\n\n— {text}\n"):
        try:
            note = Note.parse(candidate)
        except ProtocolError:
            continue
        assert note.render() == candidate


def test_the_origin_has_the_name_of_the_daemon() -> None:
    assert origin_of("east") == "hsmd/east"
