"""The record format is final: these bytes must always verify, and the daemon must write the same bytes."""

from __future__ import annotations

from hashlib import sha256

from hsmd.transparency.lines import (
    START,
    Head,
    attempt_stem,
    attempt_tail,
    event_tail,
    extend,
    outcome_tail,
    refusal_tail,
)
from tests.support.audit_logs import end_of_chain

TIME = "2026-11-21T02:03:04.567890Z"
FINGERPRINT = "SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg"
KEY = bytes(range(32))
HEAD = "ff2a7309aa9643196adf54d04b357c686de103ea621f8ddcdabe76a0036f7107"
GOLDEN = rb"""
{"index":0,"previous":"0000000000000000000000000000000000000000000000000000000000000000","time":"2026-11-21T02:03:04.567890Z","event":"daemon.started","fields":{"name":"east"}}
{"index":1,"previous":"6f96d8a38610838072e283674d03646feadf6c6be452eff631f982292ccf95a4","time":"2026-11-21T02:03:04.567890Z","event":"attempt","client":"web-1","credential":"SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg","key_name":"www","key":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","purpose":"tls13-server","scheme":"0403","asked":"c66790da5943c4466dd80634deb63f4e19f07e7f81624f222b86fecf9fff6445"}
{"index":2,"previous":"c25ae1e88c3a0effd55108e015151c47e5f42881b417f863ba3bc8c1befe0207","time":"2026-11-21T02:03:04.567890Z","event":"outcome","attempt":1,"result":"performed","answer":"0db52f4076c082518412afd3dd3576e2cb0c63703fd7fed5e23ade60efef31d9"}
{"index":3,"previous":"835a7e37f41c9f7658f0ca3b9e525dac8a7796248e052e131b7ca840e4993edf","time":"2026-11-21T02:03:04.567890Z","event":"refusal","client":"web-2","credential":"SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg","key":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","purpose":"sign-digest","scheme":"0403","asked":"c66790da5943c4466dd80634deb63f4e19f07e7f81624f222b86fecf9fff6445","rule":"no grant"}
{"index":4,"previous":"fd908e8da574822e9a167bf17bc51a6a2772116db446668f0acb64763912db0d","time":"2026-11-21T02:03:04.567890Z","event":"outcome","attempt":1,"result":"failed","error":"30 the token failed"}
{"index":5,"previous":"6f7bd3c0273ce9de0d3ca232bee2f76a4e0447ffd2a99186d0e4f21159c7111a","time":"2026-11-21T02:03:04.567890Z","event":"client.add","client":"al\u00e9\n\u202e\ud83d\udd11\u007f","fields":{"count":2,"role":"front-end"}}
"""


def test_golden_records_verify():
    lines = GOLDEN.strip().splitlines()
    assert end_of_chain(lines) == Head(len(lines), HEAD)


def test_golden_records_are_reproduced():
    asked = sha256(b"asked").hexdigest()
    stem = attempt_stem("web-1", FINGERPRINT, "www", KEY, "tls13-server", 0x0403)
    tails = [
        event_tail("daemon.started", "", {"name": "east"}),
        attempt_tail(stem, asked),
        outcome_tail(1, "performed", sha256(b"answer").hexdigest()),
        refusal_tail("web-2", FINGERPRINT, KEY, "sign-digest", 0x0403, asked, "no grant"),
        outcome_tail(1, "failed", "", "30 the token failed"),
        event_tail("client.add", "al\u00e9\n\u202e\U0001f511\x7f", {"role": "front-end", "count": 2}),
    ]
    assert extend(START, TIME, tails) == (GOLDEN.lstrip(), Head(len(tails), HEAD))


def test_a_verifier_can_be_written_in_ten_lines():
    """Ten lines that can be written in another language from docs/audit.md."""
    previous = "0" * 64
    for index, line in enumerate(GOLDEN.strip().splitlines()):
        assert line.startswith(b'{"index":%d,"previous":"%s",' % (index, previous.encode()))
        previous = sha256(b"\0" + line).hexdigest()
    assert previous == HEAD
