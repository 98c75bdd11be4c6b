"""Templates of key objects: the attributes of private keys, and values that the binding cannot encode."""

from __future__ import annotations

import pytest
from pkcs11 import Attribute

from hsmd.pkcs11 import templates
from hsmd.purposes import Purpose


def test_a_value_that_cannot_be_packed_is_refused_before_the_binding() -> None:
    for template in (
        {Attribute.LABEL: b"bytes"},
        {Attribute.LABEL: "\ud800"},
        {Attribute.ID: "text"},
        {Attribute.MODULUS_BITS: -1},
        {Attribute.ALLOWED_MECHANISMS: [1]},
    ):
        with pytest.raises(ValueError, match="cannot be packed"):
            templates.checked(template)


@pytest.mark.parametrize(
    ("purpose", "private", "public"),
    [
        (Purpose.TLS13_SERVER, Attribute.SIGN, Attribute.VERIFY),
        (Purpose.SIGN_DIGEST, Attribute.SIGN, Attribute.VERIFY),
        (Purpose.STATEMENT, Attribute.SIGN, Attribute.VERIFY),
        (Purpose.TLS12_RSA_PREMASTER, Attribute.DECRYPT, Attribute.ENCRYPT),
        (Purpose.UNWRAP_KEY, Attribute.UNWRAP, Attribute.WRAP),
    ],
)
def test_a_key_signs_decrypts_or_unwraps(purpose: Purpose, private: Attribute, public: Attribute) -> None:
    template = templates.private_key(frozenset({purpose}))
    uses = (Attribute.SIGN, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE, Attribute.SIGN_RECOVER)
    assert [attribute for attribute in uses if template[attribute]] == [private]
    other_half = templates.public_key(frozenset({purpose}))
    uses = (Attribute.VERIFY, Attribute.ENCRYPT, Attribute.WRAP)
    assert [attribute for attribute in uses if other_half[attribute]] == [public]
    for attribute, value in (
        (Attribute.SENSITIVE, True),
        (Attribute.EXTRACTABLE, False),
        (Attribute.MODIFIABLE, False),
        (Attribute.COPYABLE, False),
    ):
        assert template[attribute] is value
