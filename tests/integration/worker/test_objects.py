"""Objects in the token: those made by hsmd cannot be read, changed or copied; adopting a key names its unsafe attributes."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import Adopt, KeyDescription
from hsmd.errors import BadRequest, Conflict, Refused
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.purposes import Purpose
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, in_token

READ_BACK = """
wanted = [A.TOKEN, A.PRIVATE, A.SENSITIVE, A.ALWAYS_SENSITIVE, A.EXTRACTABLE, A.NEVER_EXTRACTABLE, A.MODIFIABLE, A.COPYABLE,
          A.SIGN, A.DECRYPT, A.SIGN_RECOVER, A.UNWRAP, A.DERIVE]
result = {}
for key in list(session.get_objects({A.CLASS: C.PRIVATE_KEY})):
    values = {attribute.name: bool(key[attribute]) for attribute in wanted}
    changed = []
    for attribute, value in ((A.SENSITIVE, False), (A.EXTRACTABLE, True), (A.SIGN, True), (A.DECRYPT, True), (A.UNWRAP, True),
                             (A.DERIVE, True), (A.MODIFIABLE, True), (A.LABEL, "x")):
        try:
            key[attribute] = value
            changed.append(attribute.name)
        except pkcs11.PKCS11Error:
            pass
    try:
        key.copy({A.TOKEN: False, A.SENSITIVE: False, A.EXTRACTABLE: True})
        changed.append("copied")
    except pkcs11.PKCS11Error:
        pass
    values["changed"] = changed
    result[key.label] = values
show(result)
"""


def test_generated_keys_cannot_be_read_or_changed(fresh_token: SoftHsmToken, start) -> None:
    control = start(fresh_token, control=True).ready()
    for kind in KeyType:
        generate(control, kind.value, kind.value, ["tls-server"])
    generate(control, "premaster", "rsa-2048", ["tls12-rsa-premaster"])
    found = in_token(fresh_token, READ_BACK)
    assert len(found) == len(KeyType) + 1
    for label, values in found.items():
        decrypts = label == "premaster"
        assert values == {
            "TOKEN": True,
            "PRIVATE": True,
            "SENSITIVE": True,
            "ALWAYS_SENSITIVE": True,
            "EXTRACTABLE": False,
            "NEVER_EXTRACTABLE": True,
            "MODIFIABLE": False,
            "COPYABLE": False,
            "SIGN": not decrypts,
            "DECRYPT": decrypts,
            "SIGN_RECOVER": False,
            "UNWRAP": False,
            "DERIVE": False,
            "changed": [],
        }, label


def test_a_ceiling_cannot_be_changed(fresh_token: SoftHsmToken, start) -> None:
    generate(start(fresh_token, control=True).ready(), "www", "p-256", ["tls-server"])
    script = """
ceiling, = list(session.get_objects({A.CLASS: C.DATA, A.APPLICATION: "hsmd"}))
result = [bool(ceiling[A.PRIVATE]), bool(ceiling[A.MODIFIABLE])]
for attribute, value in ((A.VALUE, b"{}"), (A.LABEL, "x"), (A.MODIFIABLE, True)):
    try:
        ceiling[attribute] = value
        result.append(attribute.name)
    except pkcs11.PKCS11Error:
        pass
show(result)
"""
    assert in_token(fresh_token, script) == [True, False]


@pytest.mark.parametrize(
    ("key_type", "purposes", "fault"),
    [
        ("rsa-1024", ["tls-server"], "key_type"),
        ("p-256", [], "purposes"),
        ("p-256", ["sign-anything"], "sign-anything"),
        ("p-256", ["tls-server", "sign-digest"], "sign-digest"),
        ("rsa-2048", ["tls-server", "tls12-rsa-premaster"], "signs or decrypts"),
        ("p-256", ["tls12-rsa-premaster"], "RSA"),
    ],
)
def test_forbidden_combinations_are_not_generated(
    control: RawWorker, key_type: str, purposes: list[str], fault: str
) -> None:
    with pytest.raises(BadRequest, match=fault):
        generate(control, "never", key_type, purposes)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "\u00e9", "../x"])
def test_no_text_of_a_caller_reaches_a_template_unchecked(control: RawWorker, name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        control.control(worker_messages.Generate(name=name, key_type="p-256", purposes=["tls-server"]))


def test_a_new_key_is_served_soon_and_a_destroyed_one_is_not(
    token: SoftHsmToken, control: RawWorker, worker: RawWorker
) -> None:
    made = generate(control, "passing", "p-256", ["tls-server"])
    digest = bytes.fromhex(made.key)
    worker.send(b"\x00\x00\x00\x21\x81" + bytes(8) + b'{"event":"keys-changed"}')
    worker.use(Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, digest, CERTIFICATE_VERIFY)
    assert control.control(worker_messages.Destroy(key=made.key)).changed
    with pytest.raises(Refused):
        worker.use(Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, digest, CERTIFICATE_VERIFY)
    assert not control.control(worker_messages.Destroy(key=made.key)).changed
    left = in_token(token, 'show([key.label for key in list(session.get_objects({A.LABEL: "passing"}))])')
    assert left == []


def test_keys_without_a_valid_ceiling_are_not_served(fresh_token: SoftHsmToken, start) -> None:
    control = start(fresh_token, control=True).ready()
    made = {
        name: generate(control, name, "p-256", ["tls-server"])
        for name in ("lost", "garbled", "doubled", "kept")
    }
    script = """
from hashlib import sha256
def ceiling(label): return [o for o in list(session.get_objects({A.CLASS: C.DATA})) if o[A.LABEL] == label]
def make(label, value):
    common = {A.CLASS: C.DATA, A.TOKEN: True, A.PRIVATE: True, A.APPLICATION: "hsmd"}
    session.create_object({**common, A.LABEL: label, A.VALUE: value})
ceiling(%(lost)r)[0].destroy()
garbled, = ceiling(%(garbled)r)
value = garbled[A.VALUE]
garbled.destroy()
make(%(garbled)r, value[:-1])
doubled, = ceiling(%(doubled)r)
make(%(doubled)r, doubled[A.VALUE].replace(b"tls13-server", b"tls13-client"))
""" % {name: key.key for name, key in made.items()}
    in_token(fresh_token, script)
    worker = start(fresh_token).ready()
    for name, key in made.items():
        if name == "kept":
            worker.use(
                Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, bytes.fromhex(key.key), CERTIFICATE_VERIFY
            )
        else:
            with pytest.raises(Refused):
                worker.use(
                    Purpose.TLS13_SERVER,
                    SignatureScheme.ECDSA_SHA256,
                    bytes.fromhex(key.key),
                    CERTIFICATE_VERIFY,
                )


FOREIGN = """
def ec_pair(label, cka_id, **private):
    domain = session.create_domain_parameters(K.EC, {A.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}, local=True)
    template = {A.SENSITIVE: True, A.EXTRACTABLE: False, A.MODIFIABLE: False, A.DERIVE: False}
    template.update({getattr(A, name): value for name, value in private.items()})
    return domain.generate_keypair(id=cka_id, label=label, store=True, capabilities=F.SIGN | F.VERIFY,
                                   mechanism=M.EC_KEY_PAIR_GEN, private_template=template)
"""


def test_a_safe_key_is_adopted(fresh_token: SoftHsmToken, start) -> None:
    in_token(fresh_token, FOREIGN + 'ec_pair("web-2024", b"\\x3a\\x0f")')
    control = start(fresh_token, control=True).ready()
    (candidate,) = control.control(worker_messages.Candidates()).keys
    assert (candidate.cka_id, candidate.cka_label, candidate.key_type, candidate.unsafe) == (
        "3a0f",
        "web-2024",
        "p-256",
        [],
    )
    adopted = control.control(Adopt(name="www", cka_id="3A0F", purposes=["tls-server"]))
    assert (adopted.key, adopted.warnings) == (candidate.key, [])
    assert control.control(worker_messages.Candidates()).keys == []
    worker = start(fresh_token).ready()
    worker.use(
        Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, bytes.fromhex(adopted.key), CERTIFICATE_VERIFY
    )


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"EXTRACTABLE": True}, "extractable"),
        ({"SENSITIVE": False}, "not sensitive"),
        ({"MODIFIABLE": True}, "modifiable"),
        ({"DERIVE": True}, "may derive"),
        ({"DECRYPT": True}, "may sign and decrypt"),
        ({"UNWRAP": True}, "may unwrap"),
        ({"PRIVATE": False}, "visible without login"),
    ],
)
def test_unsafe_attributes_are_named_and_refused_unless_accepted(
    fresh_token: SoftHsmToken, start, attributes: dict[str, bool], words: str
) -> None:
    in_token(fresh_token, FOREIGN + f'ec_pair("unsafe", b"1", **{attributes!r})')
    control = start(fresh_token, control=True).ready()
    with pytest.raises(BadRequest, match=words):
        control.control(Adopt(name="www", cka_label="unsafe", purposes=["tls-server"]))
    assert control.control(worker_messages.Describe()).keys == []
    adopted = control.control(
        Adopt(name="www", cka_label="unsafe", purposes=["tls-server"], accept_unsafe=True)
    )
    assert adopted.warnings == [words]


def test_a_ceiling_once_fixed_stays(control: RawWorker, keys: dict[str, KeyDescription]) -> None:
    known = keys["p-256"]
    again = control.control(Adopt(name="again", cka_id=known.cka_id))
    assert (again.key, again.purposes) == (known.key, known.purposes)
    same = control.control(Adopt(name="again", cka_id=known.cka_id, purposes=list(reversed(known.purposes))))
    assert same.purposes == known.purposes
    with pytest.raises(Conflict, match="tls13-server"):
        control.control(Adopt(name="again", cka_id=known.cka_id, purposes=["sign-message"]))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, "exactly one"),
        ({"cka_id": "00", "cka_label": "x"}, "exactly one"),
        ({"cka_id": "ffffffff"}, "no such private key"),
        ({"cka_label": "missing"}, "no such private key"),
        ({"key": "zz"}, "key"),
        ({"cka_id": "xyz"}, "cka_id"),
    ],
)
def test_adopting_reports_what_is_wrong(control: RawWorker, changes: dict[str, str], fault: str) -> None:
    with pytest.raises(BadRequest, match=fault):
        control.control(Adopt(name="www", purposes=["tls-server"], **changes))


def certificate_for(public_key: object) -> str:
    issuer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, public_key, 1, now, now + dt.timedelta(days=1))
    return builder.sign(issuer, SHA256()).public_bytes(Encoding.PEM).decode()


def test_a_certificate_stands_in_for_a_missing_public_key(fresh_token: SoftHsmToken, start) -> None:
    script = (
        FOREIGN
        + """
from pkcs11.util.ec import encode_ec_public_key
public, private = ec_pair("bare", b"7")
spki = encode_ec_public_key(public)
public.destroy()
show(spki.hex())
"""
    )
    spki = bytes.fromhex(in_token(fresh_token, script))
    control = start(fresh_token, control=True).ready()
    with pytest.raises(BadRequest, match="certificate"):
        control.control(Adopt(name="www", cka_label="bare", purposes=["tls-server"]))
    other = certificate_for(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(BadRequest, match="another key"):
        control.control(Adopt(name="www", cka_label="bare", purposes=["tls-server"], certificate=other))
    assert control.control(worker_messages.Describe()).keys == []
    right = certificate_for(load_der_public_key(spki))
    adopted = control.control(Adopt(name="www", cka_label="bare", purposes=["tls-server"], certificate=right))
    assert adopted.public_key == spki
    worker = start(fresh_token).ready()
    worker.use(
        Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, bytes.fromhex(adopted.key), CERTIFICATE_VERIFY
    )
