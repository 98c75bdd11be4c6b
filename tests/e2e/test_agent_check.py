"""`hsmd agent check` on a working front end, and on one with a single problem, which it must name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.protocol.messages import GrantAdd, GrantRemove
from tests.support.agent_policy import policy
from tests.support.front_end import server_user
from tests.support.polling import wait_until
from tests.support.processes import hsmd, run
from tests.support.site import CLIENT, Site

PROBLEMS_FOUND = 4


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
    site: Site, key: str = "p256", *options: str | Path, openssl: Path | None = None
) -> list[dict[str, Any]]:
    """The problems found, each with its fix."""
    status, findings = check(site, key, *options, openssl=openssl)
    problems = [finding for finding in findings if not finding["ok"]]
    assert status == PROBLEMS_FOUND and all(problem["mend"] for problem in problems)
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
    wrong.write_text(
        text.replace(
            "default = hsmd_default\nhsmd = hsmd_self\n", "hsmd = hsmd_self\ndefault = hsmd_default\n"
        )
    )
    assert wrong.read_text() != text
    problems = the_problems(site, openssl=wrong)
    assert {problem["subject"] for problem in problems} == {"OpenSSL"}
    assert "list `default` before `hsmd`" in problems[0]["mend"]


def test_a_provider_that_is_not_loaded_is_found(site: Site) -> None:
    without = site.directory / "without.cnf"
    without.write_text("")
    problems = the_problems(site, openssl=without)
    assert {problem["subject"] for problem in problems} == {"OpenSSL"}
    assert "does not load the provider" in problems[0]["text"]
