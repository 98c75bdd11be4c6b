"""Templates: the attributes of every object that hsmd creates, and the attributes that make a key unsafe to adopt.

Each template is packed here once before python-pkcs11 gets it, because a value that cannot be packed corrupts its memory.
"""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute, KeyType as KeyKind, MechanismFlag, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.constants import DEFAULT

from hsmd.pkcs11.attributes import flag
from hsmd.pkcs11.public_keys import PublicHalf, public_attributes
from hsmd.purposes import KeyUse, Purpose, use_of

Template = dict[Attribute, Any]

_mapper = AttributeMapper()

_PROTECTED: Template = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.MODIFIABLE: False,
    Attribute.COPYABLE: False,
    Attribute.DERIVE: False,
    Attribute.SIGN_RECOVER: False,
}


PRIVATE_USES = {
    KeyUse.SIGN: Attribute.SIGN,
    KeyUse.DECRYPT: Attribute.DECRYPT,
    KeyUse.UNWRAP: Attribute.UNWRAP,
}
"""The attribute by which a token lets a private key be used."""
_NOT_OF_PRIVATE_KEYS: Template = {
    Attribute.ENCRYPT: DEFAULT,
    Attribute.WRAP: DEFAULT,
    Attribute.VERIFY: DEFAULT,
}
_PUBLIC_USES = {
    KeyUse.SIGN: Attribute.VERIFY,
    KeyUse.DECRYPT: Attribute.ENCRYPT,
    KeyUse.UNWRAP: Attribute.WRAP,
}
_CAPABILITIES = {
    KeyUse.SIGN: MechanismFlag.SIGN | MechanismFlag.VERIFY,
    KeyUse.DECRYPT: MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT,
    KeyUse.UNWRAP: MechanismFlag.UNWRAP | MechanismFlag.WRAP,
}


def checked(template: Template) -> Template:
    """The template itself. Raises ValueError if one of its values cannot be packed."""
    for attribute, value in template.items():
        try:
            _mapper.pack_attribute(attribute, value)
        except Exception as error:
            raise ValueError(f"{attribute.name} cannot be packed: {type(error).__name__}") from None
    return template


def capabilities(purposes: frozenset[Purpose]) -> MechanismFlag:
    """The capabilities of a generated pair, for python-pkcs11: those of the one use of its key."""
    return _CAPABILITIES[use_of(purposes)]


def private_key(purposes: frozenset[Purpose]) -> Template:
    """Safe attributes of a private key: it cannot leave the token, has one use, and cannot be changed."""
    used = use_of(purposes)
    return checked({**_PROTECTED, **{attribute: use is used for use, attribute in PRIVATE_USES.items()}})


def public_key(purposes: frozenset[Purpose]) -> Template:
    """Attributes of the public key of a pair: it does the opposite of the private key, and nothing else."""
    used = use_of(purposes)
    flags = {attribute: use is used for use, attribute in _PUBLIC_USES.items()}
    return checked({Attribute.MODIFIABLE: False, Attribute.PRIVATE: False, **flags})


def unwrapped_private_key(purposes: frozenset[Purpose]) -> Template:
    """Attributes of a private key that comes out of an envelope to stay: those of `private_key`.

    python-pkcs11 adds ENCRYPT, WRAP and VERIFY to the template of anything that is unwrapped, which SoftHSM refuses for private
    keys; DEFAULT removes them. The order matters: SoftHSM refuses COPYABLE once MODIFIABLE is false.
    """
    protected = dict(private_key(purposes))
    last = {name: protected.pop(name) for name in (Attribute.COPYABLE, Attribute.MODIFIABLE)}
    return {**_NOT_OF_PRIVATE_KEYS, **protected, **last}


def extractable_private_key() -> Template:
    """Attributes of a private key that exists for one deposit: sensitive, and extractable. It signs, to be proven."""
    return checked(
        {**_PROTECTED, Attribute.EXTRACTABLE: True, Attribute.UNWRAP: False, Attribute.DECRYPT: False}
    )


def checking_copy() -> Template:
    """Attributes of a private key that is unwrapped to see whether it is the right one, and destroyed."""
    return unwrapped_private_key(frozenset({Purpose.SIGN_MESSAGE}))


def own_private_key(use: Attribute) -> Template:
    """Attributes of a private key in a token of an owner's: it cannot leave the token or be changed, and does one thing."""
    uses = (*PRIVATE_USES.values(), Attribute.DERIVE)
    return checked({**_PROTECTED, **{attribute: attribute is use for attribute in uses}})


def own_public_key(use: Attribute | None) -> Template:
    """Attributes of its public half, which does the opposite, or nothing."""
    uses = {attribute: attribute is use for attribute in _PUBLIC_USES.values()}
    return checked({Attribute.MODIFIABLE: False, Attribute.PRIVATE: False, **uses})


def probing_private_key() -> Template:
    """Attributes of a session's private key that unwraps and does nothing else."""
    return checked(
        {
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: False,
            Attribute.DECRYPT: False,
        }
    )


def temporary_secret(*, extractable: bool, sensitive: bool = True) -> Template:
    """Attributes of a session's secret key, whose uses are given as capabilities."""
    return checked(
        {Attribute.PRIVATE: True, Attribute.SENSITIVE: sensitive, Attribute.EXTRACTABLE: extractable}
    )


def readable_secret() -> Template:
    """Attributes of a session's secret key whose value this process reads."""
    return temporary_secret(extractable=True, sensitive=False)


def wrappable_secret(value: bytes) -> Template:
    """A session's generic secret of a known value, which can do nothing but be wrapped."""
    return checked(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyKind.GENERIC_SECRET,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: True,
            Attribute.VALUE: value,
        }
    )


def wrapping_public_key(half: PublicHalf) -> Template:
    """A session's public key that only wraps."""
    return checked(
        {
            Attribute.CLASS: ObjectClass.PUBLIC_KEY,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: False,
            Attribute.WRAP: True,
            Attribute.ENCRYPT: False,
            Attribute.VERIFY: False,
            **public_attributes(half),
        }
    )


def named(object_class: ObjectClass, cka_id: bytes, label: str) -> Template:
    """The attributes by which a stored object is found."""
    return checked(
        {Attribute.CLASS: object_class, Attribute.TOKEN: True, Attribute.ID: cka_id, Attribute.LABEL: label}
    )


_UNSAFE: tuple[tuple[Attribute, bool, str], ...] = (
    (Attribute.EXTRACTABLE, True, "extractable"),
    (Attribute.SENSITIVE, False, "not sensitive"),
    (Attribute.PRIVATE, False, "visible without login"),
    (Attribute.MODIFIABLE, True, "modifiable"),
    (Attribute.DERIVE, True, "may derive"),
    (Attribute.ALWAYS_AUTHENTICATE, True, "requires the PIN for each use"),
)


def unsafe_attributes(key: Any) -> list[str]:
    """Descriptions of an existing private key's unsafe attributes; empty if it is safe.

    A key that may unwrap is safe only if it may neither sign nor decrypt.
    """
    found = [words for attribute, bad, words in _UNSAFE if flag(key, attribute) is bad]
    signs, decrypts = may(key, Attribute.SIGN), may(key, Attribute.DECRYPT)
    if may(key, Attribute.UNWRAP) and (signs or decrypts):
        found.append("may unwrap")
    if signs and decrypts:
        found.append("may sign and decrypt")
    return found


def other_uses(key: Any, use: KeyUse) -> list[str]:
    """What an existing private key may be used for besides `use`, in words; empty if for nothing else."""
    attributes = {other.value: attribute for other, attribute in PRIVATE_USES.items() if other is not use}
    attributes |= {"sign with recovery": Attribute.SIGN_RECOVER, "derive": Attribute.DERIVE}
    return [words for words, attribute in attributes.items() if may(key, attribute)]


def may(key: Any, attribute: Attribute) -> bool:
    """Whether a boolean attribute exists and is true."""
    return flag(key, attribute) is True
