"""Fills token and store of the site with keys: `python -m hsmd.cli.bench.scale.fill`.

It makes the objects of each key as the control worker does, and adds all keys, with certificate and grant, to the store in
one transaction. A program of its own, because it loads the token's module.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.algorithms import KeyType
from hsmd.daemon.store import KeyRecord, Store
from hsmd.daemon.worker import key_objects
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.pkcs11.softhsm import softhsm_module
from hsmd.purposes import expand

PURPOSES = expand(["tls13-server"])
_REPORT = 1_000


def main() -> None:
    """Input: {"pin_file", "first", "count", "database", "client", "token_name"}; names run from `first` to `count`."""
    order = json.loads(sys.stdin.readline())
    made = _keys(order)
    store = Store(f"sqlite:///{order['database']}")
    issuer = _Issuer()
    with store.write() as tx:
        for name, ceiling in made:
            tx.keys.add(
                KeyRecord(
                    name=name,
                    key_type=ceiling.half.key_type,
                    digest=ceiling.half.digest,
                    public_key=ceiling.half.spki,
                    purposes=ceiling.purposes,
                    token=order["token_name"],
                    created_at=datetime.now(UTC),
                )
            )
            tx.certificates.set(name, issuer.chain(name, ceiling.half.public_key), issuer.not_after)
            tx.grants.add(order["client"], name, ceiling.purposes)
    store.close()


def open_session(pin_file: str, *, rw: bool) -> Any:
    """A session of the one token in the module's configuration."""
    token = next(iter(pkcs11.lib(str(softhsm_module())).get_tokens()))
    return token.open(rw=rw, user_pin=Path(pin_file).read_text(encoding="utf-8").strip())


def _keys(order: dict[str, Any]) -> list[tuple[str, Ceiling]]:
    made = []
    session = open_session(order["pin_file"], rw=True)
    for number in range(order["first"], order["count"]):
        name = f"key-{number:05d}"
        made.append((name, key_objects.generate(session, name, KeyType.P256, PURPOSES)))
        if (number + 1) % _REPORT == 0:
            print(f"{number + 1:,} keys are in the token", file=sys.stderr, flush=True)
    return made


class _Issuer:
    """A CA in memory."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hsmd bench CA")])
        self._now = datetime.now(UTC).replace(microsecond=0)
        self.not_after = self._now + timedelta(days=30)
        self._own = self._build(self._name, self._key.public_key(), authority=True)

    def chain(self, name: str, public_key: Any) -> str:
        """A certificate for the key and the CA's own, in PEM."""
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name}.test")])
        return self._build(subject, public_key, authority=False) + self._own

    def _build(self, subject: x509.Name, public_key: Any, *, authority: bool) -> str:
        constraints = x509.BasicConstraints(ca=authority, path_length=None)
        builder = x509.CertificateBuilder(
            self._name, subject, public_key, x509.random_serial_number(), self._now, self.not_after
        ).add_extension(constraints, critical=True)
        if not authority:
            name = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(str(name))]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


if __name__ == "__main__":
    main()
