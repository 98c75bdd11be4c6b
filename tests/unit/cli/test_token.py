"""What `hsmd token` shows about a token with problems."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hsmd.cli import token as token_commands
from hsmd.cli.token import _facts
from hsmd.protocol.messages import Done, TokenInfo, TokenInfoList
from tests.support.cli import Run
from tests.support.fake_control import FakeControl

AT = datetime(2026, 3, 4, tzinfo=UTC)


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
    assert facts["details"].endswith(": hsmd key candidates --token main")


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


def test_clearing_waits_for_the_login_and_not_for_a_stop_of_before(
    run: Run, fake_control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_commands, "LOOK_S", 0.0)
    stopped = TokenInfo(
        "main", "ready", "closed", "old", stopped_at=AT, stop_reason="new PIN", logins="stopped"
    )
    trying = TokenInfo("main", "ready", "closed", "", logins="trying")
    allowed = TokenInfo("main", "ready", "closed", "", logins="allowed")
    again = TokenInfo(
        "main",
        "ready",
        "closed",
        "",
        stopped_at=AT + timedelta(seconds=9),
        stop_reason="refused",
        logins="stopped",
    )
    for shown, code, text in (
        ([stopped, stopped, trying, allowed], 0, "it accepts the PIN"),
        ([stopped, stopped, trying, again], 1, "logins to main are stopped again: refused"),
        ([stopped, TokenInfo("main", "ready", "closed", "")], 0, "it accepts the PIN"),
    ):
        answers = iter(shown)
        monkeypatch.setattr(
            fake_control, "on_token_list", lambda request, answers=answers: TokenInfoList([next(answers)])
        )
        monkeypatch.setattr(fake_control, "on_token_clear", lambda request: Done(), raising=False)
        ran = run("token", "clear", "main")
        assert (ran.code, text in ran.out + ran.err) == (code, True), ran
        assert list(answers) == []
