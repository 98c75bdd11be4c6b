"""Conditions that must hold after an outage."""

from __future__ import annotations

from tests.support.polling import wait_until
from tests.support.site import Site
from tests.support.tls_load import Sample

BACK_S = 2.0


def every_signature_is_in_the_log(site: Site, since: int, samples: list[Sample]) -> None:
    """Check that each signature that clients accepted has an attempt with the outcome performed, and that no attempt is open."""
    wait_until(lambda: all(use.result for use in site.daemon.uses(since)), "every attempt has an outcome", 10)
    performed = {(use.asked, use.answer) for use in site.daemon.uses(since) if use.result == "performed"}
    accepted = [sample.proof for sample in samples if not sample.error and sample.proof is not None]
    assert len(accepted) > 50
    assert {(proof.asked, proof.answer) for proof in accepted} <= performed
