"""Tokens as other programs and vendors leave them, each with every operation: list, candidates, adopt, generate, sign.

The tokens are of SoftHSM, some behind the fault module, which hides attributes. A row says how a key is made, what is found, and
how it is adopted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pkcs11 import Attribute, ObjectClass

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc.worker_messages import Adopt, Candidate, Describe, KeyDescription
from hsmd.errors import BadRequest
from hsmd.pkcs11.softhsm import make_token
from tests.support.fault_module.control import FaultModule, FaultyToken
from tests.support.messy_tokens import (
    OBJECTS,
    candidates,
    certificate_for,
    certificate_pem,
    handshake_signature,
)
from tests.support.tokens import RawWorker, generate, in_token

PRIVATE, PUBLIC = int(ObjectClass.PRIVATE_KEY), int(ObjectClass.PUBLIC_KEY)
EC, RSA = "public, private = ec_pair(own, cka_id)", "public, private = rsa_pair(own, cka_id)"
AGAIN = """
public, private = ec_pair(own, cka_id)
shown, point = spki(public), public[A.EC_POINT]
public.destroy()
session.create_object({{A.CLASS: C.PUBLIC_KEY, A.KEY_TYPE: K.EC, A.TOKEN: True, A.ID: cka_id, A.LABEL: own, A.VERIFY: True,
                       A.EC_PARAMS: {params}, A.EC_POINT: {point}}})
"""
"""The public key object once more, with parameters and point in another form."""
LABELLED = """
class Raw(bytes):
    def encode(self, encoding): return bytes(self)
public, private = ec_pair(own, cka_id, MODIFIABLE=True)
public[A.LABEL] = private[A.LABEL] = Raw({label!r})
"""
WITHOUT_PUBLIC_KEY = "public, private = ec_pair(own, cka_id); shown = spki(public); public.destroy()"
PRIME = "((1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1).to_bytes(33, 'big')"
EXPLICIT = (
    f"b'\\x30\\x2d\\x02\\x01\\x01\\x30\\x28\\x06\\x07\\x2a\\x86\\x48\\xce\\x3d\\x01\\x01\\x02\\x21' + {PRIME}"
)
UNREADABLE = "a\0\n\x1b[31m\u202eb".encode()


@dataclass(frozen=True)
class Row:
    """How a key is made by a script with `own` and `cka_id`, what is found, how it is shown and named. Keys have labels of
    their own, and CKA_IDs unless `cka_id` says otherwise."""

    make: str
    finding: str = "adoptable"
    cka_id: bytes | None = None
    label: str | None = None
    by_label: bool = False
    by_certificate: bool = False


ROWS = {
    "EC": Row(EC),
    "RSA": Row(RSA),
    "bare-point": Row(AGAIN.format(params="P256", point="point[2:]")),
    "bit-string": Row(AGAIN.format(params="P256", point="b'\\x03\\x42\\0' + point[2:]")),
    "curve-by-name": Row(AGAIN.format(params="b'\\x13\\x0aprime256v1'", point="point")),
    "explicit-parameters": Row(AGAIN.format(params=EXPLICIT, point="point")),
    "no-public-key": Row(WITHOUT_PUBLIC_KEY, finding="public-key-missing", by_certificate=True),
    "no-name": Row(WITHOUT_PUBLIC_KEY, finding="public-key-missing", cka_id=b"", label="", by_certificate=True),
    "public-key-elsewhere": Row(f"{EC.replace('cka_id', 'cka_id, {A.MODIFIABLE: True}')}; public[A.ID] = b'other'"),
    "no-id": Row(EC, cka_id=b"", by_label=True),
    "no-id-either": Row(EC, cka_id=b"", by_label=True),
    "long-id": Row(EC, cka_id=b"x" * 64),
    "zero-id": Row(EC, cka_id=b"\0"),
    "not-utf8": Row(LABELLED.format(label=b"caf\xe9"), finding="unsafe", label="caf\\xe9", by_label=True),
    "controls": Row(
        LABELLED.format(label=UNREADABLE), finding="unsafe", label="a\\x00\\x0a\\x1b[31m\\u202eb", by_label=True
    ),
    "long-label": Row(LABELLED.format(label=b"l" * 300), finding="unsafe", label="l" * 300),
}  # fmt: skip
HIDDEN = {
    "RSA without its exponent": ((Attribute.PUBLIC_EXPONENT,), PRIVATE),
    "RSA without modulus and exponent": ((Attribute.MODULUS, Attribute.PUBLIC_EXPONENT), PRIVATE),
    "EC without parameters": ((Attribute.EC_PARAMS,), PRIVATE),
    "public keys without parameters": ((Attribute.EC_PARAMS,), PUBLIC),
    "all that need not be": ((Attribute.EC_PARAMS, Attribute.MODULUS, Attribute.PUBLIC_EXPONENT), PRIVATE),
}


def script(rows: dict[str, Row]) -> str:
    """Makes the keys; shows the public key of each, as SubjectPublicKeyInfo in hex."""
    lines = [OBJECTS, "made = {}"]
    for number, (name, row) in enumerate(rows.items(), start=16):
        cka_id = bytes([number]) if row.cka_id is None else row.cka_id
        label = "" if row.label == "" else name
        lines.append(f"own, cka_id, shown = {label!r}, {cka_id!r}, None")
        lines += [row.make, f"made[{name!r}] = shown or spki(public)"]
    return "\n".join([*lines, "show(made)"])


def adopted(control: RawWorker, row: Row, found: Candidate, spki: str) -> KeyDescription:
    """Adopt a key by what names it and no other."""
    adopt = Adopt(name="w", purposes=["tls-server"], accept_unsafe=True)
    if row.by_label:
        adopt = msgspec.structs.replace(adopt, cka_label=found.cka_label)
    elif found.cka_id:
        adopt = msgspec.structs.replace(adopt, cka_id=found.cka_id)
    if row.by_certificate:
        if found.cka_id:
            with pytest.raises(BadRequest, match="give its certificate"):
                control.control(adopt)
        adopt = msgspec.structs.replace(adopt, certificate=certificate_pem(spki))
    description: KeyDescription = control.control(adopt)
    return description


def test_every_operation_with_unusual_objects(tmp_path: Path, start) -> None:
    token = make_token(tmp_path / "token", "messy")
    made = in_token(token, script(ROWS))
    control = start(token, control=True).ready()
    own = generate(control, "made", "p-256", ["tls-server"])
    found = {each.cka_label: each for each in candidates(control)}
    assert len(found) == len(ROWS)
    for name, row in ROWS.items():
        candidate = found[name if row.label is None else row.label]
        assert candidate.finding == row.finding, name
        assert candidate.key == ("" if row.finding == "public-key-missing" else digest(made[name])), name
        assert "hsmd key adopt NAME" in candidate.next_step
        assert msgspec.json.encode(candidate).decode().isprintable()
        assert adopted(control, row, candidate, made[name]).key == digest(made[name]), name
    everything = candidates(control, served=True)
    assert {each.key: each.finding for each in everything} == dict.fromkeys(
        (own.key, *map(digest, made.values())), "served"
    )
    assert not [each.problem for each in control.control(Describe()).keys if each.problem]
    worker = start(token).ready()
    for name, spki in made.items():
        assert handshake_signature(worker, digest(spki), scheme(name)), name
    assert handshake_signature(worker, own.key)


@pytest.mark.parametrize("name", HIDDEN)
def test_every_operation_with_hidden_attributes(
    tmp_path: Path, fault_module: FaultModule, start, name: str
) -> None:
    plain = make_token(tmp_path / "token", "messy")
    token: FaultyToken = fault_module.before(plain)
    made = in_token(plain, script({each: ROWS[each] for each in ("EC", "RSA", "no-id", "no-id-either")}))
    attributes, object_class = HIDDEN[name]
    fault_module.hide_attributes(*map(int, attributes), object_class=object_class)
    control = start(token, control=True).ready()
    own = [generate(control, kind, kind, ["tls-server"]) for kind in ("p-256", "rsa-2048")]
    found = {each.cka_label: each for each in candidates(control)}
    for each, spki in made.items():
        assert (found[each].finding, found[each].key) == ("adoptable", digest(spki)), each
        assert adopted(control, ROWS[each], found[each], spki).key == digest(spki)
    worker = start(token).ready()
    for each, spki in made.items():
        assert handshake_signature(worker, digest(spki), scheme(each)), each
    assert handshake_signature(worker, own[0].key)
    assert handshake_signature(worker, own[1].key, SignatureScheme.RSA_PSS_SHA256)


def test_the_certificate_stands_in_where_public_keys_hide_too(
    tmp_path: Path, fault_module: FaultModule, start
) -> None:
    plain = make_token(tmp_path / "token", "messy")
    made = in_token(plain, script({"RSA": ROWS["RSA"]}))
    fault_module.hide_attributes(int(Attribute.PUBLIC_EXPONENT))
    control = start(fault_module.before(plain), control=True).ready()
    (found,) = candidates(control)
    assert found.finding == "public-key-missing"
    row = Row(RSA, by_certificate=True)
    assert adopted(control, row, found, made["RSA"]).key == digest(made["RSA"])


def digest(spki: str) -> str:
    return hashlib.sha256(bytes.fromhex(spki)).hexdigest()


def scheme(name: str) -> SignatureScheme:
    return SignatureScheme.RSA_PSS_SHA256 if name == "RSA" else SignatureScheme.ECDSA_SHA256


@pytest.mark.parametrize("kind", ["public key", "other key", "certificate"])
def test_certificates_in_the_token_are_public_halves(tmp_path: Path, start, kind: str) -> None:
    token = make_token(tmp_path / "token", "messy")
    spki = in_token(token, script({"own": Row(WITHOUT_PUBLIC_KEY, cka_id=b"\t")}))["own"]
    der = certificate_for(spki).public_bytes(Encoding.DER)
    foreign = {
        "public key": 'foreign_public_key(b"\\t")',
        "other key": 'rsa_pair("own", b"\\t")',
        "certificate": f"certificate_object(b'\\t', {der[:-9]!r})",
    }[kind]
    in_token(token, OBJECTS + f"certificate_object(b'\\t', {der!r})\n{foreign}")
    control = start(token, control=True).ready()
    key = digest(spki)
    found = {each.key: each for each in candidates(control)}
    assert found[key].finding == "adoptable"
    if kind != "other key":
        assert control.control(Adopt(name="w", cka_id="09", purposes=["tls-server"])).key == key
    else:
        with pytest.raises(BadRequest, match="2 private keys"):
            control.control(Adopt(name="w", cka_id="09", purposes=["tls-server"]))
        assert found[key].shared == 1
        assert control.control(Adopt(name="w", key=key, purposes=["tls-server"])).key == key


PROBLEMS = """
ec_pair("copy", b"1", **{{}})
ec_pair("each", b"2", ALWAYS_AUTHENTICATE=True)
ec_pair("idle", b"3", SIGN=False)
ec_pair("leaky", b"4", EXTRACTABLE=True)
domain = session.create_domain_parameters(K.EC, {A.EC_PARAMS: bytes.fromhex("06052b8104000a")}, local=True)
domain.generate_keypair(id=b"5", label="koblitz", store=True, mechanism=M.EC_KEY_PAIR_GEN, capabilities=F.SIGN | F.VERIFY,
                        private_template=SAFE)
session.generate_keypair(K.RSA, 1024, id=b"6", label="short", store=True, capabilities=F.SIGN | F.VERIFY,
                         private_template=SAFE)
""".replace("{{}}", "{}")


def test_each_object_with_a_problem_is_listed_with_the_reason(tmp_path: Path, start) -> None:
    token = make_token(tmp_path / "token", "messy")
    in_token(token, OBJECTS + PROBLEMS)
    control = start(token, control=True).ready()
    generate(control, "made", "p-256", ["tls-server"])
    found: dict[str, Candidate] = {each.cka_label: each for each in candidates(control)}
    assert {label: each.finding for label, each in found.items()} == {
        "copy": "adoptable",
        "each": "unusable",
        "idle": "unusable",
        "leaky": "unsafe",
        "koblitz": "unsupported",
        "short": "unsupported",
    }
    assert "PIN for each use" in found["each"].why
    assert "neither sign" in found["idle"].why
    assert "extractable" in found["leaky"].why and "--accept-unsafe" in found["leaky"].next_step
    assert "curve other than" in found["koblitz"].why
    assert "RSA of 1024 bits" in found["short"].why
    assert "made" in {each.cka_label for each in candidates(control, served=True)}
