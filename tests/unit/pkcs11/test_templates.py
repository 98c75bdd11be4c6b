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


def test_a_key_signs_or_decrypts() -> None:
    for purposes in ({Purpose.TLS13_SERVER}, {Purpose.SIGN_DIGEST}, {Purpose.TLS12_RSA_PREMASTER}):
        template = templates.private_key(frozenset(purposes))
        assert template[Attribute.SIGN] is not template[Attribute.DECRYPT]
        for attribute, value in (
            (Attribute.SENSITIVE, True),
            (Attribute.EXTRACTABLE, False),
            (Attribute.MODIFIABLE, False),
            (Attribute.COPYABLE, False),
        ):
            assert template[attribute] is value
