"""The steps of a rollover that change a node's trust: the next anchor beside the old one, and the old one dropped. Pure.

docs/rollover.md, tasks A and R. The update that brought the new anchor is kept until the old one is dropped.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from hsmd.anchors.acceptance import accept, is_issued_by
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate
from hsmd.errors import Conflict
from hsmd.node.documents import Kept, check_anchored


def with_next_anchor(kept: Kept, update: bytes, now: datetime, approved: bytes = b"") -> Kept:
    """Take the anchor that an update (RootCaKeyUpdateContent, DER) brings, beside those that are held.

    `approved` as for `accept`. Raises UpdateRefused and CertificatesInvalid; Conflict if another one was taken and the old one
    not dropped yet: never are more than two generations trusted.
    """
    if kept.update and kept.update != update:
        raise Conflict(
            "another new anchor was taken, and the old one is still there: hsmd node anchor retire"
        )
    if kept.update:
        return kept
    new = accept(kept.anchors, RootUpdate.decode(update), now, approved)
    return replace(kept, anchors=(*kept.anchors, new), update=update)


def without_old_anchor(kept: Kept) -> Kept:
    """Drop the anchor that issued the link, and the update. The new one verifies once more under the key from the link; its
    certificate may have been renewed since it was taken.

    Raises Conflict if no new anchor was taken, or this node's certificate does not lead to it yet: counterparts that have
    dropped the old one would refuse it.
    """
    if not kept.update:
        raise Conflict("no new anchor was taken; the first step is: hsmd node anchor add FILE")
    link = RootUpdate.decode(kept.update).new_with_old
    new = None if link is None else next((each for each in kept.anchors if is_issued_by(each, link)), None)
    if link is None or new is None:
        raise UpdateRefused(
            "the new anchor is not the one that the link certifies; set the node up again: hsmd node init --again"
        )
    kept_on = tuple(each for each in kept.anchors if not is_issued_by(link, each))
    if kept.chain:
        try:
            check_anchored(kept.chain, (new,))
        except CertificatesInvalid as error:
            raise Conflict(
                "the certificate of this node is one of the old anchor; renew it from the new authority first"
            ) from error
    return replace(kept, anchors=kept_on, update=b"")
