"""The public halves that a token shows, in public key objects and certificates, and which of them may be a private key's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pkcs11 import Attribute, ObjectClass

from hsmd.algorithms import Family
from hsmd.daemon.worker.key_pairs import MAX_SHARING
from hsmd.pkcs11.attributes import read
from hsmd.pkcs11.public_keys import Fit, PublicHalf, fit, read_public_half
from hsmd.pkcs11.templates import Template, checked

_CLASSES = (ObjectClass.PUBLIC_KEY, ObjectClass.CERTIFICATE)
MAX_TRIED = 1_000
"""Public halves of a whole token that one private key is tried with."""


class PublicHalves:
    """The public halves of one search of the token, by what may lead from a private key to them."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self._by_id: dict[bytes, list[PublicHalf]] = defaultdict(list)
        self._by_label: dict[str, list[PublicHalf]] = defaultdict(list)
        self._by_modulus: dict[int, list[PublicHalf]] = defaultdict(list)
        self._all: dict[bytes, PublicHalf] = {}
        for found in objects:
            self._add(found)

    @staticmethod
    def of(session: Any, cka_id: bytes | None = None) -> PublicHalves:
        """Those of the token, or of its objects with this CKA_ID. Raises PKCS11Error."""
        only: Template = {} if cka_id is None else {Attribute.ID: cka_id}
        return PublicHalves(
            found
            for wanted in _CLASSES
            for found in list(
                session.get_objects(checked({Attribute.CLASS: wanted, Attribute.TOKEN: True, **only}))
            )
        )

    def near(self, private: Any) -> list[PublicHalf]:
        """Those that are most likely the private key's: shown by itself, or of objects with its modulus, CKA_ID or label.

        A label counts if no public half that fits has the CKA_ID.
        """
        own = read_public_half(private)
        found = [] if own is None else [own]
        if modulus := int.from_bytes(read(private, Attribute.MODULUS) or b"", "big"):
            found += self._by_modulus.get(modulus, [])
        else:
            label = read(private, Attribute.LABEL) or ""
            same_id = _fitting(private, self._by_id.get(read(private, Attribute.ID) or b"", []))
            same_label = _fitting(private, self._by_label.get(label, [])) if label else []
            both = {half.digest for half in same_id} & {half.digest for half in same_label}
            found += sorted(same_id, key=lambda half: half.digest not in both) or same_label
        return list({half.digest: half for half in found}.values())[:MAX_SHARING]

    def all_for(self, private: Any) -> list[PublicHalf]:
        """Those that can be the private key's, whatever their names."""
        return _fitting(private, list(self._all.values()))[:MAX_TRIED]

    def _add(self, found: Any) -> None:
        half = read_public_half(found)
        if half is None:
            return
        half = self._all.setdefault(half.digest, half)
        self._by_id[read(found, Attribute.ID) or b""].append(half)
        self._by_label[read(found, Attribute.LABEL) or ""].append(half)
        if half.key_type.facts.family is Family.RSA:
            self._by_modulus[half.public_key.public_numbers().n].append(half)


def _fitting(private: Any, halves: list[PublicHalf]) -> list[PublicHalf]:
    return [half for half in halves if fit(private, half) is not Fit.NO]
