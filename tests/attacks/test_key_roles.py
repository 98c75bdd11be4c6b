"""A5: hsmd gives no way to obtain a key with two uses, or one that can be changed to have another (Clulow, Tookan).

After any requests, the token holds only keys that sign, decrypt or unwrap, one of the three, and cannot be changed, copied or
extracted; no request has a member for a mechanism, a template or an attribute. Keys that unwrap are used by no key operation.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.ipc import worker_messages as token_messages
from hsmd.daemon.ipc.worker_messages import AnyRequest, KeyDescription
from hsmd.envelopes.header import Suite
from hsmd.errors import BadRequest, Conflict, HsmdError, PurposeMismatch, Refused
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.daemon import WEB, Daemon, run_aside
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, in_token

NEVER = ("WRAP", "DERIVE", "SIGN_RECOVER", "EXTRACTABLE", "MODIFIABLE", "COPYABLE")
USES = {"SIGN": "VERIFY", "DECRYPT": "ENCRYPT", "UNWRAP": "WRAP"}
"""What a private key may do, and what its public key may do then."""

READ_BACK = """
flags = ("SIGN", "VERIFY", "DECRYPT", "ENCRYPT", "WRAP", "UNWRAP", "DERIVE", "SIGN_RECOVER", "EXTRACTABLE", "MODIFIABLE", "COPYABLE",
         "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "TRUSTED", "WRAP_WITH_TRUSTED")
def read(item):
    found = {}
    for name in flags:
        try:
            found[name] = bool(item[getattr(A, name)])
        except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, AttributeError):
            pass
    return found
def steps(key, public):
    "Try Tookan's first steps on an existing key; return the names of those that work."
    done = []
    def step(name, work):
        try:
            work()
            done.append(name)
        except (pkcs11.PKCS11Error, AttributeError, NotImplementedError, TypeError):
            pass
    for name in ("WRAP", "UNWRAP", "DECRYPT", "ENCRYPT", "SIGN", "DERIVE", "EXTRACTABLE", "MODIFIABLE", "TRUSTED"):
        for item, side in ((key, "private"), (public, "public")):
            if not read(item).get(name):
                step(f"{side} {name} on", lambda: item.__setitem__(getattr(A, name), True))
    step("SENSITIVE off", lambda: key.__setitem__(A.SENSITIVE, False))
    step("read", lambda: key[A.VALUE])
    step("read exponent", lambda: key[A.PRIVATE_EXPONENT])
    step("copy", lambda: key.copy({A.TOKEN: False, A.EXTRACTABLE: True, A.SENSITIVE: False}))
    return done
made = {}
for key in list(session.get_objects({A.CLASS: C.PRIVATE_KEY})):
    public, = list(session.get_objects({A.CLASS: C.PUBLIC_KEY, A.ID: key[A.ID]}))
    made[key.label] = {"private": read(key), "public": read(public), "steps": steps(key, public)}
show({"keys": made, "secret": len(list(session.get_objects({A.CLASS: C.SECRET_KEY})))})
"""


def test_no_request_has_a_member_for_a_mechanism_or_an_attribute() -> None:
    """All that a caller can specify for a key: names, one of seven types, purposes from the table, a certificate; of an envelope
    its bytes, the public keys, a suite of the table and what its header says; what an authority may certify; of a list how much and from where."""
    allowed = {
        "name", "key_type", "purposes", "cka_id", "cka_label", "key", "certificate", "accept_unsafe",
        "envelope", "public_key", "keep", "recipient", "suite", "about", "served", "brief", "cursor", "constraints", "reserve",
    }  # fmt: skip
    for request in AnyRequest.__args__:
        assert set(request.__struct_fields__) <= allowed, request
    words = (
        "mechanism",
        "template",
        "attribute",
        "wrap",
        "extract",
        "sensitive",
        "handle",
        "slot",
        "session",
    )
    # Of the vault: about keys that no token here has.
    of_owners = {"wrapping", "wrapping_proof", "possession", "possession_kind"}
    for struct in messages.REQUESTS:
        for field in set(struct.__struct_fields__) - of_owners:
            assert not any(word in field for word in words), f"{struct.__name__}.{field}"


def test_random_requests_leave_only_safe_keys(
    fresh_token: SoftHsmToken, request: pytest.FixtureRequest
) -> None:
    """200 valid and invalid requests in a row, of every type with every purpose; then read the token itself."""
    choose = random.Random(request.config.getoption("randomly_seed", 1))
    control = RawWorker(fresh_token, {"control": True}).ready()
    try:
        names = [purpose.label for purpose in Purpose]
        alive: list[str] = []
        from_envelopes: list[str] = []
        vault = control.control(token_messages.Generate("vault", "rsa-2048", ["unwrap-key"]))
        alive.append(vault.key)
        suite = Suite.RSA_OAEP_SHA1_KWP.value
        sealed = control.control(token_messages.Wrap("p-256", vault.public_key, suite))
        for number in range(200):
            made_name = f"key-{number}"
            purposes = choose.sample(names, choose.choice([1, 1, 1, 2, 3]))
            ask: Any = choose.choice(
                [
                    token_messages.Generate(
                        made_name, choose.choice(["p-256", "ed25519", "p-384"]), purposes
                    ),
                    token_messages.Generate(
                        made_name, choose.choice(list(KeyType)).value, ["tls-server", "unwrap"]
                    ),
                    token_messages.Adopt(
                        made_name, purposes, key=choose.choice([*alive, "00" * 32]), accept_unsafe=True
                    ),
                    token_messages.Destroy(choose.choice([*alive[1:2], "11" * 32, "22" * 32])),
                    token_messages.Candidates(),
                    token_messages.Wrap(choose.choice(["p-256", "ed25519"]), vault.public_key, suite),
                    token_messages.Unwrap(
                        made_name, sealed.envelope, sealed.public_key, purposes, choose.choice([True, False])
                    ),
                ]
            )
            try:
                result = control.control(ask)
            except HsmdError:
                continue
            if isinstance(ask, token_messages.Generate):
                alive.append(result.key)
            elif isinstance(ask, token_messages.Unwrap) and ask.keep:
                alive.append(result.key)
                from_envelopes.append(made_name)
                sealed = control.control(token_messages.Wrap("p-256", vault.public_key, suite))
            elif isinstance(ask, token_messages.Wrap):
                sealed = result
            elif isinstance(ask, token_messages.Destroy) and ask.key in alive:
                alive.remove(ask.key)
        last = (["tls-server"], ["tls12-rsa-premaster"], ["unwrap-key"])
        for kind, purposes in itertools.product(("rsa-2048",), last):
            alive.append(control.control(token_messages.Generate(f"last-{purposes[0]}", kind, purposes)).key)
        assert len(alive) > 5 and from_envelopes
    finally:
        control.close()
    found = in_token(fresh_token, READ_BACK)
    assert found["secret"] == 0
    assert len(found["keys"]) == len(alive)
    for name, key in found["keys"].items():
        private, public = key["private"], key["public"]
        assert not any(private.get(flag) for flag in NEVER), (name, private)
        made_here = name not in from_envelopes
        assert private["SENSITIVE"], name
        assert private["ALWAYS_SENSITIVE"] is private["NEVER_EXTRACTABLE"] is made_here, name
        used = [use for use in USES if private.get(use)]
        assert len(used) == 1, f"{name} signs, decrypts or unwraps, never two of them or none: {used}"
        assert [use for use in USES.values() if public.get(use)] == [USES[used[0]]], (name, public)
        assert not public.get("MODIFIABLE"), (name, public)
        assert key["steps"] == [], f"{name}: {key['steps']}"


# --- keys that unwrap ---

EVERY_SCHEME = (0, *map(int, SignatureScheme))

FOREIGN = """
def pair(label, cka_id, **uses):
    template = {A.SENSITIVE: True, A.EXTRACTABLE: False, A.MODIFIABLE: False}
    off = {A.SIGN: False, A.DECRYPT: False, A.UNWRAP: False, A.SIGN_RECOVER: False, A.DERIVE: False}
    template.update({**off, **{getattr(A, name): value for name, value in uses.items()}})
    session.generate_keypair(K.RSA, 2048, id=cka_id, label=label, store=True, mechanism=M.RSA_PKCS_KEY_PAIR_GEN,
                             capabilities=F.UNWRAP | F.WRAP, private_template=template)
"""

REPLACE_CEILING = """
old, = [o for o in list(session.get_objects({A.CLASS: C.DATA})) if o[A.LABEL] == %(key)r]
value = old[A.VALUE]
if %(alone)r:
    old.destroy()
session.create_object({A.CLASS: C.DATA, A.TOKEN: True, A.PRIVATE: True, A.APPLICATION: "hsmd", A.LABEL: %(key)r,
                       A.VALUE: value.replace(%(old)r, %(new)r)})
show(value.decode())
"""


def worker_on(token: SoftHsmToken) -> RawWorker:
    return RawWorker(token).ready()


def test_a_key_that_unwraps_is_used_by_no_key_operation(fresh_token: SoftHsmToken) -> None:
    """Directly at a worker, with every code and scheme; the other keys of the token are served as usual."""
    control = RawWorker(fresh_token, {"control": True}).ready()
    unwraps = generate(control, "kek", "rsa-2048", ["unwrap-key"])
    serves = generate(control, "www", "p-256", ["tls-server"])
    assert unwraps.warnings == []
    control.close()
    worker = worker_on(fresh_token)
    try:
        started = worker.progress.started
        for purpose in (*map(int, Purpose), 0, 6, 0x85, 0xFF):
            for scheme in EVERY_SCHEME:
                with pytest.raises(PurposeMismatch):
                    worker.use(purpose, scheme, bytes.fromhex(unwraps.key), CERTIFICATE_VERIFY)
        assert worker.progress.started == started, "the key was used"
        for digest in (unwraps.key, serves.key):
            with pytest.raises(PurposeMismatch, match="unwrap-key is not a key operation"):
                worker.use(Purpose.UNWRAP_KEY, 0, bytes.fromhex(digest), b"wrapped")
        good = (Purpose.TLS13_SERVER, 0x0403, bytes.fromhex(serves.key), CERTIFICATE_VERIFY)
        assert worker.use(*good), "another key is used as before"
    finally:
        worker.close()


@pytest.mark.parametrize("others", [["SIGN"], ["DECRYPT"], ["SIGN_RECOVER"], ["SIGN", "DECRYPT"]])
def test_a_key_with_mixed_uses_is_not_adopted_to_unwrap(fresh_token: SoftHsmToken, others: list[str]) -> None:
    """A PIN holder made a key that unwraps and decrypts or signs: that cannot be accepted, as extractable keys can."""
    uses = dict.fromkeys(["UNWRAP", *others], True)
    in_token(fresh_token, FOREIGN + f'pair("mixed", b"1", **{uses!r})')
    control = RawWorker(fresh_token, {"control": True}).ready()
    try:
        (candidate,) = control.control(token_messages.Candidates()).keys
        assert "may unwrap" in candidate.unsafe or others == ["SIGN_RECOVER"]
        for accept in (False, True):
            with pytest.raises(BadRequest, match="a key that unwraps must do nothing else"):
                control.control(
                    token_messages.Adopt("kek", ["unwrap-key"], cka_label="mixed", accept_unsafe=accept)
                )
        assert control.control(token_messages.Describe()).keys == []
    finally:
        control.close()


def test_a_key_that_only_unwraps_is_adopted_for_that_alone(fresh_token: SoftHsmToken) -> None:
    in_token(fresh_token, FOREIGN + 'pair("kek", b"1", UNWRAP=True); pair("www", b"2", SIGN=True)')
    control = RawWorker(fresh_token, {"control": True}).ready()
    try:
        assert [key.unsafe for key in control.control(token_messages.Candidates()).keys] == [[], []]
        for purposes, word in ((["tls-server"], "sign"), (["tls12-rsa-premaster"], "decrypt")):
            with pytest.raises(BadRequest, match=f"the token does not let this key {word}"):
                control.control(token_messages.Adopt("kek", purposes, cka_label="kek", accept_unsafe=True))
        with pytest.raises(BadRequest, match="the token does not let this key unwrap"):
            control.control(token_messages.Adopt("www", ["unwrap-key"], cka_label="www", accept_unsafe=True))
        adopted = control.control(token_messages.Adopt("kek", ["unwrap-key"], cka_label="kek"))
        assert (adopted.purposes, adopted.warnings) == (["unwrap-key"], [])
        with pytest.raises(Conflict, match="fixed as unwrap-key"):
            control.control(token_messages.Adopt("kek", ["tls-server"], cka_label="kek"))
    finally:
        control.close()


@pytest.mark.parametrize(
    ("purposes", "old", "new"),
    [
        (["unwrap-key"], b'"unwrap-key"', b'"tls12-rsa-premaster"'),
        (["unwrap-key"], b'"unwrap-key"', b'"unwrap-key","tls12-rsa-premaster"'),
        (["unwrap-key"], b'"unwrap-key"', b'"sign-message"'),
        (["unwrap-key"], b'"version":2', b'"version":1'),
        (["tls12-rsa-premaster"], b'"tls12-rsa-premaster"', b'"unwrap-key"'),
        (["tls12-rsa-premaster"], b'1,"key"', b'2,"key"'),
        (["sign-message"], b'"sign-message"', b'"unwrap-key"'),
    ],
)
@pytest.mark.parametrize("alone", [True, False], ids=["instead", "beside"])
def test_an_altered_ceiling_gives_a_key_no_other_use(
    fresh_token: SoftHsmToken, purposes: list[str], old: bytes, new: bytes, alone: bool
) -> None:
    """A PIN holder replaces a ceiling, or adds a second one: the key then has no use, or the one of its attributes."""
    control = RawWorker(fresh_token, {"control": True}).ready()
    key = generate(control, "target", "rsa-2048", purposes)
    kept = generate(control, "kept", "p-256", ["tls-server"])
    control.close()
    script = REPLACE_CEILING % {"key": key.key, "alone": alone, "old": old, "new": new}
    assert old.decode() in json.dumps(in_token(fresh_token, script), separators=(",", ":")).replace("\\", "")
    worker = worker_on(fresh_token)
    try:
        started, digest = worker.progress.started, bytes.fromhex(key.key)
        for purpose in Purpose:
            if [purpose.label] == purposes and not alone:
                continue  # a second object that is no valid ceiling takes nothing away
            for scheme in EVERY_SCHEME:
                with pytest.raises((PurposeMismatch, Refused)):
                    worker.use(purpose, scheme, digest, bytes(256))
        assert worker.progress.started == started, "the key was used"
        assert worker.use(Purpose.TLS13_SERVER, 0x0403, bytes.fromhex(kept.key), CERTIFICATE_VERIFY)
    finally:
        worker.close()


def test_unwrapping_is_not_granted(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon()
    ask = messages.KeyGenerate(name="kek", key_type="rsa-2048", purposes=["unwrap-key"])
    made = daemon.ask(ask, timeout_s=60.0)
    assert made.purposes == ["unwrap-key"]
    assert "kek" in [key.name for key in daemon.ask(messages.KeyList()).keys]
    for purposes in (["unwrap-key"], ["tls12-rsa-premaster"], ["tls-server"]):
        with pytest.raises(BadRequest, match=r"cannot be granted|do not include"):
            daemon.ask(messages.GrantAdd(client=WEB, key="kek", purposes=purposes))

    async def work() -> None:
        async with daemon.connection(WEB) as web:
            for scheme in (0, 0x0804):
                with pytest.raises(Refused):
                    await web.use_key(
                        bytes.fromhex(made.digest), Purpose.UNWRAP_KEY, scheme, bytes(256), timeout_s=10
                    )

    run_aside(work)


def test_a_constraint_in_the_ceiling_holds_beside_the_key(fresh_token: SoftHsmToken) -> None:
    """Directly at a worker: names that the ceiling allows, others, and a constraint of a later release."""
    control = RawWorker(fresh_token, {"control": True}).ready()
    keys = {
        name: generate(control, name, "p-256", ["tls-server", "x509-request"])
        for name in ("limited", "later", "free")
    }
    control.close()
    for name, constraint in (("limited", b'{"names":["example.org"]}'), ("later", b'{"colours":["red"]}')):
        script = """
old, = [o for o in list(session.get_objects({A.CLASS: C.DATA})) if o[A.LABEL] == %(key)r]
value = old[A.VALUE].replace(b'{"version":1', b'{"version":2')
old.destroy()
session.create_object({A.CLASS: C.DATA, A.TOKEN: True, A.PRIVATE: True, A.APPLICATION: "hsmd", A.LABEL: %(key)r,
                       A.VALUE: value[:-1] + b',"constraints":{"x509-request":' + %(constraint)r + b'}}'})
"""
        in_token(fresh_token, script % {"key": keys[name].key, "constraint": constraint})
    worker = worker_on(fresh_token)
    try:
        signed = {
            (name, host): _requests(worker, keys[name], host)
            for name in keys
            for host in ("example.org", "example.com")
        }
        assert signed == {
            ("limited", "example.org"): True,
            ("limited", "example.com"): False,
            ("later", "example.org"): False,
            ("later", "example.com"): False,
            ("free", "example.org"): True,
            ("free", "example.com"): True,
        }
        for key in keys.values():
            worker.use(Purpose.TLS13_SERVER, 0x0403, bytes.fromhex(key.key), CERTIFICATE_VERIFY)
    finally:
        worker.close()


def _requests(worker: RawWorker, key: KeyDescription, host: str) -> bool:
    """Whether the worker signs a request for a certificate of the key for a host."""
    try:
        info = request_info(key.public_key, host)
        return bool(worker.use(Purpose.X509_REQUEST, 0x0403, bytes.fromhex(key.key), info))
    except PurposeMismatch:
        return False


def request_info(spki: bytes, host: str) -> bytes:
    """A CertificationRequestInfo (RFC 2986, section 4.1) with a common name and no attributes."""
    name = host.encode()
    common_name = der(0x31, der(0x30, bytes.fromhex("0603550403") + der(0x0C, name)))
    return der(0x30, b"\x02\x01\x00" + der(0x30, common_name) + spki + b"\xa0\x00")


def der(tag: int, content: bytes) -> bytes:
    """A DER element (X.690, section 8.1)."""
    size = len(content)
    return bytes([tag, size] if size < 0x80 else [tag, 0x81, size]) + content
