"""How the end of a certificate, and the front ends that serve a key, are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hsmd.cli.base.key_details import time_left
from hsmd.protocol.messages import KeyInfo

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("left", "state", "shown"),
    [
        (None, "", ""),
        (59.9 * DAY, "valid", "59 d"),
        (13 * DAY, "ending", "13 d, ENDS SOON"),
        (47 / 24 * DAY, "valid", "47 h"),
        (timedelta(minutes=5), "ending", "0 h, ENDS SOON"),
        (-3.5 * DAY, "ended", "ENDED 3 d ago"),
        (-DAY, "", "ENDED 24 h ago"),
        (90 * DAY, "not-yet-valid", "NOT VALID YET"),
        (90 * DAY, "", "90 d"),
    ],
)
def test_the_time_that_a_certificate_has_left(left: timedelta | None, state: str, shown: str) -> None:
    """Daemons of earlier releases tell no state."""
    end = None if left is None else NOW + left
    info = KeyInfo("www", "p-256", "0" * 64, b"", [], "main", NOW, end, certificate_state=state)
    assert time_left(info, NOW) == shown
