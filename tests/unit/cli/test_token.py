"""What `hsmd token` shows about a token with problems."""

from __future__ import annotations

from datetime import UTC, datetime

from hsmd.cli.token import _facts
from hsmd.protocol.messages import TokenInfo


def test_a_stopped_token_shows_its_cause_and_the_next_step() -> None:
    at = datetime(2026, 3, 4, tzinfo=UTC)
    info = TokenInfo(
        "main",
        "login-refused",
        "closed",
        "wrong",
        at,
        "a on host",
        "the token refused the PIN",
        ["www"],
        ["ab" * 32],
    )
    facts = dict(_facts(info))
    assert "a on host: the token refused the PIN" in facts["logins"]
    assert facts["next step"] == "correct the PIN, then: hsmd token clear main"
    assert "www" in facts["missing"]
    assert "ab" * 32 in facts["unknown"]


def test_a_healthy_token_shows_only_its_state() -> None:
    facts = dict(_facts(TokenInfo("main", "ready", "closed", "")))
    assert facts == {"token": "main", "state": "ready", "breaker": "closed", "logins": "allowed"}


def test_what_was_tried_with_wrapped_keys_is_shown() -> None:
    info = TokenInfo("main", "ready", "closed", "", wrapping=["rsa-oaep-sha1", "aes-kwp-0x210a"])
    assert dict(_facts(info))["wrapped keys"] == "rsa-oaep-sha1, aes-kwp-0x210a"


def test_many_differences_are_counted_and_some_of_them_named() -> None:
    names = [f"key-{number:04d}" for number in range(1_000)]
    info = TokenInfo("main", "ready", "closed", "", missing=names, missing_count=12_345)
    line = dict(_facts(info))["missing"]
    assert "key-0019 and 12,325 more" in line
    assert "key-0020" not in line
    of_an_earlier_daemon = dict(_facts(TokenInfo("main", "ready", "closed", "", missing=names)))
    assert "and 980 more" in of_an_earlier_daemon["missing"]
