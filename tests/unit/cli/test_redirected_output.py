"""Standard output of every command is its result and nothing else, so that `hsmd ... > file` and pipes work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hsmd.protocol import messages
from tests.support.cli import COMMANDS, Run
from tests.support.fake_control import NOW, PEM, FakeControl

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIy2wz6cipyHlUlxaUp5RUJ/yHqBk2/jr7YXkA9ghGC9"
INIT = "agent init --daemon 192.0.2.1 --client web1 --host-key LINE --config front/agent.toml"
LINES = [
    INIT,
    "agent install openssl --socket /run/a.sock --root root",
    "agent install openssl --socket /run/a.sock --print",
    "agent install nginx --key www --socket /run/a.sock --root root",
    "agent install systemd --config front/agent.toml --user root --root root",
    "agent witness list --config front/agent.toml",
    "audit about",
    "audit show",
    "ca allow root web1 --dns a.example",
    "ca allowed root",
    "ca crl root",
    "ca disallow root web1",
    "ca issue root www --dns a.example",
    "ca list",
    "ca list root",
    "ca renew root 1f",
    "ca revoke root 1f",
    "ca show root",
    "cert export www",
    "cert import www chain.pem",
    "cert self-signed www --dns a.example",
    "client add web2 --key LINE",
    "client enroll web3",
    "client enroll bob --role operator",
    "client list",
    "client remove web1",
    "client rename web1 web9",
    "client revoked",
    "client role add web1 checker",
    "client role remove web1 checker",
    "client trust-user-ca LINE --client web1",
    "client distrust-user-ca LINE",
    "grant add web1 www",
    "grant explain web1 www tls13-server",
    "grant list",
    "grant remove web1 www",
    "init --softhsm --config new/hsmd.toml --profile new/operator.toml",
    "key candidates",
    "key csr www --dns a.example",
    "key destroy www --confirm www",
    "key generate other",
    "key list",
    "key rename www www2",
    "key reader list",
    "key show www",
    "status",
    "token clear main",
    "token stop main",
    "token list",
]
ELSEWHERE = {
    "agent check": "its findings with what to do are the result",
    "agent daemon add": "fields only; its next step is a hint",
    "agent daemon remove": "fields only; its next step is a hint",
    "agent deploy": "what it did is the result",
    "agent export": "writes files, and says where; its hint is a note",
    "agent rotate-key": "tests/integration/cli/test_rotate_key.py",
    "audit witness list": "a table only",
    "audit witness reset": "fields only",
    "ca init": "fields only, or a request; its next step is a hint",
    "ca link": "fields only; its next step is a hint",
    "client rotate-key": "tests/integration/cli/test_rotate_key.py",
    "host-key new": "tests/unit/cli/test_host_key.py",
    "host-key pin": "tests/unit/cli/test_host_key.py",
    "host-key switch": "tests/unit/cli/test_host_key.py",
    "host-key unpin": "tests/unit/cli/test_host_key.py",
    "agent run": "writes its log to standard error",
    "agent status": "its findings, with their fixes, are the result",
    "agent witness reset": "one line",
    "audit archive": "fields only",
    "audit checkpoint": "a signed note only",
    "audit discontinuity": "a signed note only",
    "audit export": "tests/integration/daemon: the document is verified as printed",
    "audit key": "a key only",
    "audit prove": "a proof only",
    "audit seal": "one line",
    "audit tail": "one line for each record",
    "audit verify": "its findings are the result",
    "audit verify-export": "its findings are the result",
    "backup": "fields only",
    "bench": "a table; progress is a note",
    "client revoke": "one line",
    "dev": "tests/integration/cli/test_dev.py reads the document",
    "enroll": "fields only",
    "events": "one line for each event; hints are notes",
    "key adopt": "as key show",
    "key import": "as key show; its hint is a note",
    "key owner add": "as key reader add",
    "key owner list": "as key reader list",
    "key owner remove": "as key reader remove",
    "key reader add": "one line",
    "key reader remove": "one line",
    "node anchor add": "fields, and a table",
    "node anchor retire": "fields, and a table",
    "node check": "a table only; its hint is a note",
    "node init": "fields; its next steps are hints: tests/integration/cli/test_node_document.py",
    "node install": "as agent install systemd",
    "node renew": "fields, and a table",
    "node run": "writes its log to standard error",
    "node status": "its problems are the result",
    "restore": "fields only; its next steps are hints",
    "rollover approve": "fields only; what is approved and the question are on standard error",
    "rollover plan": "fields and tables; its notes are on standard error",
    "rollover show": "as rollover plan",
    "serve": "writes its log to standard error",
    "statement endorse": "a signed note only",
    "key replace": "tests/integration/cli/test_key_replace.py reads its request; what follows are notes",
    "statement keys": "a table; hints are notes",
    "statement verify": "its findings are the result",
    "systemd install": "fields only; its next steps are hints",
    "systemd remove": "paths only; its next step is a hint",
    "top": "a screen",
    "vault allow": "one line",
    "vault allowed": "a table only",
    "vault authorized-keys": "a line for the SSH server",
    "vault check": "the verdict is the result",
    "vault checks": "a table only",
    "vault confirm": "one line; its next step is a hint",
    "vault destroy": "fields only; its next step is a hint",
    "vault disallow": "one line",
    "vault events": "one line for each event",
    "vault generate": "fields only; its next step is a hint",
    "vault get": "fields only",
    "vault keygen": "fields only; its next step is a hint",
    "vault keys": "a table only",
    "vault limits": "fields only; its next step is a hint",
    "vault list": "a table only",
    "vault put": "fields only; its next step is a hint",
    "vault register": "fields only; its next step is a hint",
    "vault rekey": "fields and a table; its hints are notes",
    "vault resume": "one line",
    "vault revoke": "fields only; its next step is a hint",
    "vault run": "its output is that of the program",
    "vault show": "a table only",
    "vault suspend": "one line",
    "vault wrapping-key": "a key only",
}
HINT = re.compile(
    r"(?im)^\s*(next|then|see|hint|note|try|manage it|stop it|within)\b.*|\bhsmd [a-z]+ [a-z-]+|`|\brun:"
)


@pytest.fixture
def answering(daemon: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon in memory, which also answers what it otherwise does not know, with lists that are empty."""
    done, ready = messages.Done(True), "ready"
    answers: dict[str, Any] = {
        "client_enroll": messages.EnrolmentTicket(token="hsmd-enroll:v1:AAAA", address="a", expires_at=NOW),
        "client_revoked": messages.RevocationPage([], False),
        "key_candidates": messages.KeyCandidates.Result("main", []),
        "key_owner_list": messages.KeyOwnerList.Result([]),
        "token_list": messages.TokenList.Result([messages.TokenInfo("main", ready, "closed", "")]),
        "grant_explain": messages.Explanation(True, "granted"),
        **dict.fromkeys(
            ("client_rename", "key_rename", "client_distrust_ca", "token_clear", "token_stop"), done
        ),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(
            FakeControl, f"on_{name}", lambda self, request, answer=answer: answer, raising=False
        )


def test_every_command_is_tried_or_is_here_with_a_reason() -> None:
    tried = {path for path in COMMANDS for line in LINES if tuple(line.split()[: len(path)]) == path}
    assert {" ".join(path) for path in COMMANDS} - {" ".join(path) for path in tried} == set(ELSEWHERE)


@pytest.mark.parametrize("line", LINES)
def test_standard_output_has_no_hints(line: str, run: Run, home: Path, answering: None) -> None:
    (home / "chain.pem").write_text(PEM)
    if "front/agent.toml" in line and line != INIT:
        assert run(*(LINE if word == "LINE" else word for word in INIT.split())).code == 0
    for prepared in ("key generate www", "client add web1 --key LINE"):
        assert run(*(LINE if word == "LINE" else word for word in prepared.split())).code == 0
    run("cert", "import", "www", "chain.pem")
    run("grant", "add", "web1", "www")
    ran = run(*(LINE if word == "LINE" else word for word in line.split()))
    assert ran.code == 0, ran.err
    assert HINT.search(ran.out.replace("hsmd agent install", "")) is None, ran.out
    assert ran.out == "" or not ran.out.startswith("\n")


def test_the_hint_is_on_standard_error(run: Run, home: Path, answering: None) -> None:
    """Positive control: what the pattern finds is printed, but elsewhere."""
    for line in (INIT, "agent install openssl --socket /run/a.sock --root root", "client enroll web3"):
        ran = run(*(LINE if word == "LINE" else word for word in line.split()))
        assert HINT.search(ran.err), line


def test_a_redirected_token_is_the_token(run: Run, answering: None) -> None:
    assert re.fullmatch(r"\S+\n", run("client", "enroll", "web3").out)
