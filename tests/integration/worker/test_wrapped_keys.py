"""Keys in envelopes on the real SoftHSM: what comes out is verified, and no error and no kill leaves anything behind."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import KeyDescription, Unwrap, Wrap, WrappedKey
from hsmd.envelopes import recipients, rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, HsmdError, TokenFailure
from hsmd.pkcs11.public_keys import big_integer
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.protocol import frames
from hsmd.purposes import Purpose
from tests.support.fault_module.control import CKR, Action, FaultModule, Function
from tests.support.polling import wait_until
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, in_token

SUITE = Suite.RSA_OAEP_SHA1_KWP
AES_KEY_WRAP_PAD = 0x210A
RSA_PKCS_OAEP = 0x9
DEFAULT_TEXT = EnvelopeInvalid.default_text
INVENTORY = """
found = []
for each in session.get_objects({A.TOKEN: True}):
    found.append([each[A.CLASS].name, each[A.LABEL]])
show(sorted(found))
"""
ATTRIBUTES = """
[key] = session.get_objects({{A.CLASS: C.PRIVATE_KEY, A.LABEL: {name!r}}})
show({{a.name: bool(key[a]) for a in (A.TOKEN, A.PRIVATE, A.SENSITIVE, A.EXTRACTABLE, A.MODIFIABLE, A.COPYABLE, A.SIGN, A.DECRYPT,
      A.UNWRAP, A.DERIVE, A.SIGN_RECOVER, A.LOCAL, A.ALWAYS_SENSITIVE, A.NEVER_EXTRACTABLE)}})
"""

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def make(kind: str) -> Private:
    curves = {"p-256": ec.SECP256R1(), "p-384": ec.SECP384R1(), "p-521": ec.SECP521R1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


def pkcs8(private: Private) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki(private: Private) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Vault:
    """A token with a key for `unwrap-key`, and a control worker."""

    def __init__(self, token: SoftHsmToken) -> None:
        self.token = token
        self.control = RawWorker(token, {"control": True})
        self.ready = self.control.event()
        assert isinstance(self.ready, worker_messages.Ready), self.ready
        self.key: KeyDescription = generate(self.control, "vault", "rsa-2048", ["unwrap-key"])
        public = load_der_public_key(self.key.public_key)
        assert isinstance(public, rsa.RSAPublicKey)
        self.public = public

    def seal(self, private: Private) -> Envelope:
        return seal_private_key(pkcs8(private), self.public, SUITE, {"record": 7})

    def unwrap(self, envelope: bytes, public_key: bytes, name: str = "new", **changes: Any) -> KeyDescription:
        request = Unwrap(
            name=name, envelope=envelope, public_key=public_key, **{"purposes": ["tls-server"], **changes}
        )
        described: KeyDescription = self.control.control(request)
        return described

    def wrap(self, recipient: bytes, **source: Any) -> WrappedKey:
        wrapped: WrappedKey = self.control.control(
            Wrap(recipient=recipient, suite=SUITE.value, about={"record": 7}, **source)
        )
        return wrapped

    def inventory(self) -> Any:
        return in_token(self.token, INVENTORY)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Any:
    shared = Vault(make_token(tmp_path_factory.mktemp("vault") / "token", "vault"))
    yield shared
    shared.control.close()


def signs(start: Any, vault: Vault, described: KeyDescription, scheme: SignatureScheme) -> bytes:
    worker: RawWorker = start(vault.token, verify="all").ready()
    return worker.use(Purpose.TLS13_SERVER, scheme, bytes.fromhex(described.key), CERTIFICATE_VERIFY)


# --- opening ---


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("p-256", SignatureScheme.ECDSA_SHA256),
        ("p-384", SignatureScheme.ECDSA_SHA384),
        ("p-521", SignatureScheme.ECDSA_SHA512),
        ("rsa-2048", SignatureScheme.RSA_PSS_SHA256),
        ("rsa-3072", SignatureScheme.RSA_PSS_SHA256),
    ],
)
def test_a_key_from_an_envelope_is_served_and_cannot_leave_again(
    start, vault: Vault, kind: str, scheme: SignatureScheme
) -> None:
    private = make(kind)
    described = vault.unwrap(vault.seal(private).encode(), spki(private), f"from-{kind}")
    assert (described.key_type, described.public_key) == (kind, spki(private))
    assert signs(start, vault, described, scheme)
    found = in_token(vault.token, ATTRIBUTES.format(name=f"from-{kind}"))
    assert {name for name, value in found.items() if value} == {"TOKEN", "PRIVATE", "SENSITIVE", "SIGN"}
    [listed] = [
        each for each in vault.control.control(worker_messages.Describe()).keys if each.key == described.key
    ]
    assert listed.warnings == []
    assert not [label for kind, label in vault.inventory() if kind == "DATA" and label not in keys_of(vault)]


def keys_of(vault: Vault) -> set[str]:
    return {each.key for each in vault.control.control(worker_messages.Describe()).keys}


def test_a_key_that_decrypts(start, vault: Vault) -> None:
    private = make("rsa-2048")
    described = vault.unwrap(
        vault.seal(private).encode(), spki(private), "premaster", purposes=["tls12-rsa-premaster"]
    )
    worker = start(vault.token).ready()
    public = private.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    plain = b"\0\2" + b"\1" * (256 - 3 - 48) + b"\0" + b"\3\3" + bytes(46)
    numbers = public.public_numbers()
    cipher = pow(int.from_bytes(plain, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    answer = worker.use(Purpose.TLS12_RSA_PREMASTER, 0, bytes.fromhex(described.key), cipher)
    assert answer == b"\3\3" + bytes(46)


def test_an_envelope_can_be_tried_out_without_keeping_the_key(vault: Vault) -> None:
    private, before = make("p-256"), vault.inventory()
    described = vault.unwrap(vault.seal(private).encode(), spki(private), keep=False, purposes=[])
    assert described.public_key == spki(private)
    assert vault.inventory() == before


def refused(vault: Vault, envelope: bytes, public_key: bytes, **changes: Any) -> HsmdError:
    """The error of an unwrapping that must fail, leave nothing and not end the worker."""
    before = vault.inventory()
    with pytest.raises(HsmdError) as caught:
        vault.unwrap(envelope, public_key, **changes)
    assert vault.inventory() == before
    vault.control.control(worker_messages.Describe())
    return caught.value


def test_an_altered_envelope_is_refused_in_every_part(vault: Vault) -> None:
    private = make("p-256")
    envelope = vault.seal(private)
    encoded = envelope.encode()
    body = len(encoded) - len(envelope.body)
    positions = [
        body,
        body + 100,
        body + 255,
        body + 256,
        body + 290,
        len(encoded) - 41,
        len(encoded) - 40,
        len(encoded) - 1,
    ]
    for position in positions:
        altered = bytearray(encoded)
        altered[position] ^= 1
        assert refused(vault, bytes(altered), spki(private)).text == DEFAULT_TEXT
    about = encoded.replace(b'"record":7', b'"record":8')
    assert about != encoded
    assert refused(vault, about, spki(private)).text == DEFAULT_TEXT
    vault.unwrap(encoded, spki(private), keep=False)


def forged(vault: Vault, content: bytes, half: bytes, aes_key: bytes = b"") -> bytes:
    """An envelope with a valid tag whose content is anything: what any holder of the public key can make."""
    header = Header(SUITE, Kind.PRIVATE_KEY, recipients.digest(vault.public), sha256(half).digest(), {})
    aes_key = aes_key or os.urandom(32)
    oaep, kwp = rsa_aes_kwp.oaep_encrypt(vault.public, SUITE, aes_key), rsa_aes_kwp.kwp_wrap(aes_key, content)
    tag = rsa_aes_kwp.kwp_wrap(aes_key, rsa_aes_kwp.tag_content(header, oaep, kwp))
    return rsa_aes_kwp.join(header, oaep, kwp, tag).encode()


@pytest.mark.parametrize("kind", ["p-256", "rsa-2048"])
def test_another_content_than_the_header_names_is_refused(vault: Vault, kind: str) -> None:
    expected, other = make(kind), make(kind)
    contents = {
        "another key of the type": pkcs8(other),
        "a key of another type": pkcs8(make("p-384")),
        "random bytes": os.urandom(64),
        "zeros": bytes(64),
        "a symmetric key": os.urandom(32),
        "a truncated key": pkcs8(expected)[:-9],
    }
    for what, content in contents.items():
        assert refused(vault, forged(vault, content, spki(expected)), spki(expected)).text == DEFAULT_TEXT, (
            what
        )


def test_an_rsa_key_with_the_right_modulus_and_a_wrong_exponent_is_refused(vault: Vault) -> None:
    """A check of the modulus alone would pass; the key is tried with a signature."""
    private = make("rsa-2048")
    assert isinstance(private, rsa.RSAPrivateKey)
    der, numbers = bytearray(pkcs8(private)), private.private_numbers()
    for exponent in (numbers.d, numbers.dmp1):
        der[bytes(der).index(big_integer(exponent)) + 100] ^= 0x55
    assert refused(vault, forged(vault, bytes(der), spki(private)), spki(private)).text == DEFAULT_TEXT


def test_an_aes_key_of_another_length_than_aes_has_is_refused(vault: Vault) -> None:
    private = make("p-256")
    parts = vault.seal(private)
    for length in (1, 15, 31, 33, 48):
        oaep = rsa_aes_kwp.oaep_encrypt(vault.public, SUITE, os.urandom(length))
        encoded = Envelope(parts.header, oaep + parts.body[256:]).encode()
        assert refused(vault, encoded, spki(private)).text == DEFAULT_TEXT


@pytest.mark.parametrize("length", [16, 24])
def test_softhsm_opens_envelopes_whose_sender_used_a_shorter_aes_key(vault: Vault, length: int) -> None:
    """It does not tell the length of the key (docs/envelopes.md, section 3)."""
    private = make("p-256")
    encoded = forged(vault, pkcs8(private), spki(private), aes_key=os.urandom(length))
    key = vault.unwrap(encoded, spki(private), f"from-{length}-bytes")
    assert key.key == sha256(spki(private)).hexdigest()


def test_what_cannot_be_unwrapped_is_named(vault: Vault) -> None:
    private, signer = make("p-256"), generate(vault.control, "signer", "rsa-2048", ["tls-server"])
    public = load_der_public_key(signer.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    to_signer = seal_private_key(pkcs8(private), public, SUITE, {}).encode()
    assert "the token has no such key for unwrap-key" in refused(vault, to_signer, spki(private)).text
    other_hash = seal_private_key(pkcs8(private), vault.public, Suite.RSA_OAEP_SHA256_KWP, {}).encode()
    assert f"it was tried and has {SUITE}" in refused(vault, other_hash, spki(private)).text
    secret = seal_secret_key(os.urandom(32), vault.public, SUITE, {}).encode()
    assert "another key" in refused(vault, secret, spki(private)).text
    good = vault.seal(private).encode()
    assert "another key" in refused(vault, good, spki(make("p-256"))).text
    assert "public_key: must be" in refused(vault, good, b"\x30\0").text
    assert "not an envelope" in refused(vault, b"\0", spki(private)).text
    assert "needs at least one purpose" in refused(vault, good, spki(private), purposes=[]).text
    rsa_key = make("rsa-2048")
    outside = refused(vault, vault.seal(rsa_key).encode(), spki(rsa_key), purposes=["unwrap-key"])
    assert "was outside the token" in outside.text


def test_a_key_is_stored_once(vault: Vault) -> None:
    private = make("p-256")
    encoded = vault.seal(private).encode()
    vault.unwrap(encoded, spki(private), "once")
    assert isinstance(refused(vault, encoded, spki(private)), Conflict)


# --- making ---


@pytest.fixture(scope="module")
def outside() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521", "rsa-2048"])
def test_a_key_made_for_an_envelope_exists_only_there(
    vault: Vault, outside: rsa.RSAPrivateKey, kind: str
) -> None:
    before = vault.inventory()
    wrapped = vault.wrap(spki(outside), key_type=kind)
    envelope = Envelope.decode(wrapped.envelope)
    assert envelope.header.about == {"record": 7}
    opened = load_der_private_key(open_envelope(envelope, outside), None)
    assert spki(opened) == wrapped.public_key  # type: ignore[arg-type]
    assert wrapped.key_type == kind
    assert vault.inventory() == before


def test_a_key_comes_out_of_its_own_deposit(start, vault: Vault) -> None:
    wrapped = vault.wrap(vault.key.public_key, key_type="p-256")
    described = vault.unwrap(wrapped.envelope, wrapped.public_key, "deposited")
    assert described.key == wrapped.key
    assert signs(start, vault, described, SignatureScheme.ECDSA_SHA256)


def test_what_cannot_be_wrapped_is_named(vault: Vault, outside: rsa.RSAPrivateKey) -> None:
    before = vault.inventory()
    recipient = spki(outside)
    faults: list[tuple[dict[str, Any], str]] = [
        ({"recipient": recipient, "suite": "rot13", "key_type": "p-256"}, "suite: choose one of"),
        (
            {"recipient": recipient, "suite": Suite.HPKE_P256.value, "key_type": "p-256"},
            "suite: the token does not have",
        ),
        ({"recipient": recipient, "suite": SUITE.value, "key_type": "dsa"}, "key_type: choose one of"),
        (
            {"recipient": recipient, "suite": SUITE.value, "key_type": "ed25519"},
            "the token does not wrap ed25519 keys",
        ),
        ({"recipient": spki(make("p-256")), "suite": SUITE.value, "key_type": "p-256"}, "takes RSA keys"),
        ({"recipient": b"", "suite": SUITE.value, "key_type": "p-256"}, "recipient: must be"),
        ({"recipient": recipient, "suite": SUITE.value, "key_type": "p-256", "about": {"Bad": 1}}, "about"),
    ]
    for request, fault in faults:
        with pytest.raises(HsmdError) as caught:
            vault.control.control(Wrap(**request))
        assert fault in caught.value.text
    assert vault.inventory() == before


def test_keys_of_the_token_cannot_be_wrapped(vault: Vault) -> None:
    """There is no operation that names a stored key, and the token would refuse: they are not extractable."""
    generate(vault.control, "stored", "p-256", ["tls-server"])
    script = """
[key] = session.get_objects({A.CLASS: C.PRIVATE_KEY, A.LABEL: "stored"})
aes = session.generate_key(K.AES, 256, store=False, capabilities=F.WRAP)
try:
    aes.wrap_key(key, mechanism=M.AES_KEY_WRAP_PAD)
    show("wrapped")
except pkcs11.PKCS11Error as error:
    show(type(error).__name__)
"""
    assert in_token(vault.token, script) == "KeyUnextractable"


# --- what the token can do is tried ---


def test_the_abilities_are_those_that_were_tried(vault: Vault) -> None:
    assert isinstance(vault.ready, worker_messages.Ready)
    assert vault.ready.wrapping == ["rsa-oaep-sha1", "aes-kwp-0x210a", "aes-key-wrap"]


@pytest.fixture
def faults(tmp_path: Path, fault_library: Path) -> Any:
    module = FaultModule(tmp_path / "faults", fault_library)
    yield module
    module.close()


@pytest.mark.parametrize(
    ("hidden", "left"),
    [
        (AES_KEY_WRAP_PAD, ["rsa-oaep-sha1", "aes-key-wrap"]),
        (RSA_PKCS_OAEP, []),
    ],
)
def test_a_token_that_lacks_a_mechanism_says_so(
    start, fresh_token: SoftHsmToken, faults: FaultModule, hidden: int, left: list[str]
) -> None:
    faults.hide_mechanisms(hidden)
    worker = start(faults.before(fresh_token), control=True)
    ready = worker.event()
    assert isinstance(ready, worker_messages.Ready)
    assert ready.wrapping == left
    request = Wrap(recipient=spki(make("rsa-2048")), suite=SUITE.value, key_type="p-256")
    with pytest.raises(BadRequest, match="it was tried and has no suite"):
        worker.control(request)


def test_a_token_that_imports_no_private_key_is_tried_with_a_pair_of_its_own(
    start, fresh_token: SoftHsmToken, faults: FaultModule
) -> None:
    rule = faults.rule(Function.CREATE_OBJECT, Action.RETURN, CKR.FUNCTION_NOT_SUPPORTED, count=1)
    ready = start(faults.before(fresh_token), control=True).event()
    assert isinstance(ready, worker_messages.Ready)
    assert rule.hits == 1
    assert ready.wrapping == ["rsa-oaep-sha1", "aes-kwp-0x210a", "aes-key-wrap"]


def test_a_token_that_failed_for_a_moment_is_tried_again(
    start, fresh_token: SoftHsmToken, faults: FaultModule
) -> None:
    rule = faults.rule(Function.UNWRAP_KEY, Action.RETURN, CKR.DEVICE_ERROR)
    worker = start(faults.before(fresh_token), control=True)
    ready = worker.event()
    assert isinstance(ready, worker_messages.Ready)
    assert ready.wrapping == []
    rule.clear()
    worker.control(Wrap(recipient=spki(make("rsa-2048")), suite=SUITE.value, key_type="p-256"))


# --- errors and kills on the way ---

STEPS = [
    (Function.UNWRAP_KEY, 0, "before the AES key"),
    (Function.UNWRAP_KEY, 1, "after the AES key"),
    (Function.SIGN, 0, "after the secret of the tag"),
    (Function.UNWRAP_KEY, 2, "before the copy that is tried out"),
    (Function.SIGN, 1, "after the copy that is tried out"),
    (Function.CREATE_OBJECT, 0, "before the mark"),
    (Function.UNWRAP_KEY, 3, "after the mark"),
    (Function.SIGN, 2, "after the stored private key"),
    (Function.CREATE_OBJECT, 1, "before the public key"),
    (Function.CREATE_OBJECT, 2, "before the ceiling"),
]
"""Where a worker can be while it opens an envelope and stores the key: function, calls of it before, name of the point."""


@pytest.mark.parametrize(("function", "skip", "point"), STEPS, ids=[step[2] for step in STEPS])
def test_a_worker_that_is_killed_leaves_nothing(
    fresh_token: SoftHsmToken, faults: FaultModule, function: Function, skip: int, point: str
) -> None:
    vault = Vault(faults.before(fresh_token))
    private, before = make("p-256"), vault.inventory()
    encoded = vault.seal(private).encode()
    rule = faults.rule(function, Action.HANG, skip=skip, count=1, pid=vault.control.spawned.pid)
    request = Unwrap(name="new", envelope=encoded, public_key=spki(private), purposes=["tls-server"])
    send(vault.control, request)
    wait_until(lambda: rule.hits == 1, point)
    vault.control.close()  # SIGKILL
    after = RawWorker(vault.token, {"control": True}).ready()
    try:
        assert in_token(fresh_token, INVENTORY) == before
        described = after.control(request)
        assert described.public_key == spki(private)
    finally:
        after.close()


def test_a_worker_that_is_killed_after_the_ceiling_has_stored_the_key(
    start, fresh_token: SoftHsmToken, faults: FaultModule
) -> None:
    vault = Vault(faults.before(fresh_token))
    private = make("p-256")
    # Destroyed before: secret of the tag, copy, AES key is last. The mark is destroyed while the AES key is still there.
    rule = faults.rule(Function.DESTROY_OBJECT, Action.HANG, skip=2, count=1, pid=vault.control.spawned.pid)
    send(
        vault.control,
        Unwrap(
            name="new",
            envelope=vault.seal(private).encode(),
            public_key=spki(private),
            purposes=["tls-server"],
        ),
    )
    wait_until(lambda: rule.hits == 1)
    vault.control.close()
    assert "hsmd-unfinished" in in_token(fresh_token, APPLICATIONS)
    after = start(vault.token, control=True).ready()
    assert "hsmd-unfinished" not in in_token(fresh_token, APPLICATIONS)
    assert spki(private) in [each.public_key for each in after.control(worker_messages.Describe()).keys]


APPLICATIONS = """
show([each[A.APPLICATION] for each in session.get_objects({A.CLASS: C.DATA})])
"""


def test_the_mark_of_a_living_worker_is_left_alone(
    start, fresh_token: SoftHsmToken, faults: FaultModule
) -> None:
    vault = Vault(faults.before(fresh_token))
    private = make("p-256")
    rule = faults.rule(
        Function.CREATE_OBJECT, Action.SLEEP, 3_000, skip=2, count=1, pid=vault.control.spawned.pid
    )
    send(
        vault.control,
        Unwrap(
            name="new",
            envelope=vault.seal(private).encode(),
            public_key=spki(private),
            purposes=["tls-server"],
        ),
    )
    wait_until(lambda: rule.hits == 1)
    start(fresh_token, control=True).ready()  # another daemon that shares the token
    kind, _, _ = vault.control.frame()
    assert kind == frames.Kind.CONTROL_RESULT
    labels = [label for _, label in in_token(fresh_token, INVENTORY)]
    assert labels.count("new") == 2
    vault.control.close()


def send(worker: RawWorker, request: worker_messages.TokenRequest) -> None:
    worker.send(frames.encode_control_request(99, 60_000, worker_messages.encode(request)))


@pytest.mark.parametrize(
    ("function", "skip"),
    [(step[0], step[1]) for step in STEPS] + [(Function.DESTROY_OBJECT, 0), (Function.DESTROY_OBJECT, 1)],
)
@pytest.mark.parametrize("rv", [CKR.FUNCTION_FAILED, CKR.DEVICE_MEMORY])
def test_an_error_at_any_step_leaves_nothing(
    fresh_token: SoftHsmToken, faults: FaultModule, function: Function, skip: int, rv: CKR
) -> None:
    vault = Vault(faults.before(fresh_token))
    private, before = make("p-256"), vault.inventory()
    rule = faults.rule(function, Action.RETURN, rv, skip=skip, count=1, pid=vault.control.spawned.pid)
    try:
        vault.unwrap(vault.seal(private).encode(), spki(private))
        failed = False
    except (HsmdError, EOFError):
        failed = True
    assert rule.hits == 1
    assert not failed or in_token(fresh_token, INVENTORY) == before, "before another worker has looked"
    vault.control.close()
    RawWorker(vault.token, {"control": True}).ready().close()
    assert (in_token(fresh_token, INVENTORY) == before) is failed


@pytest.mark.parametrize(
    "answers",
    [
        {Function.UNWRAP_KEY: CKR.SESSION_HANDLE_INVALID},
        {Function.UNWRAP_KEY: CKR.GENERAL_ERROR, Function.GENERATE_RANDOM: CKR.DEVICE_ERROR},
    ],
)
def test_a_session_that_is_lost_is_not_taken_for_a_bad_envelope(
    fresh_token: SoftHsmToken, faults: FaultModule, answers: dict[Function, CKR]
) -> None:
    vault = Vault(faults.before(fresh_token))
    private = make("p-256")
    for function, rv in answers.items():
        faults.rule(function, Action.RETURN, rv, pid=vault.control.spawned.pid)
    with pytest.raises(TokenFailure):
        vault.unwrap(vault.seal(private).encode(), spki(private))
    vault.control.close()


def objects_left(module: FaultModule, pid: int) -> int:
    """Objects that a process has created and not destroyed, session objects included, according to the record of calls."""
    made = {
        Function.CREATE_OBJECT: 1,
        Function.GENERATE_KEY: 1,
        Function.GENERATE_KEY_PAIR: 2,
        Function.UNWRAP_KEY: 1,
        Function.DESTROY_OBJECT: -1,
    }
    return sum(made[call.function] for call in module.calls(*made) if call.pid == pid and call.rv == CKR.OK)


def test_no_session_object_outlives_its_operation(
    fresh_token: SoftHsmToken, faults: FaultModule, outside: rsa.RSAPrivateKey
) -> None:
    vault = Vault(faults.before(fresh_token))
    pid, private = vault.control.spawned.pid, make("p-256")
    encoded = vault.seal(private).encode()
    left = objects_left(faults, pid)
    assert left == 3, "private key, public key and ceiling of the vault; the probe left nothing"
    vault.wrap(spki(outside), key_type="p-256")
    vault.wrap(vault.key.public_key, key_type="rsa-2048")
    vault.unwrap(encoded, spki(private), keep=False)
    refused(vault, encoded[:-1] + bytes([encoded[-1] ^ 1]), spki(private))
    refused(vault, forged(vault, pkcs8(make("p-256")), spki(private)), spki(private))
    assert objects_left(faults, pid) == left
    vault.unwrap(encoded, spki(private))
    assert objects_left(faults, pid) == left + 3
    vault.control.close()


WRAP_STEPS = [
    (Function.GENERATE_KEY_PAIR, 0),
    (Function.GENERATE_KEY, 0),
    (Function.CREATE_OBJECT, 0),
    (Function.WRAP_KEY, 0),
    (Function.WRAP_KEY, 2),
    (Function.UNWRAP_KEY, 0),
    (Function.SIGN, 0),
    (Function.CREATE_OBJECT, 1),
    (Function.WRAP_KEY, 4),
]


@pytest.mark.parametrize(("function", "skip"), WRAP_STEPS)
def test_a_worker_that_is_killed_while_it_wraps_leaves_nothing(
    fresh_token: SoftHsmToken,
    faults: FaultModule,
    outside: rsa.RSAPrivateKey,
    function: Function,
    skip: int,
) -> None:
    vault = Vault(faults.before(fresh_token))
    before = vault.inventory()
    rule = faults.rule(function, Action.HANG, skip=skip, count=1, pid=vault.control.spawned.pid)
    send(vault.control, Wrap(recipient=spki(outside), suite=SUITE.value, key_type="p-256"))
    wait_until(lambda: rule.hits == 1)
    vault.control.close()
    assert in_token(fresh_token, INVENTORY) == before


def test_an_inventory_shows_objects(vault: Vault) -> None:
    """Positive control of every "leaves nothing" above."""
    assert ["PRIVATE_KEY", "vault"] in vault.inventory()
    assert ["DATA", vault.key.key] in vault.inventory()
