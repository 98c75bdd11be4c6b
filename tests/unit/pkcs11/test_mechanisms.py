"""Mechanisms that keys need in a token."""

from __future__ import annotations

from hsmd.algorithms import KeyType
from hsmd.pkcs11 import mechanisms
from hsmd.purposes import Purpose


def test_needed_mechanisms_are_among_those_in_use() -> None:
    for kind in KeyType:
        for purpose in Purpose:
            assert mechanisms.needed(kind, frozenset({purpose})) <= mechanisms.USED
