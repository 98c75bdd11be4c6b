"""Keys that enter and leave a token wrapped: the envelopes of `hsmd.envelopes.rsa_aes_kwp`, made and opened in the token.

What a token can do is tried (`probe`) and never concluded from the names of its mechanisms: SoftHSM 2.6.1 has OAEP with SHA-1
alone, and does RFC 5649 under the number of CKM_AES_KEY_WRAP_PAD. The AES key of an envelope exists in the token only, as a
session object, which the token destroys at the latest when the session or the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pkcs11
from pkcs11 import MGF, Attribute, KeyType as KeyKind, Mechanism, MechanismFlag, ObjectClass

from hsmd.envelopes import recipients, rsa_aes_kwp
from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.rsa_aes_kwp import AES_KEY_BYTES, MAC_MESSAGE, Parts
from hsmd.errors import BadRequest, EnvelopeInvalid
from hsmd.pkcs11 import templates
from hsmd.pkcs11.attributes import flag
from hsmd.pkcs11.errors import Fault, classify
from hsmd.pkcs11.mechanisms import KIND_OF_FAMILY
from hsmd.pkcs11.public_keys import PublicHalf

OAEP = {
    Suite.RSA_OAEP_SHA1_KWP: (Mechanism.SHA_1, MGF.SHA1, None),
    Suite.RSA_OAEP_SHA256_KWP: (Mechanism.SHA256, MGF.SHA256, None),
}
"""Parameters of CKM_RSA_PKCS_OAEP: the hash, the same in MGF1, no label."""
_REFUSED_CONTENT = (
    pkcs11.WrappedKeyInvalid,
    pkcs11.WrappedKeyLenRange,
    pkcs11.TemplateInconsistent,
    pkcs11.TemplateIncomplete,
    pkcs11.AttributeValueInvalid,
)
"""What tokens answer to wrapped bytes that are not what the template says, besides the errors of any operation."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a token was found to do with wrapped keys."""

    suites: frozenset[Suite] = frozenset()
    kwp: Mechanism | None = None
    abilities: tuple[str, ...] = ()
    """In words, for operators: `rsa-oaep-HASH`, `aes-kwp-NUMBER`, `aes-key-wrap`."""

    def need(self, suite: Suite) -> Mechanism:
        """The mechanism of AES-KWP. Raises BadRequest if the token does not have the suite."""
        if self.kwp is None or suite not in self.suites:
            can = ", ".join(sorted(self.suites)) or "no suite"
            raise BadRequest(f"suite: the token does not have {suite}; it was tried and has {can}")
        return self.kwp


@contextmanager
def temporary(made: Any) -> Iterator[Any]:
    """Destroy an object at the end of the block, whatever happens in it."""
    try:
        yield made
    finally:
        with suppress(pkcs11.PKCS11Error):  # the session is lost, and the object with it
            made.destroy()


# --- opening ---


@contextmanager
def content_key(
    session: Any, unwrapping_key: Any, suite: Suite, parts: Parts, wrapping: Wrapping
) -> Iterator[Any]:
    """The AES key of an envelope, which only unwraps, once the envelope's tag has proven header and parts.

    Raises EnvelopeInvalid, alike for everything that can be wrong with the envelope, BadRequest, PKCS11Error.
    """
    kwp = wrapping.need(suite)
    with content_refused(session):
        aes_key = unwrap_aes(unwrapping_key, suite, parts.oaep)
    with temporary(aes_key):
        with content_refused(session):
            mac = mac_of_tag(aes_key, kwp, parts.tag)
        parts.check_mac(mac)
        yield aes_key


def unwrap_private_key(
    session: Any,
    aes_key: Any,
    kwp: Mechanism,
    wrapped: bytes,
    half: PublicHalf,
    template: templates.Template,
    *,
    name: str = "",
    cka_id: bytes = b"",
    store: bool = False,
) -> Any:
    """A private key object of the type of `half`, checked for class and attributes; the caller has to prove the pair.

    Raises EnvelopeInvalid if the token refuses the content, or makes something else of it than the template says.
    """
    with content_refused(session):
        private = aes_key.unwrap_key(
            ObjectClass.PRIVATE_KEY,
            KIND_OF_FAMILY[half.key_type.facts.family],
            wrapped,
            id=cka_id,
            label=name,
            mechanism=kwp,
            store=store,
            capabilities=0,
            template=template,
        )
    try:
        _check_object(private, half, template, store=store)
    except BaseException:
        with suppress(pkcs11.PKCS11Error):
            private.destroy()
        raise
    return private


def _check_object(private: Any, half: PublicHalf, template: templates.Template, *, store: bool) -> None:
    expected = {name: value for name, value in template.items() if isinstance(value, bool)}
    expected[Attribute.TOKEN] = store
    if (
        private[Attribute.CLASS] is not ObjectClass.PRIVATE_KEY
        or private[Attribute.KEY_TYPE] is not KIND_OF_FAMILY[half.key_type.facts.family]
        or any(flag(private, name) not in (value, None) for name, value in expected.items())
        or flag(private, Attribute.SENSITIVE) is not True
        or flag(private, Attribute.EXTRACTABLE) is not expected[Attribute.EXTRACTABLE]
    ):
        raise EnvelopeInvalid


def unwrap_aes(
    unwrapping_key: Any, suite: Suite, oaep: bytes, *, extractable: bool = False, sensitive: bool = True
) -> Any:
    """The AES key in the OAEP part, as a session object that only unwraps. Raises PKCS11Error.

    It can be read if it is extractable and not sensitive.
    """
    # Without CKA_VALUE_LEN: SoftHSM shows 0 and takes what is there, also 16 or 24 bytes (docs/envelopes.md, section 3). A key
    # that AES does not have fails at its first use.
    return unwrapping_key.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyKind.AES,
        oaep,
        mechanism=Mechanism.RSA_PKCS_OAEP,
        mechanism_param=OAEP[suite],
        store=False,
        capabilities=MechanismFlag.UNWRAP,
        template=templates.temporary_secret(extractable=extractable, sensitive=sensitive),
    )


def mac_of_tag(aes_key: Any, kwp: Mechanism, tag: bytes) -> bytes:
    """The HMAC of MAC_MESSAGE with the secret in a tag, which stays in the token. Raises PKCS11Error."""
    secret = aes_key.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyKind.GENERIC_SECRET,
        tag,
        mechanism=kwp,
        store=False,
        capabilities=MechanismFlag.SIGN,
        template=templates.temporary_secret(extractable=False),
    )
    with temporary(secret):
        mac: bytes = secret.sign(MAC_MESSAGE, mechanism=Mechanism.SHA256_HMAC)
        return mac


@contextmanager
def content_refused(session: Any) -> Iterator[None]:
    """Turn the errors that an altered envelope causes into EnvelopeInvalid; others show that the session is unusable.

    SoftHSM answers CKR_GENERAL_ERROR or CKR_FUNCTION_FAILED to wrong bytes, as it does when it is broken.
    """
    try:
        yield
    except pkcs11.PKCS11Error as error:
        if not isinstance(error, _REFUSED_CONTENT) and classify(error) not in (
            Fault.OPERATION,
            Fault.UNCLEAR,
        ):
            raise
        session.generate_random(64)
        raise EnvelopeInvalid from None


# --- sealing ---


def seal_private_key(
    session: Any,
    private: Any,
    half: PublicHalf,
    recipient: PublicHalf,
    suite: Suite,
    about: Mapping[str, Value],
    wrapping: Wrapping,
    prove: Callable[[Any, PublicHalf], None],
) -> Envelope:
    """An envelope with an extractable private key of this token, made in the token.

    What the AES key wraps is unwrapped again and given to `prove`, which raises if it is not the key of `half`. That the
    recipient can open the OAEP part cannot be tried here, unless its private key is in this token.
    Raises BadRequest, EnvelopeInvalid, PKCS11Error.
    """
    kwp = wrapping.need(suite)
    header = Header(suite, Kind.PRIVATE_KEY, recipients.digest(recipient.public_key), half.digest, about)
    header.encode()
    rsa_aes_kwp.check_key(suite, recipient.public_key)
    with temporary(_generate_aes(session)) as aes_key:
        with temporary(session.create_object(templates.wrapping_public_key(recipient))) as public:
            oaep: bytes = public.wrap_key(
                aes_key, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[suite]
            )
        wrapped: bytes = aes_key.wrap_key(private, mechanism=kwp)
        copy = unwrap_private_key(session, aes_key, kwp, wrapped, half, templates.checking_copy())
        with temporary(copy):
            prove(copy, half)
        digest = rsa_aes_kwp.tag_content(header, oaep, wrapped)
        with temporary(session.create_object(templates.wrappable_secret(digest))) as secret:
            tag: bytes = aes_key.wrap_key(secret, mechanism=kwp)
    envelope = rsa_aes_kwp.join(header, oaep, wrapped, tag)
    rsa_aes_kwp.split(envelope, recipient.public_key)  # the lengths are those of its suite
    return envelope


def _generate_aes(session: Any) -> Any:
    return session.generate_key(
        KeyKind.AES,
        AES_KEY_BYTES * 8,
        store=False,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        template=templates.temporary_secret(extractable=True),
    )
