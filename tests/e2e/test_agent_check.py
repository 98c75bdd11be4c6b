"""`hsmd agent check` on a working front end, and on one with a single problem, which it must name."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.protocol.messages import GrantAdd, GrantRemove
from tests.support.agent_policy import policy
from tests.support.front_end import HOST, server_user
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.processes import hsmd, run
from tests.support.site import CLIENT, KEYS, Site

PROBLEMS_FOUND = 4
HANDSHAKES_WORK = 5
"""Exit code if there is a problem, and handshakes work nevertheless."""


def check(
    site: Site, key: str = "p256", *options: str | Path, openssl: Path | None = None
) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    done = run(
        hsmd(
            "agent",
            "check",
            key,
            "--config",
            site.agent.config,
            "--file",
            site.agent.keys / f"{key}.key",
            "--openssl",
            openssl or site.openssl,
            "--user",
            server_user(),
            *options,
            "--json",
        )
    )
    return done.returncode, json.loads(done.stdout)["findings"]


def the_problems(
    site: Site,
    key: str = "p256",
    *options: str | Path,
    openssl: Path | None = None,
    code: int = PROBLEMS_FOUND,
) -> list[dict[str, Any]]:
    """The problems found, each with its fix. All are of the severity that the exit code tells."""
    status, findings = check(site, key, *options, openssl=openssl)
    problems = [finding for finding in findings if not finding["ok"]]
    assert status == code and all(problem["mend"] for problem in problems)
    severity = "degraded" if code == HANDSHAKES_WORK else "failing"
    assert {problem["severity"] for problem in problems} == {severity}
    return problems


def test_a_working_front_end_has_no_problem(site: Site) -> None:
    status, findings = check(site)
    assert [finding for finding in findings if not finding["ok"]] == []
    assert status == 0
    assert {
        "socket",
        "permissions",
        "agent",
        "daemon",
        "grant",
        "local policy",
        "key reference",
        "certificate",
        "OpenSSL",
    } <= {finding["subject"] for finding in findings}


def test_a_certificate_for_another_key_is_found(site: Site) -> None:
    (problem,) = the_problems(site, "p256", "--certificate", site.agent.keys / "p384.pem")
    assert problem["subject"] == "certificate" and "is not for the key p256" in problem["text"]


def test_a_certificate_for_an_unknown_key_is_found(site: Site) -> None:
    other = site.directory / "other.pem"
    other.write_text(site.authority.issue(ec.generate_private_key(ec.SECP256R1()).public_key(), "p256.test"))
    (problem,) = the_problems(site, "p256", "--certificate", other)
    assert problem["subject"] == "certificate"


def test_there_is_no_grant(site: Site) -> None:
    site.daemon.ask(GrantRemove(CLIENT, "p521"))
    try:
        (problem,) = the_problems(site, "p521")
        assert problem["subject"] == "grant" and f"hsmd grant add {CLIENT} p521" in problem["mend"]
    finally:
        site.daemon.ask(GrantAdd(CLIENT, "p521", ["tls-server"]))
    wait_until(lambda: site.serves("p521.test"), "the grant is in force again")
    assert check(site, "p521")[0] == 0


def test_the_agent_is_down(site: Site) -> None:
    site.agent.stop()
    problems = the_problems(site)
    assert problems[0]["subject"] in ("socket", "agent") and "start" in problems[0]["mend"]
    assert {problem["subject"] for problem in problems} <= {"socket", "agent", "permissions"}


def test_the_daemon_is_away(site: Site) -> None:
    site.daemon.stop()
    (problem,) = the_problems(site)
    assert problem["subject"] == "daemon"


def test_the_user_is_not_allowed(site: Site) -> None:
    with policy(site, "[keys.p256]\nusers = []\n"):
        problems = the_problems(site)
    assert "local policy" in {problem["subject"] for problem in problems}


def test_providers_in_the_wrong_order_are_found(site: Site) -> None:
    text = site.openssl.read_text()
    wrong = site.directory / "wrong.cnf"
    order = "[default]\nopenssl_conf = i\n[i]\nproviders = p\n[p]\nhsmd = hsmd_self\ndefault = d\n[d]\nactivate = 1\n"
    wrong.write_text(order + text[text.index("[hsmd_self]") :])
    problems = the_problems(site, openssl=wrong)
    assert {problem["subject"] for problem in problems} == {"OpenSSL"}
    assert "list `default` before `hsmd`" in problems[0]["mend"]


def test_a_provider_that_is_not_loaded_is_found(site: Site) -> None:
    without = site.directory / "without.cnf"
    without.write_text("")
    problems = the_problems(site, openssl=without)
    assert {problem["subject"] for problem in problems} == {"OpenSSL"}
    assert "does not load the provider" in problems[0]["text"]


def test_without_a_key_every_exported_key_is_tried_with_handshakes(site: Site) -> None:
    status, findings = check_all(site)
    assert status == 0, findings
    tried = {finding["text"] for finding in findings if finding["subject"] == "handshake"}
    user = server_user()
    assert f"p256: TLS 1.3, TLS 1.2 as {user}" in tried
    assert f"rsakx: TLS 1.2 with RSA key exchange as {user}" in tried
    exported = {path.stem for path in (site.agent.config.parent / "keys").glob("*.key")}
    assert {text.partition(":")[0] for text in tried} == exported >= set(site.keys)


def test_a_token_that_is_away_is_found(site: Site) -> None:
    tokens = next(site.daemon.directory.rglob("token.object")).parents[1]
    away = tokens.with_name("away")
    tokens.rename(away)
    try:
        for pid in site.daemon.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not site.serves(), "handshakes fail")
        problems = [finding for finding in check(site)[1] if not finding["ok"]]
    finally:
        away.rename(tokens)
    assert {problem["subject"] for problem in problems} == {"handshake"}
    assert "hsmd status" in problems[0]["mend"]
    wait_until(site.serves, "the token serves again", 30)


def test_a_purpose_that_is_not_granted_is_found(site: Site) -> None:
    site.daemon.ask(GrantRemove(CLIENT, "p521"))
    site.daemon.ask(GrantAdd(CLIENT, "p521", ["tls13-server"]))
    try:
        wait_until(lambda: site.serves("p521.test"), "the grant is in force")
        (problem,) = the_problems(site, "p521")
        assert problem["subject"] == "handshake" and "TLS 1.2" in problem["text"]
        assert f"hsmd grant add {CLIENT} p521 --purpose tls12-server" in problem["mend"]
        assert check(site, "p521", "--purpose", "tls13-server")[0] == 0
    finally:
        site.daemon.ask(GrantAdd(CLIENT, "p521", ["tls-server"]))


def test_a_newer_certificate_of_the_daemon_is_noticed(site: Site) -> None:
    plan = next(plan for plan in KEYS if plan.name == "p384")
    site.certify(site.keys["p384"], plan)
    (problem,) = the_problems(site, "p384", code=HANDSHAKES_WORK)
    assert problem["subject"] == "certificate" and "the daemon holds another chain" in problem["text"]
    assert "hsmd agent export p384" in problem["mend"]
    site.agent.export("p384")
    assert check(site, "p384")[0] == 0


def test_an_agent_names_each_daemon_that_it_is_not_connected_to(site: Site) -> None:
    address = f"{HOST}:{free_port(HOST)}"
    before = site.agent.config.read_text()
    host_keys = next(line for line in before.splitlines() if line.startswith("host_keys"))
    site.agent.config.write_text(f'{before}\n[[daemon]]\naddress = "{address}"\n{host_keys}\n')
    site.agent.reload()
    try:
        wait_until(lambda: check(site)[0] != 0, "the second daemon is known")
        (problem,) = the_problems(site, code=HANDSHAKES_WORK)
        assert problem["subject"] == "daemon" and f"not connected to {address}" in problem["text"]
    finally:
        site.agent.config.write_text(before)
        site.agent.reload()
        wait_until(lambda: check(site)[0] == 0, "there is one daemon again")


def check_all(site: Site) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings for every exported key."""
    options = ("--config", site.agent.config, "--openssl", site.openssl, "--user", server_user(), "--json")
    done = run(hsmd("agent", "check", *options))
    return done.returncode, json.loads(done.stdout)["findings"]


def test_the_suites_that_an_rsa_key_cannot_serve_are_named(site: Site) -> None:
    for key, text in (("rsa", "!kRSA:!DHE"), ("rsakx", "offer RSA key exchange (kRSA)")):
        status, findings = check(site, key)
        assert status == 0
        assert [text in finding["text"] for finding in findings if finding["subject"] == "cipher suites"] == [
            True
        ]
