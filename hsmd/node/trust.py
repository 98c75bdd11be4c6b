"""Which trust anchors a node holds after an answer of the daemon. Pure.

Anchors of another key come by a rollover only, with a link that is verified (`hsmd.anchors.acceptance`). What the daemon says at
any other time can renew the certificate of a key that is trusted already, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from hsmd.anchors.acceptance import check_anchors, is_issued_by
from hsmd.anchors.problems import UpdateRefused

Certificates = tuple[x509.Certificate, ...]


def refreshed(held: Certificates, offered: Sequence[x509.Certificate]) -> Certificates:
    """The anchors to hold: at first those that are offered; afterwards those that are held, with their certificates renewed.

    A certificate is renewed by one of the same key and name that ends later; one of each key is held. Raises UpdateRefused if an
    anchor of a key that is not trusted is offered, CertificatesInvalid if it is none.
    """
    check_anchors(offered, "the anchors that the daemon offers")
    renewed = list(held)
    for certificate in offered:
        at = next((at for at, old in enumerate(renewed) if _is_same(old, certificate)), None)
        if at is None and not held:
            renewed.append(certificate)
            continue
        if at is None:
            raise UpdateRefused(
                f"the daemon offers a trust anchor of a key that this node does not trust: {_name(certificate)}; anchors change"
                " by a rollover only, or after a reason that you know: hsmd node init --again"
            )
        if certificate.not_valid_after_utc > renewed[at].not_valid_after_utc:
            renewed[at] = certificate
    return tuple(renewed)


def _is_same(old: x509.Certificate, new: x509.Certificate) -> bool:
    """Whether both have one name and one key."""
    return old == new or (old.subject == new.subject and is_issued_by(new, old))


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:80]
