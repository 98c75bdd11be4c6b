"""`hsmd ca`: what each command asks, prints and writes, and what it refuses before it asks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsmd.errors import BadRequest
from hsmd.protocol import messages
from tests.support.cli import Run
from tests.support.fake_control import PEM, FakeControl

DAY = 86_400
INIT = ["ca", "init", "root", "--common-name", "Example CA 1"]


def test_init_asks_for_what_is_fixed_with_the_key(run: Run, daemon: FakeControl) -> None:
    ran = run(
        *INIT, "--for", "server", "--for", "client", "--dns", "example.com", "--not-dns", "x.example.com", "--ip", "192.0.2.0/24",
        "--email", "example.com", "--subject", "alice", "--below", "2", "--longest", "36h", "--longest-authority", "100w",
        "--list-at", "http://a/1.crl", "--list-every", "1d", "--type", "p-384", "--token", "main", "--next-token", "other",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    limits = messages.AuthorityLimits(
        ["server", "client"], ["example.com"], ["192.0.2.0/24"], ["example.com"], ["x.example.com"], [], [], ["alice"], 2,
        36 * 3_600, 700 * DAY,
    )  # fmt: skip
    expected = messages.CaInit(
        "root",
        "Example CA 1",
        limits,
        "p-384",
        "main",
        lists_at=["http://a/1.crl"],
        list_s=DAY,
        next_token="other",
    )
    assert daemon.asked == [expected]
    assert "CN=root" in ran.out and "hsmd ca issue root" in ran.err


def test_init_writes_a_certificate_or_prints_a_request(run: Run, daemon: FakeControl, home: Path) -> None:
    assert run(*INIT, "--out", "root.pem").code == 0
    assert (home / "root.pem").read_text() == PEM
    ran = run(*INIT, "--outside")
    assert (ran.out, daemon.asked[-1].outside) == (PEM, True)  # type: ignore[attr-defined]


def test_issue_is_for_a_key_or_a_request(run: Run, daemon: FakeControl, home: Path) -> None:
    ran = run("ca", "issue", "root", "www", "--dns", "a.example", "--term", "30d")
    assert ran.out == PEM
    (home / "a.csr").write_text("request")
    ran = run(
        "ca", "issue", "root", "--request", "a.csr", "--for", "client", "--common-name", "alice", "--json"
    )
    assert json.loads(ran.out)["certificate"]["serial"] == "1f"
    assert daemon.asked == [
        messages.CaIssue("root", "server", key="www", dns_names=["a.example"], term_s=30 * DAY),
        messages.CaIssue("root", "client", request="request", common_name="alice"),
    ]
    for words in (["root"], ["root", "www", "--request", "a.csr"]):
        ran = run("ca", "issue", *words)
        assert (ran.code, "either KEY or --request" in ran.err) == (2, True)
    assert len(daemon.asked) == 2


def test_renew_revoke_and_crl(run: Run, daemon: FakeControl, home: Path) -> None:
    (home / "chain.pem").write_text(PEM)
    for line in (
        "renew root 1f --term 36h",
        "renew root --chain chain.pem",
        "revoke root 1f --reason superseded --out root.crl",
        "crl root",
        "revoke root 2f --unknown-until 2036-12-24",
    ):
        assert run("ca", *line.split()).code == 0, line
    assert daemon.asked == [
        messages.CaRenew("root", "1f", term_s=36 * 3_600),
        messages.CaRenew("root", chain=PEM),
        messages.CaRevoke("root", "1f", "superseded"),
        messages.CaCrl("root"),
        messages.CaRevoke("root", "2f", unknown_until=datetime(2036, 12, 24, tzinfo=UTC)),
    ]
    assert (home / "root.crl").read_text() == PEM


def test_lists_are_complete(run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = daemon.certificate(), daemon.certificate()
    second.number, second.serial, second.reason, second.revoked_at = 2, "2a", "superseded", second.not_after
    pages = {0: messages.IssuedPage([first], True), 1: messages.IssuedPage([second], False)}
    monkeypatch.setattr(daemon, "on_ca_certificates", lambda request: pages[request.after])
    ran = run("ca", "list", "root")
    assert "1f" in ran.out and "2a" in ran.out and "superseded" in ran.out
    ran = run("ca", "list", "root", "--revoked", "--json")
    assert [each["serial"] for each in json.loads(ran.out)["certificates"]] == ["1f", "2a"]
    assert daemon.asked[-1].revoked  # type: ignore[attr-defined]
    ran = run("ca", "list", "--revoked")
    assert (ran.code, "--revoked: give an authority" in ran.err) == (2, True)
    assert json.loads(run("ca", "list", "--json").out)["authorities"][0]["name"] == "root"


def test_what_a_node_gets_is_said_listed_and_taken_away(run: Run, daemon: FakeControl) -> None:
    words = [
        "--for",
        "client",
        "--common-name",
        "alice",
        "--dns",
        "a.example",
        "--ip",
        "192.0.2.1",
        "--email",
        "a@b.example",
        "--term",
        "36h",
    ]
    ran = run("ca", "allow", "root", "web1", *words)
    assert (
        ran.out
        == "web1 gets certificates of root for CN=alice, a.example, 192.0.2.1, a@b.example, each for 36 hours.\n"
    )
    assert daemon.asked == [
        messages.CaAllow(
            "root", "web1", "client", "alice", ["a.example"], ["192.0.2.1"], ["a@b.example"], 36 * 3_600
        )
    ]
    assert "already" in run("ca", "allow", "root", "web1", *words).out
    assert run("ca", "allow", "root", "db1", "--dns", "db1.example").code == 0
    assert daemon.asked[-1] == messages.CaAllow("root", "db1", "server", dns_names=["db1.example"])
    ran = run("ca", "allowed", "root")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["CLIENT", "db1", "web1"]
    assert "longest" in ran.out and "36 hours" in ran.out and "CN=alice" in ran.out
    assert [each["client"] for each in json.loads(run("ca", "allowed", "root", "--json").out)["permits"]] == [
        "db1",
        "web1",
    ]
    ran = run("ca", "disallow", "root", "web1")
    assert "web1 gets no more certificates of root." in ran.out and "hsmd ca revoke root" in ran.err
    ran = run("ca", "disallow", "root", "web1", "--json")
    assert json.loads(ran.out) == {"authority": "root", "client": "web1", "changed": False}


@pytest.mark.parametrize("length", ["90", "d", "0d", "1y", "-1d", ""])
def test_a_length_of_time_has_a_unit(run: Run, daemon: FakeControl, length: str) -> None:
    ran = run(*INIT, "--longest", length)
    assert (ran.code, daemon.asked) == (2, [])
    assert "--longest: " in ran.err and "90d" in ran.err


def test_errors_name_the_option(run: Run, daemon: FakeControl) -> None:
    daemon.fail_with = BadRequest("lists_at: 'x' is not an http:// URL")
    assert "--list-at: 'x' is not an http:// URL" in run(*INIT).err
