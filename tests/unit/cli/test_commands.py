"""Commands that connect to a daemon: their requests, their output as text and JSON, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from msgspec import structs

from hsmd import errors
from hsmd.cli.base import output, profile
from hsmd.cli.base.errors import _OPTION_OF_MEMBER, missing_package
from hsmd.cli.base.output import Output
from hsmd.cli.base.times import moment
from hsmd.daemon.store import Store
from hsmd.protocol import messages
from tests.support.cli import Run
from tests.support.fake_control import PEM, FakeControl

SSH_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"


def _document(run: Run, *arguments: str, code: int = 0) -> dict[str, object]:
    ran = run(*arguments, "--json")
    assert ran.code == code, ran.err
    document = json.loads(ran.out)
    assert isinstance(document, dict)
    return document


# --- keys ---


def test_generate_sends_its_options_and_allows_time_for_slow_tokens(run: Run, daemon: FakeControl) -> None:
    document = _document(
        run, "key", "generate", "www", "--type", "rsa-4096", "-p", "tls13-server", "--token", "hsm"
    )
    assert daemon.asked == [messages.KeyGenerate("www", "rsa-4096", ["tls13-server"], "hsm")]
    assert daemon.timeouts == [60.0]
    assert document["name"] == "www"
    assert document["key_type"] == "rsa-4096"


def test_generate_makes_a_tls_server_key_by_default(run: Run, daemon: FakeControl) -> None:
    ran = run("key", "generate", "www")
    assert daemon.asked == [messages.KeyGenerate("www", "p-256", ["tls-server"])]
    assert "hsmd grant add CLIENT www" in ran.err


def test_generate_refuses_an_unknown_type_before_it_connects(run: Run, daemon: FakeControl) -> None:
    assert run("key", "generate", "www", "--type", "rsa-1024").code == 2
    assert daemon.asked == []


def test_adopt_requires_an_id_and_normalises_it(run: Run, daemon: FakeControl) -> None:
    _document(run, "key", "adopt", "www", "--id", "3A:0F", "--accept-unsafe", "-p", "tls13-server")
    assert daemon.asked[-1] == messages.KeyAdopt("www", ["tls13-server"], cka_id="3a0f", accept_unsafe=True)
    ran = run("key", "adopt", "www")
    assert (ran.code, "--id or --label" in ran.err) == (2, True)


def test_adopt_names_a_key_by_its_digest_or_its_certificate(
    run: Run, daemon: FakeControl, tmp_path: Path
) -> None:
    _document(run, "key", "adopt", "www", "--digest", "AB:CD", "-p", "tls13-server")
    assert daemon.asked[-1] == messages.KeyAdopt("www", ["tls13-server"], key_digest="abcd")
    (tmp_path / "www.pem").write_text(PEM)
    _document(run, "key", "adopt", "shop", "--certificate", str(tmp_path / "www.pem"))
    assert daemon.asked[-1] == messages.KeyAdopt("shop", certificate=PEM)
    assert run("key", "adopt", "www", "--digest", "ab", "--id", "01").code == 2


def test_candidates_shows_findings_on_stdout_and_next_steps_on_stderr(run: Run, daemon: FakeControl) -> None:
    labels = ("www\\x0a", "a\u202eb")
    found = [
        messages.KeyCandidate("01", labels[0], "p-256", [], "adoptable", "", "hsmd key adopt NAME --id 01"),
        messages.KeyCandidate(
            "", labels[1], "", [], "unusable", "it requires the PIN for each use", "generate"
        ),
    ]
    daemon.candidates = found
    ran = run("key", "candidates", "--all")
    assert daemon.asked[-1] == messages.KeyCandidates(served=True)
    assert "FINDING" in ran.out and "adoptable" in ran.out and "PIN for each use" in ran.out
    assert "hsmd key adopt" not in ran.out
    assert "www\\x0a: hsmd key adopt NAME --id 01" in ran.err
    assert "\u202e" not in ran.out + ran.err
    document = _document(run, "key", "candidates")
    assert daemon.asked[-1] == messages.KeyCandidates()
    assert [key["finding"] for key in document["keys"]] == ["adoptable", "unusable"]  # type: ignore[attr-defined]


def test_the_token_list_says_what_is_not_served_and_why(run: Run, daemon: FakeControl) -> None:
    daemon.tokens = [
        messages.TokenInfo(
            "main", "ready", "closed", "", serial="08a1", write_protected=True,
            not_served=[messages.KeyProblem("www", "00" * 32, "it requires the PIN for each use")],
        )
    ]  # fmt: skip
    ran = run("token", "list")
    assert "08a1" in ran.out and "WRITE-PROTECTED" in ran.out
    assert "www: it requires the PIN for each use" in ran.out


def test_list_fetches_every_page(run: Run, daemon: FakeControl) -> None:
    for name in "abcde":
        run("key", "generate", name)
    keys = _document(run, "key", "list")["keys"]
    assert isinstance(keys, list)
    assert [key["name"] for key in keys] == list("abcde")
    assert len([each for each in daemon.asked if isinstance(each, messages.KeyList)]) == 3


def test_the_list_shows_which_certificates_end_soon_and_the_days_that_are_left(
    run: Run, daemon: FakeControl
) -> None:
    for name, state, days in (("ended", "ended", -3), ("ending", "ending", 5), ("valid", "valid", 90)):
        run("key", "generate", name)
        daemon.keys[name].certificate_state = state
        daemon.keys[name].certificate_not_after = datetime.now(UTC) + timedelta(days=days, hours=1)
    run("key", "generate", "without")
    listed = run("key", "list").out
    assert "LEFT" in listed.splitlines()[0]
    left = {line.split()[0]: line.rpartition("Z  ")[2] for line in listed.splitlines()[1:]}
    assert (left["ending"], left["valid"]) == ("5 d, ENDS SOON", "90 d")
    assert left["ended"].startswith("ENDED 2 d ago")
    assert "ENDS" not in left["without"]


def test_list_prints_a_table_that_is_not_folded_in_a_pipe(run: Run, daemon: FakeControl) -> None:
    run("key", "generate", "x" * 64)
    assert "x" * 64 in run("key", "list").out


def test_an_empty_list_is_stated(run: Run, daemon: FakeControl) -> None:
    assert run("key", "list").out.strip() == "(none)"


@pytest.mark.parametrize("typed", ["", "WWW", "www2"])
def test_destroy_needs_the_exact_name(run: Run, daemon: FakeControl, typed: str) -> None:
    run("key", "generate", "www")
    ran = run("key", "destroy", "www", *(["--confirm", typed] if typed else []))
    assert ran.code == 2
    assert "www" in daemon.keys
    assert not any(isinstance(each, messages.KeyDestroy) for each in daemon.asked)


@pytest.mark.parametrize("how", [typer.Abort, KeyboardInterrupt])
def test_a_prompt_that_is_interrupted_is_no_fault(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch, how: type[BaseException]
) -> None:
    """Ctrl-C, or the end of the input, at the prompt."""

    def interrupted(name: str) -> str:
        raise how

    run("key", "generate", "www")
    monkeypatch.setattr("hsmd.cli.key.destroy._ask_for", interrupted)
    ran = run("key", "destroy", "www")
    assert (ran.code, ran.err) == (130, "hsmd: interrupted\n")
    assert "www" in daemon.keys


def test_destroy(run: Run, daemon: FakeControl) -> None:
    run("key", "generate", "www")
    assert _document(run, "key", "destroy", "www", "--confirm", "www") == {
        "destroyed": "www",
        "changed": True,
    }
    assert daemon.keys == {}


def test_csr_prints_only_the_pem(run: Run, daemon: FakeControl) -> None:
    ran = run("key", "csr", "www", "--dns", "a.example", "--ip", "192.0.2.1", "--organization", "Example")
    assert ran.out.startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
    expected = messages.KeyRequest("www", "", ["a.example"], ["192.0.2.1"], "Example")
    assert daemon.asked == [expected]


@pytest.mark.parametrize("name", ["a b", "", "../x", "-x", "x" * 65, "\x1b[31m"])
@pytest.mark.parametrize(
    "line", [["key", "show"], ["client", "remove"], ["cert", "export"], ["agent", "export"]], ids=" ".join
)
def test_an_invalid_name_is_refused_by_the_command(
    run: Run, daemon: FakeControl, line: list[str], name: str
) -> None:
    ran = run(*line, "--", name)
    assert (ran.code, daemon.asked) == (2, [])
    assert ran.err.count("\n") == 1


# --- certificates ---


def test_certificate_round_trip(run: Run, daemon: FakeControl, home: Path) -> None:
    run("key", "generate", "www")
    (home / "chain.pem").write_text(PEM)
    assert _document(run, "cert", "import", "www", "chain.pem")["name"] == "www"
    assert run("cert", "export", "www").out == PEM
    assert run("cert", "export", "www", "--out", "out.pem").code == 0
    assert (home / "out.pem").read_text() == PEM


def test_certificate_from_standard_input(run: Run, daemon: FakeControl) -> None:
    run("key", "generate", "www")
    assert run("cert", "import", "www", "-", stdin=PEM).code == 0
    assert daemon.chains["www"] == PEM


def test_a_private_key_is_never_sent(run: Run, daemon: FakeControl, home: Path) -> None:
    (home / "both.pem").write_text(PEM + "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    ran = run("cert", "import", "www", "both.pem")
    assert (ran.code, daemon.asked) == (2, [])
    assert "private key" in ran.err
    assert "c2VjcmV0" not in ran.err


def test_self_signed(run: Run, daemon: FakeControl) -> None:
    assert run("cert", "self-signed", "www", "--dns", "a.example", "--days", "7").out == PEM
    assert daemon.asked == [messages.CertificateSelfSigned("www", ["a.example"], [], 7)]


# --- clients and grants ---


def test_client_add_takes_a_line_or_a_file(run: Run, daemon: FakeControl, home: Path) -> None:
    (home / "web1.pub").write_text(SSH_LINE + " web1 on host\n")
    _document(run, "client", "add", "web1", "--key", "web1.pub")
    _document(run, "client", "add", "alice", "--role", "operator", "--key", SSH_LINE + " comment")
    assert daemon.asked == [
        messages.ClientAdd("web1", "front-end", SSH_LINE),
        messages.ClientAdd("alice", "operator", SSH_LINE),
    ]


@pytest.mark.parametrize("key", ["ssh-ed25519 nonsense", "ssh-rsa AAAA", "missing.pub"])
def test_client_add_refuses_an_invalid_key(run: Run, daemon: FakeControl, key: str) -> None:
    ran = run("client", "add", "web1", "--key", key)
    assert ran.code in (1, 2)
    assert ran.err.count("\n") == 1
    assert daemon.asked == []


def test_client_add_refuses_a_private_key(run: Run, daemon: FakeControl, home: Path) -> None:
    (home / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n")
    (home / "id.pub").write_text("")
    ran = run("client", "add", "web1", "--key", "id")
    assert (ran.code, daemon.asked) == (2, [])
    assert "id.pub" in ran.err
    assert "c2VjcmV0" not in ran.err


def test_a_client_gets_several_roles(run: Run, daemon: FakeControl) -> None:
    """One role is sent as to releases that know no others."""
    made = _document(run, "client", "add", "bob", "--role", "checker", "--role", "owner")
    assert (made["role"], made["roles"]) == ("owner", ["owner", "checker"])
    _document(run, "client", "add", "ann", "--role", "owner")
    assert messages.encode_request(daemon.asked[0]) == (
        b'{"op":"client.add","name":"bob","role":"owner","roles":["owner","checker"]}'
    )
    assert messages.encode_request(daemon.asked[1]) == b'{"op":"client.add","name":"ann","role":"owner"}'
    assert "owner, checker" in run("client", "list").out


def test_roles_are_added_and_removed(run: Run, daemon: FakeControl) -> None:
    run("client", "add", "bob", "--role", "owner")
    expected = {"client": "bob", "role": "node", "changed": True}
    assert _document(run, "client", "role", "add", "bob", "node") == expected
    assert run("client", "role", "add", "bob", "node").out == "bob already had the role node.\n"
    assert daemon.clients["bob"].roles == ["owner", "node"]
    assert _document(run, "client", "role", "remove", "bob", "node") == expected
    assert run("client", "role", "remove", "bob", "node").out == "bob did not have the role node.\n"
    assert daemon.asked[-1] == messages.ClientRoleRemove("bob", "node")
    assert run("client", "role", "add", "bob", "king").code == 2


def test_roles_of_a_daemon_with_one_role_per_client() -> None:
    old = messages.decode_result(
        b'{"name":"a","role":"auditor","fingerprints":[],"created_at":"2030-01-02T03:04:05Z"}',
        messages.ClientInfo,
    )
    assert old.roles == ["auditor"]
    agent = messages.decode_result(
        b'{"client":"a","role":"agent","credential":"c","daemon":"d"}', messages.Identity
    )
    assert agent.roles == []


def test_clients_are_listed_and_removed(run: Run, daemon: FakeControl) -> None:
    for name in "abc":
        run("client", "add", name)
    clients = _document(run, "client", "list")["clients"]
    assert isinstance(clients, list)
    assert [client["name"] for client in clients] == ["a", "b", "c"]
    assert _document(run, "client", "remove", "a") == {"removed": "a", "changed": True}
    assert run("client", "remove", "a").code == 1


def test_trust_ca_needs_the_names_it_may_certify(run: Run, daemon: FakeControl) -> None:
    assert run("client", "trust-user-ca", SSH_LINE).code == 2
    assert run("client", "trust-user-ca", SSH_LINE, "-c", "web1", "-c", "web2").code == 0
    assert daemon.asked == [messages.ClientTrustCa(SSH_LINE, ["web1", "web2"])]


def test_grants(run: Run, daemon: FakeControl) -> None:
    for client in ("web1", "web2", "web3"):
        run("grant", "add", client, "www", "-p", "tls13-server")
    grants = _document(run, "grant", "list")["grants"]
    assert isinstance(grants, list)
    assert [grant["client"] for grant in grants] == ["web1", "web2", "web3"]
    assert _document(run, "grant", "list", "--client", "web2")["grants"] == [
        {"client": "web2", "key": "www", "purposes": ["tls13-server"]}
    ]
    assert _document(run, "grant", "remove", "web1", "www")["changed"] is True
    assert _document(run, "grant", "remove", "web1", "www")["changed"] is False


@pytest.mark.parametrize(
    ("of_key", "granted"),
    [
        ("tls13-server", "tls13-server"),
        ("tls12-server", "tls12-server"),
        ("tls-server", "tls-server"),
        ("tls13-client", "tls-server"),
    ],
)
def test_a_grant_is_for_the_purposes_of_servers_that_the_key_has(
    run: Run, daemon: FakeControl, of_key: str, granted: str
) -> None:
    run("key", "generate", "www", "-p", of_key)
    daemon.asked.clear()
    run("grant", "add", "web1", "www")
    run("grant", "add", "web1", "ww*", "--yes")
    run("client", "enroll", "web1", "--grant", "www")
    asked = [each for each in daemon.asked if isinstance(each, messages.GrantAdd | messages.ClientEnroll)]
    wanted = messages.GrantAdd("web1", "www", [granted])
    assert asked == [
        wanted,
        wanted,
        messages.ClientEnroll("web1", grants=[messages.WantedGrant("www", [granted])]),
    ]


def test_a_grant_for_tls_12_says_what_cannot_be_excluded(run: Run, daemon: FakeControl) -> None:
    for purpose, named in (("tls-server", "tls13-server"), ("tls12-client", "tls13-client")):
        ran = run("grant", "add", "web1", "www", "-p", purpose, "--json")
        assert "cannot recognise signatures over raw content" in ran.err
        assert f"grant {named} alone" in ran.err
        assert json.loads(ran.out)["client"] == "web1"
    assert run("grant", "add", "web1", "www", "-p", "tls13-server").err == ""


def test_a_grant_within_limits(run: Run, daemon: FakeControl) -> None:
    ran = run(
        "grant", "add", "web1", "www", "-p", "tls13-server", "--not-after", "2030-12-24T19:30+01:00",
        "--max-uses", "10", "--request", "TICKET-17",
    )  # fmt: skip
    end = datetime(2030, 12, 24, 18, 30, tzinfo=UTC)
    assert daemon.asked == [
        messages.GrantAdd("web1", "www", ["tls13-server"], not_after=end, max_uses=10, request="TICKET-17")
    ]
    limits = "8 of 10 uses left; until 2030-12-24 18:30:00Z; request TICKET-17"
    assert ran.out == f"web1 may use www for tls13-server: {limits}.\n"
    run("grant", "add", "web1", "www", "-p", "tls12-server")
    run("grant", "add", "web2", "www")
    lines = [re.split(" {2,}", line.strip()) for line in run("grant", "list").out.splitlines()]
    assert lines == [
        ["CLIENT", "KEY", "PURPOSES", "LIMITS"],
        ["web1", "www", "tls12-server"],
        ["web1", "www", "tls13-server", limits],
        ["web2", "www", "tls-server"],
    ]
    assert f"limits: {limits}" in run("grant", "explain", "web1", "www", "tls13-server").out


def test_uses_that_are_in_no_log_are_listed(run: Run, daemon: FakeControl) -> None:
    run("grant", "add", "web1", "www", "-p", "tls13-server", "--max-uses", "10")
    for limit in daemon.limits.values():
        limit.unrecorded = 2
    says = "8 of 10 uses left; 2 used by a daemon that is away, and in no log before it is back"
    assert says in run("grant", "list").out
    assert f"limits: {says}" in run("grant", "explain", "web1", "www", "tls13-server").out
    (listed,) = json.loads(run("grant", "list", "--json").out)["grants"]
    assert listed["limits"][0]["unrecorded"] == 2


def test_grants_without_limits_are_listed_as_before(run: Run, daemon: FakeControl) -> None:
    run("grant", "add", "web1", "www")
    assert [line.split() for line in run("grant", "list").out.splitlines()] == [
        ["CLIENT", "KEY", "PURPOSES"], ["web1", "www", "tls-server"],
    ]  # fmt: skip


def test_allowed_names_are_for_certificate_requests(run: Run, daemon: FakeControl) -> None:
    ran = run("grant", "add", "web1", "www", "--allow-name", "*.example.com", "--allow-name", "example.org")
    names = ["*.example.com", "example.org"]
    assert daemon.asked == [messages.GrantAdd("web1", "www", ["x509-request"], names=names)]
    assert ran.out == "web1 may use www for x509-request: 2 used; names *.example.com, example.org.\n"


@pytest.mark.parametrize(
    "line",
    [
        ["grant", "add", "web1", "www", "--not-after"],
        ["grant", "add", "web1", "www", "--max-uses", "1", "--request"],
        ["key", "generate", "www", "--owner"],
        ["key", "adopt", "www", "--label", "www", "--owner"],
        ["events", "--exec"],
    ],
    ids=lambda line: f"{line[0]} {line[-1]}",
)
def test_an_unset_variable_of_a_script_is_not_taken_for_no_option(
    run: Run, daemon: FakeControl, line: list[str]
) -> None:
    ran = run(*line, "")
    assert (ran.code, daemon.asked) == (2, [])
    assert f"'{line[-1]}': the value is empty" in ran.err


def test_a_grant_that_a_restore_holds_says_what_to_do(run: Run, daemon: FakeControl) -> None:
    run("grant", "add", "web1", "www", "-p", "tls13-server", "--max-uses", "10")
    daemon.limits["web1", "www", "tls13-server"].held = True
    shown = run("grant", "list").out
    assert "no use before you state --max-uses anew, because a backup was restored (2 of 10 uses" in shown


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        ("0", "it must be greater than or equal to 1"),
        ("x", "it must be a valid integer"),
        ("", "it must be a valid integer"),
    ],
)
def test_what_is_no_number_is_refused_in_plain_words(
    run: Run, daemon: FakeControl, number: str, rule: str
) -> None:
    ran = run("grant", "add", "web1", "www", "--max-uses", number)
    assert (ran.code, ran.err) == (
        2,
        f"hsmd: Invalid value for '--max-uses': {rule} - see: hsmd grant add --help\n",
    )


@pytest.mark.parametrize("time", ["tomorrow", "8", "8y", "0h", "999999w", "2030-13-01", ""])
def test_what_is_no_time_is_refused(run: Run, daemon: FakeControl, time: str) -> None:
    ran = run("grant", "add", "web1", "www", "--not-after", time or " ")
    assert ran.code == 2
    assert ran.err.startswith(f"hsmd: --not-after: {time or ' '!r} is not a time - give for example 8h")
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", datetime(2030, 1, 1, 12, 30, tzinfo=UTC)),
        ("8h", datetime(2030, 1, 1, 20, tzinfo=UTC)),
        ("2d", datetime(2030, 1, 3, 12, tzinfo=UTC)),
        ("1w", datetime(2030, 1, 8, 12, tzinfo=UTC)),
        ("2030-12-24", datetime(2030, 12, 24, tzinfo=UTC)),
        ("2030-12-24T18:30", datetime(2030, 12, 24, 18, 30, tzinfo=UTC)),
        ("2030-12-24T18:30Z", datetime(2030, 12, 24, 18, 30, tzinfo=UTC)),
        ("2030-12-24 18:30+02:00", datetime(2030, 12, 24, 16, 30, tzinfo=UTC)),
    ],
)
def test_times_are_spans_dates_and_times(text: str, expected: datetime) -> None:
    assert moment("--not-after", text, datetime(2030, 1, 1, 12, 0, 0, 5, tzinfo=UTC)) == expected


def test_explain_prints_the_rule_and_ends_with_4_when_refused(run: Run, daemon: FakeControl) -> None:
    run("grant", "add", "web1", "www", "-p", "tls13-server")
    assert _document(run, "grant", "explain", "web1", "www", "tls13-server")["allowed"] is True
    refused = _document(run, "grant", "explain", "web1", "www", "sign-digest", code=4)
    assert refused == {"allowed": False, "rule": "no grant on this key"}


# --- status ---


def test_status(run: Run, daemon: FakeControl) -> None:
    document = _document(run, "status")
    assert document["identity"] == {
        "client": "alice",
        "role": "operator",
        "credential": "SHA256:abc",
        "daemon": "hsm-1",
        "roles": ["operator"],
    }
    text = run("status").out
    assert "alice (operator)" in text
    assert "main ready, 1 of 1 signing workers up" in text


def test_status_of_a_front_end_shows_its_identity_and_provokes_no_refusal(
    run: Run, daemon: FakeControl
) -> None:
    daemon.role = "front-end"
    assert _document(run, "status")["daemon"] is None
    assert "not available to the role front-end" in run("status").out
    assert {type(each) for each in daemon.asked} == {messages.WhoAmI, messages.HealthRead}


# --- exit codes and errors ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Refused(), 1),
        (errors.NotFound("there is no key 'www'"), 1),
        (errors.BadRequest("name: too long"), 1),
        (errors.Conflict(), 1),
        (errors.TokenFailure(), 1),
        (errors.AuditFailure(), 1),
        (errors.StoreFailure(), 1),
        (errors.InternalFault(), 1),
        (errors.ProtocolError(), 1),
        (errors.PeerError(99, "something new"), 1),
        (errors.Unavailable(), 3),
        (errors.Overloaded(), 3),
        (errors.Draining(), 3),
        (errors.DeadlineExceeded(), 3),
    ],
)
def test_exit_codes(run: Run, daemon: FakeControl, error: errors.HsmdError, code: int) -> None:
    daemon.fail_with = error
    ran = run("key", "show", "www", "--json")
    assert ran.code == code
    assert json.loads(ran.out)["error"]["exit_code"] == code
    assert json.loads(ran.out)["error"]["text"] == error.text
    assert ran.err.startswith(f"hsmd: {error.text.removeprefix('name: ')} - ")
    assert ran.err.count("\n") == 1


def test_a_closed_pipe_ends_a_command_without_a_message(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # the command replaces it
    monkeypatch.setattr(Output, "show", Mock(side_effect=BrokenPipeError))
    ran = run("key", "list")
    sys.stdout.close()
    assert (ran.code, ran.err) == (1, "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "dns_names: 'a b' is not a host name; use labels",
            "hsmd: --dns: 'a b' is not a host name - use labels\n",
        ),
        ("name: 'a; b' is taken; choose another name", "hsmd: 'a; b' is taken - choose another name\n"),
        ("chain: it is empty; give PEM", "hsmd: chain: it is empty - give PEM\n"),
        (
            "control request: Expected `int` <= 9007199254740991 - at `$.max_uses`",
            "hsmd: --max-uses: at most 9007199254740991 - correct it and try again; --help shows an example\n",
        ),
        (
            "control request: Expected `str` of length <= 253 - at `$.names[0]`",
            "hsmd: --allow-name: at most 253 characters - correct it and try again; --help shows an example\n",
        ),
        (
            "control request: Object contains unknown field `max_uses`",
            "hsmd: the daemon is of a release that does not know --max-uses - upgrade it, or leave that out\n",
        ),
        (
            "role: owner is the only role of 'bob'; add one",
            "hsmd: owner is the only role of 'bob' - add one\n",
        ),
        ("reason: give one line; keep it short", "hsmd: --reason: give one line - keep it short\n"),
        ("serial: 2^64", "hsmd: --serial: 2^64 - correct it and try again; --help shows an example\n"),
    ],
)
def test_an_error_of_the_daemon_names_options_and_keeps_its_own_advice(
    run: Run, daemon: FakeControl, text: str, line: str
) -> None:
    daemon.fail_with = errors.BadRequest(text)
    assert run("key", "show", "www").err == line
    daemon.fail_with = errors.BadRequest(text)
    assert json.loads(run("key", "show", "www", "--json").out)["error"]["text"] == text


def test_an_unexpected_error_is_one_line_and_debug_adds_the_traceback(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "on_key_show", lambda _: 1 / 0)
    ran = run("key", "show", "www")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "Traceback" not in ran.err
    assert "Traceback" in run("key", "show", "www", "--debug").err


def test_the_timeout_option_overrides_the_profile(run: Run, daemon: FakeControl) -> None:
    run("key", "generate", "www", "--timeout", "3.5")
    assert daemon.timeouts == [3.5]


def test_a_profile_is_opened_once_because_it_may_be_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "operator.toml"
    path.write_text('daemon = "10.0.0.1:7440"\n')
    opened: list[str] = []
    open_path = os.open

    def note(name: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(name))
        return open_path(name, *arguments, **options)

    monkeypatch.setattr(os, "open", note)
    assert profile.load(path).daemon == "10.0.0.1:7440"
    assert opened == [str(path)]


def test_without_a_profile_the_options_that_are_missing_are_named(run: Run) -> None:
    ran = run("key", "list", "--daemon", "192.0.2.1", "--user", "alice")
    assert ran.code == 2
    assert "--identity, --host-key not given" in ran.err
    assert "hsmd init" in ran.err


@pytest.mark.parametrize(
    "content", ["daemon =", 'dæmon = "x"', "daemon = 1", 'host_keys = "x"', 'port = "1"']
)
def test_an_invalid_profile_is_named(run: Run, home: Path, content: str) -> None:
    (home / "p.toml").write_text(content)
    ran = run("key", "list", "--profile", "p.toml")
    assert ran.code == 2
    assert ran.err.startswith("hsmd: p.toml: ")


KEY_1, KEY_2 = (f"SHA256:{letter * 43}" for letter in "ab")


def _listed(daemon: FakeControl) -> None:
    def info(name: str, keys: list[str], **more: Any) -> messages.ClientInfo:
        return messages.ClientInfo(name, "front-end", keys, datetime(2030, 1, 1, tzinfo=UTC), **more)

    clients = [
        info("web1", [KEY_1], connections=2, last_seen=datetime(2030, 1, 2, tzinfo=UTC)),
        info("web2", [KEY_1, KEY_2], revoked=[KEY_2]),
        info("web3", [KEY_2], revoked=[KEY_2]),
        info("web4", [], invited_until=datetime(2030, 1, 2, 12, 15, tzinfo=UTC)),
    ]
    daemon.on_client_list = lambda request: messages.ClientPage(clients, False)  # type: ignore[method-assign]


def test_the_list_of_clients_shows_who_is_connected_invited_or_revoked(run: Run, daemon: FakeControl) -> None:
    _listed(daemon)
    lines = run("client", "list").out.splitlines()
    assert lines[0].split("  ")[0] == "NAME" and len(lines) == 5
    assert "connected (2) " in lines[1] and " 2030-01-02 00:00:00Z " in lines[1]
    assert "not connected" in lines[2] and f"{KEY_1}, {KEY_2} (revoked)" in lines[2]
    assert " revoked " in lines[3]
    assert "invited until 12:15Z" in lines[4]


def test_keys_have_lines_of_their_own_in_a_narrow_terminal(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    _listed(daemon)
    monkeypatch.setattr(output, "_console", lambda stream: Mock(width=80))
    shown = run("client", "list").out.splitlines()
    assert max(map(len, shown)) <= 80
    assert f"  {KEY_2} (revoked)" in shown


@pytest.mark.parametrize(("command", "near"), [("key show ww", "www"), ("client remove wbe1", "web1")])
def test_a_name_that_does_not_exist_is_answered_with_names_like_it(
    run: Run, daemon: FakeControl, command: str, near: str
) -> None:
    run("key", "generate", "www")
    run("client", "add", "web1")
    ran = run(*command.split())
    assert (ran.code, f"did you mean {near}?" in ran.err) == (1, True), ran.err
    assert "did you mean" not in run("key", "show", "something-else").err


def test_a_reader_that_has_gone_is_no_fault_of_the_interpreter() -> None:
    """As in `hsmd status | head`; little output is written only when the interpreter ends."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hsmd.cli", "--version"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode in (0, 1), done.stderr) == (True, b"")


NEVER_GIVEN = {"after", "cursor", "first", "keys", "limit", "link", "served", "weaknesses"}
"""Members of requests that commands fill in by themselves."""
MADE_BY_OWNERS = {
    "before", "checkers", "envelope", "nonce", "open", "possession", "possession_kind", "public", "signature", "succession",
    "suite", "text", "verb", "version", "wrapping", "wrapping_proof",
}  # fmt: skip
"""The same of requests to the vault; `hsmd.cli.vault.problems` leaves them out of errors."""


def test_errors_name_options_and_not_members_of_requests() -> None:
    members = {field.name for request in messages.REQUESTS for field in structs.fields(request)}
    assert members - set(_OPTION_OF_MEMBER) == NEVER_GIVEN | MADE_BY_OWNERS
    wire_names = [each for each in _OPTION_OF_MEMBER.values() if "_" in each]
    assert wire_names == []


def test_the_missing_package_of_a_token_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(errors.ConfigurationError, match=r"pip install 'hsmd\[daemon,postgresql\]'"):
        Store("postgresql+psycopg://user:secret@host/database")
    assert "hsmd[token]" in missing_package(ModuleNotFoundError(name="pkcs11")).line
