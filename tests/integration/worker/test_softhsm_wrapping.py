"""What the installed SoftHSM does with wrapped and derived keys, beyond what its mechanisms are called.

hsmd relies on some of this and guards against the rest. A test that fails with a newer SoftHSM says which decision to look at
again: docs/adr/0008, docs/adr/0017, `hsmd/pkcs11/wrapping.py`, `hsmd/pkcs11/templates.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from hsmd.pkcs11.softhsm import SoftHsmToken
from tests.support.tokens import in_token

SETUP = """
import hashlib, hmac
from pkcs11 import MGF
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_named_curve_parameters
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hsmd.envelopes.content import without_token_padding

SHA1 = (M.SHA_1, MGF.SHA1, None)
SHA256 = (M.SHA256, MGF.SHA256, None)
KWP, KW = M.AES_KEY_WRAP_PAD, M.AES_KEY_WRAP
NOT_PRIVATE = {A.ENCRYPT: DEFAULT, A.WRAP: DEFAULT, A.VERIFY: DEFAULT}
VALUE = bytes(range(32))

def aes(value=VALUE, **more):
    template = {A.CLASS: C.SECRET_KEY, A.KEY_TYPE: K.AES, A.VALUE: value, A.TOKEN: False, A.PRIVATE: True, A.SENSITIVE: True,
                A.EXTRACTABLE: True, A.WRAP: True, A.UNWRAP: True}
    return session.create_object({**template, **more})

def secret(value, kind=K.GENERIC_SECRET):
    return session.create_object({A.CLASS: C.SECRET_KEY, A.KEY_TYPE: kind, A.VALUE: value, A.TOKEN: False, A.PRIVATE: True,
                                  A.SENSITIVE: False, A.EXTRACTABLE: True, A.SIGN: True})

def pair(kind, **private):
    template = {A.EXTRACTABLE: True, A.SENSITIVE: True, **private}
    if kind == "rsa":
        return session.generate_keypair(K.RSA, 2048, store=False, private_template=template)
    if kind == "ed25519":
        domain = session.create_domain_parameters(K.EC_EDWARDS, {A.EC_PARAMS: b"\\x13\\x0c" + b"edwards25519"}, local=True)
        return domain.generate_keypair(store=False, mechanism=M.EC_EDWARDS_KEY_PAIR_GEN, capabilities=F.SIGN | F.VERIFY,
                                       private_template=template)
    domain = session.create_domain_parameters(K.EC, {A.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
    return domain.generate_keypair(store=False, capabilities=F.SIGN | F.VERIFY | F.DERIVE, private_template=template)

def wrapping_pair(**private):
    return session.generate_keypair(K.RSA, 2048, store=False, capabilities=F.WRAP | F.UNWRAP, private_template=private)

def public_of(key):
    return rsa.RSAPublicNumbers(int.from_bytes(key[A.PUBLIC_EXPONENT], "big"), int.from_bytes(key[A.MODULUS], "big")).public_key()

def oaep(key, data, name=hashes.SHA1, label=None):
    return public_of(key).encrypt(data, padding.OAEP(padding.MGF1(name()), name(), label))

def der(private):
    return private.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

def unwrap_private(key, kind, data, mechanism=KWP, store=False, capabilities=F.SIGN, **template):
    base = {**NOT_PRIVATE, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False}
    return key.unwrap_key(C.PRIVATE_KEY, kind, data, mechanism=mechanism, store=store, capabilities=capabilities,
                          template={**base, **template})

def unwrap_aes(key, data, parameter=SHA1):
    return key.unwrap_key(C.SECRET_KEY, K.AES, data, mechanism=M.RSA_PKCS_OAEP, mechanism_param=parameter, store=False,
                          capabilities=F.UNWRAP | F.WRAP, template={A.SENSITIVE: True, A.EXTRACTABLE: True})

def error_of(call):
    try:
        call()
        return "none"
    except Exception as error:
        return type(error).__name__ if type(error) is not pkcs11.PKCS11Error else str(error)

def objects():
    return len(list(session.get_objects()))
"""


@pytest.fixture
def run(token: SoftHsmToken) -> Any:
    def run_script(script: str) -> Any:
        return in_token(token, SETUP + script)

    return run_script


# --- AES key wrap ---


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_aes_key_wrap_takes_private_keys_filled_with_zeros(run: Any, kind: str) -> None:
    """0x2109 is RFC 3394, which takes whole blocks only; SoftHSM fills the PKCS#8 up first."""
    plain, length, again = run(f"""
key, (public, private) = aes(), pair({kind!r})
wrapped = key.wrap_key(private, mechanism=KW)
plain = keywrap.aes_key_unwrap(VALUE, wrapped)
length = len(without_token_padding(plain))
again = unwrap_private(key, private.key_type, wrapped, KW)
show([len(plain), length, again.sign(b"x" * 32, mechanism=M.ECDSA if {kind!r} == "ec" else M.RSA_PKCS) != b""])
""")
    assert plain == -(-length // 8) * 8
    assert again


def test_key_wrap_with_padding_is_rfc_5649_of_a_key_that_is_already_filled(run: Any) -> None:
    """A P-256 key of 67 bytes comes back as 72, so readers cut the zeros off (docs/envelopes.md)."""
    found = run("""
key, (public, private) = aes(), pair("ec")
plain = keywrap.aes_key_unwrap_with_padding(VALUE, key.wrap_key(private, mechanism=KWP))
show([len(plain), plain[1] + 2, plain[67:].hex()])
""")
    assert found == [72, 67, "00" * 5]


@pytest.mark.parametrize(("size", "returned"), [(16, 16), (20, 24), (32, 32), (33, 40)])
def test_the_length_of_an_odd_symmetric_key_is_lost(run: Any, size: int, returned: int) -> None:
    assert (
        run(f"""
wrapped = aes().wrap_key(secret(b"x" * {size}), mechanism=KWP)
show(len(keywrap.aes_key_unwrap_with_padding(VALUE, wrapped)))
""")
        == returned
    )


@pytest.mark.parametrize("key", ["SECP256R1()", "SECP384R1()", "SECP521R1()", "rsa"])
def test_keys_that_others_wrapped_by_rfc_5649_are_unwrapped(run: Any, key: str) -> None:
    assert (
        run(f"""
private = rsa.generate_private_key(65537, 2048) if {key!r} == "rsa" else ec.generate_private_key(ec.{key.replace("rsa", "SECP256R1()")})
kind = K.RSA if {key!r} == "rsa" else K.EC
made = unwrap_private(aes(), kind, keywrap.aes_key_wrap_with_padding(VALUE, der(private)))
if kind is K.RSA:
    private.public_key().verify(made.sign(b"data", mechanism=M.SHA256_RSA_PKCS), b"data", padding.PKCS1v15(), hashes.SHA256())
else:
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
    raw = made.sign(bytes(32), mechanism=M.ECDSA)
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    private.public_key().verify(signature, bytes(32), ec.ECDSA(Prehashed(hashes.SHA256())))
show(made[A.EXTRACTABLE])
""")
        is False
    )


@pytest.mark.parametrize("content", ["altered", "garbage"])
def test_bytes_that_do_not_unwrap_leave_no_object(run: Any, content: str) -> None:
    """The error is the one of a broken token, so hsmd uses the session once more before it blames the envelope."""
    error, before, after = run(f"""
key = aes()
wrapped = bytearray(keywrap.aes_key_wrap_with_padding(VALUE, der(ec.generate_private_key(ec.SECP256R1()))))
wrapped[9] ^= 1
garbage = keywrap.aes_key_wrap_with_padding(VALUE, b"g" * 64)
before = objects()
show([error_of(lambda: unwrap_private(key, K.EC, bytes(wrapped) if {content!r} == "altered" else garbage)), before, objects()])
""")
    assert error in ("GeneralError", "FunctionFailed")
    assert before == after


def test_the_standard_number_of_rfc_5649_is_unknown(run: Any) -> None:
    """0x210B, CKM_AES_KEY_WRAP_KWP; other tokens have it, so both numbers are tried."""
    assert (
        run("show(error_of(lambda: aes().wrap_key(secret(bytes(16)), mechanism=M.AES_KEY_WRAP_KWP)))")
        == "MechanismInvalid"
    )


# --- RSA ---


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("SHA1", "none"),
        ("SHA256", "ArgumentsBad"),
        ("(M.SHA_1, MGF.SHA256, None)", "ArgumentsBad"),
        ('(M.SHA_1, MGF.SHA1, b"label")', "ArgumentsBad"),
    ],
)
def test_oaep_wraps_secret_keys_with_sha1_and_no_label_only(run: Any, parameter: str, error: str) -> None:
    assert (
        run(f"""
public, private = wrapping_pair()
show(error_of(lambda: public.wrap_key(aes(), mechanism=M.RSA_PKCS_OAEP, mechanism_param={parameter})))
""")
        == error
    )


def test_oaep_of_a_private_key_is_refused(run: Any) -> None:
    found = run("""
public, _ = wrapping_pair()
_, private = pair("ec")
show([error_of(lambda: public.wrap_key(private, mechanism=M.RSA_PKCS_OAEP, mechanism_param=SHA1)),
      error_of(lambda: public.wrap_key(private, mechanism=M.RSA_PKCS))])
""")
    assert found == ["KeyNotWrappable", "KeyNotWrappable"]


def test_oaep_unwraps_as_whatever_class_the_template_names(run: Any) -> None:
    """The class is not checked against the mechanism; hsmd never unwraps OAEP as anything but an AES key."""
    assert (
        run("""
public, private = wrapping_pair()
small = der(ec.generate_private_key(ec.SECP256R1()))
made = private.unwrap_key(C.PRIVATE_KEY, K.EC, oaep(public, small), mechanism=M.RSA_PKCS_OAEP, mechanism_param=SHA1, store=False,
                          capabilities=F.SIGN, template={**NOT_PRIVATE, A.EXTRACTABLE: False})
show(made[A.CLASS].name)
""")
        == "PRIVATE_KEY"
    )


def test_an_aes_key_out_of_oaep_hides_its_length_and_works(run: Any) -> None:
    found = run("""
public, private = wrapping_pair()
key = unwrap_aes(private, oaep(public, VALUE))
tag = keywrap.aes_key_wrap_with_padding(VALUE, b"s" * 32)
made = key.unwrap_key(C.SECRET_KEY, K.GENERIC_SECRET, tag, mechanism=KWP, store=False, capabilities=F.SIGN,
                      template={A.SENSITIVE: True, A.EXTRACTABLE: False})
mac = made.sign(b"m", mechanism=M.SHA256_HMAC)
show([key[A.VALUE_LEN], mac == hmac.digest(b"s" * 32, b"m", "sha256")])
""")
    assert found == [0, True]


@pytest.mark.parametrize("length", [1, 15, 31, 33])
def test_an_aes_key_of_no_length_of_aes_is_unwrapped_and_fails_at_its_first_use(
    run: Any, length: int
) -> None:
    """So the tag is the first use, and its failure means a bad envelope."""
    made, use = run(f"""
public, private = wrapping_pair()
keys = []
made = error_of(lambda: keys.append(unwrap_aes(private, oaep(public, b"k" * {length}))))
use = error_of(lambda: keys[0].wrap_key(secret(bytes(16)), mechanism=KWP)) if keys else "not made"
show([made, use])
""")
    assert made == "none"
    assert use != "none"


def test_rsa_aes_key_wrap_is_absent(run: Any) -> None:
    """CKM_RSA_AES_KEY_WRAP comes with 2.7.0; until then hsmd composes it."""
    assert run("show(0x1054 in [int(each) for each in session.token.slot.get_mechanisms()])") is False


# --- other ways to wrap ---


def test_aes_cbc_wraps_but_does_not_unwrap(run: Any) -> None:
    found = run("""
key = aes()
wrapped = []
wrap = error_of(lambda: wrapped.append(key.wrap_key(secret(bytes(32)), mechanism=M.AES_CBC, mechanism_param=bytes(16))))
unwrap = error_of(lambda: key.unwrap_key(C.SECRET_KEY, K.GENERIC_SECRET, bytes(32), mechanism=M.AES_CBC, mechanism_param=bytes(16),
                                         store=False, capabilities=F.SIGN))
padded = error_of(lambda: key.wrap_key(secret(bytes(32)), mechanism=M.AES_CBC_PAD, mechanism_param=bytes(16)))
show([wrap, unwrap, padded])
""")
    assert found[1:] == ["MechanismInvalid", "MechanismInvalid"]
    assert found[0] == "none"


def test_aes_gcm_does_not_wrap(run: Any) -> None:
    assert (
        run("""
from pkcs11 import GCMParams
show(error_of(lambda: aes().wrap_key(secret(bytes(32)), mechanism=M.AES_GCM, mechanism_param=GCMParams(bytes(12), None, 128))))
""")
        == "MechanismInvalid"
    )


def test_ed25519_keys_are_neither_wrapped_nor_unwrapped(run: Any) -> None:
    wrap, unwrap = run("""
key, (public, private) = aes(), pair("ed25519")
data = keywrap.aes_key_wrap_with_padding(VALUE, der(ed25519.Ed25519PrivateKey.generate()))
show([error_of(lambda: key.wrap_key(private, mechanism=KWP)), error_of(lambda: unwrap_private(key, K.EC_EDWARDS, data))])
""")
    assert wrap == "KeyNotWrappable"
    assert unwrap == "FunctionFailed"


# --- derivation ---


def test_ecdh_derives_without_a_kdf_only(run: Any) -> None:
    plain, hashed, shared = run("""
from pkcs11 import KDF
public, private = pair("ec")
mine = ec.generate_private_key(ec.SECP256R1())
point = mine.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
def derive(kdf, data=None):
    return private.derive_key(K.GENERIC_SECRET, 256, mechanism=M.ECDH1_DERIVE, mechanism_param=(kdf, data, point), store=False,
                              capabilities=F.SIGN, template={A.SENSITIVE: False, A.EXTRACTABLE: True})
show([error_of(lambda: derive(KDF.NULL)), error_of(lambda: derive(KDF.SHA256)), error_of(lambda: derive(KDF.NULL, b"x"))])
""")
    assert (plain, hashed, shared) == ("none", "MechanismParamInvalid", "MechanismParamInvalid")


def test_there_is_no_kdf_in_the_token(run: Any) -> None:
    """HKDF, PBKDF2 and ECDSA with a hash: hsmd hashes outside and needs no derivation of keys."""
    names = run(
        "show(sorted(each.name for each in session.token.slot.get_mechanisms() if hasattr(each, 'name')))"
    )
    assert not {"HKDF_DERIVE", "HKDF_DATA", "PKCS5_PBKD2", "ECDSA_SHA256"} & set(names)
    assert "ECDSA" in names


# --- attributes ---


def test_an_unwrapped_key_does_not_look_like_one_generated_here(run: Any) -> None:
    found = run("""
made = unwrap_private(aes(), K.EC, keywrap.aes_key_wrap_with_padding(VALUE, der(ec.generate_private_key(ec.SECP256R1()))))
show([made[each] for each in (A.EXTRACTABLE, A.LOCAL, A.ALWAYS_SENSITIVE, A.NEVER_EXTRACTABLE)])
""")
    assert found == [False, False, False, False]


def test_extractable_can_be_taken_away_and_not_given(run: Any) -> None:
    found = run("""
_, private = pair("ec")
def set_to(value):
    private[A.EXTRACTABLE] = value
show([error_of(lambda: set_to(False)), error_of(lambda: set_to(True)), private[A.EXTRACTABLE]])
""")
    assert found[0] == "none"
    assert found[1] != "none"
    assert found[2] is False


def test_an_unmodifiable_extractable_key_stays_extractable(run: Any) -> None:
    """So a key cannot be deposited and then be locked; it has to come out of its own deposit (docs/adr/0017)."""
    assert (
        run("""
locked = session.generate_keypair(K.RSA, 2048, store=False, private_template={A.EXTRACTABLE: True, A.MODIFIABLE: False})[1]
def lock():
    locked[A.EXTRACTABLE] = False
show(error_of(lock))
""")
        == "Unmapped error code 0x1b"
    )


def test_a_modifiable_key_cannot_be_locked_later(run: Any) -> None:
    assert (
        run("""
_, private = pair("ec")
def lock():
    private[A.MODIFIABLE] = False
show(error_of(lock))
""")
        != "none"
    )


@pytest.mark.parametrize(
    ("order", "error"),
    [("COPYABLE, A.MODIFIABLE", "none"), ("MODIFIABLE, A.COPYABLE", "AttributeReadOnly")],
)
def test_copyable_comes_before_modifiable_in_a_template(run: Any, order: str, error: str) -> None:
    assert (
        run(f"""
data = keywrap.aes_key_wrap_with_padding(VALUE, der(ec.generate_private_key(ec.SECP256R1())))
last = dict.fromkeys((A.{order}), False)
base = {{**NOT_PRIVATE, A.PRIVATE: True, A.SENSITIVE: True, A.EXTRACTABLE: False}}
show(error_of(lambda: aes().unwrap_key(C.PRIVATE_KEY, K.EC, data, mechanism=KWP, store=False, capabilities=F.SIGN,
                                       template={{**base, **last}})))
""")
        == error
    )


def test_attributes_of_other_classes_are_refused_when_a_private_key_is_unwrapped(run: Any) -> None:
    """python-pkcs11 sends ENCRYPT, WRAP and VERIFY for every class; its DEFAULT removes them, None does not."""
    found = run("""
data = keywrap.aes_key_wrap_with_padding(VALUE, der(ec.generate_private_key(ec.SECP256R1())))
def unwrap(template):
    aes().unwrap_key(C.PRIVATE_KEY, K.EC, data, mechanism=KWP, store=False, capabilities=F.SIGN, template=template)
show([error_of(lambda: unwrap({})), error_of(lambda: unwrap(NOT_PRIVATE))])
""")
    assert found == ["AttributeTypeInvalid", "none"]


def test_the_private_object_of_an_ec_key_does_not_show_the_point(run: Any) -> None:
    """So the public half is stored in the ceiling, and envelopes name its digest."""
    assert run("show(error_of(lambda: pair('ec')[1][A.EC_POINT]))") != "none"


# --- what the holder of the PIN can do ---


def test_who_has_the_pin_takes_an_extractable_key_out(run: Any) -> None:
    """SENSITIVE does not help against an AES key that the user knows. So keys that are served are never extractable."""
    assert (
        run("""
_, private = pair("ec")
plain = keywrap.aes_key_unwrap_with_padding(VALUE, aes().wrap_key(private, mechanism=KWP))
show(b"\\x06\\x08\\x2a\\x86\\x48\\xce\\x3d\\x03\\x01\\x07" in plain)
""")
        is True
    )


def test_wrap_with_trusted_is_enforced_and_no_user_can_set_trusted(run: Any) -> None:
    wrap, trust = run("""
guarded = session.generate_keypair(K.RSA, 2048, store=False,
                                   private_template={A.EXTRACTABLE: True, A.WRAP_WITH_TRUSTED: True})[1]
show([error_of(lambda: aes().wrap_key(guarded, mechanism=KWP)), error_of(lambda:
      session.generate_key(K.AES, 256, store=False, capabilities=F.WRAP, template={A.TRUSTED: True}))])
""")
    assert wrap == "KeyNotWrappable"
    assert trust != "none"


def test_session_objects_are_invisible_to_others_and_end_with_the_session(
    run: Any, token: SoftHsmToken
) -> None:
    found = run(
        """
template = {A.CLASS: C.SECRET_KEY, A.KEY_TYPE: K.AES, A.VALUE: VALUE, A.TOKEN: False, A.LABEL: "temporary"}
session.create_object(template)
own = len(list(session.get_objects({A.LABEL: "temporary"})))
token_ = session.token
session.close()
again = token_.open(rw=True, user_pin=Path(PIN_FILE).read_text().strip())
show([own, len(list(again.get_objects({A.LABEL: "temporary"})))])
""".replace("PIN_FILE", repr(str(token.pin_file)))
    )
    assert found == [1, 0]
