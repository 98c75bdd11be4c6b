"""A hostile node against a real daemon: it gets its own names for its own keys, a bounded number of times."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.errors import BadRequest, Conflict, ErrorCode, HsmdError, NotFound, Overloaded, Refused
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, decode_error
from tests.support.daemon import WEB, Daemon, run_aside, running_daemon
from tests.support.nodes import add_node, node_key, node_request
from tests.support.polling import wait_until
from tests.support.ssh_peer import ssh, wire

pytestmark = pytest.mark.timeout(120)
Ask = Callable[..., Any]
NONE = "there is none of this name that issues certificates to this client"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An authority `issues` that certifies example.com; nodes `eve`, `victim` and `flood`; an authority `other` for the victim alone."""
    with running_daemon(tmp_path_factory.mktemp("nodes") / "daemon") as built:
        for name in ("issues", "other"):
            limits = messages.AuthorityLimits(["server", "client"], ["example.com"])
            built.ask(messages.CaInit(name, f"Example {name}", limits))
        for client in ("eve", "victim", "flood"):
            add_node(built, client)
            built.ask(
                messages.CaAllow(
                    "issues", client, "server", dns_names=[f"{client}.example.com"], term_s=3_600
                )
            )
        built.ask(messages.CaAllow("other", "victim", "server", dns_names=["victim.example.com"]))
        built.ask(messages.KeyGenerate("site", "p-256", ["tls-server"]))
        yield built


def wanted(authority: str = "issues", request: str = "") -> messages.NodeCertificate:
    return messages.NodeCertificate(authority, request or node_request(node_key()))


def issued(daemon: Daemon) -> list[messages.IssuedInfo]:
    found: list[messages.IssuedInfo] = daemon.ask(messages.CaCertificates("issues", limit=500)).certificates
    return found


def test_names_and_extensions_of_the_request_do_not_count(daemon: Daemon) -> None:
    key = node_key()
    greedy = node_request(
        key,
        x509.SubjectAlternativeName([x509.DNSName("victim.example.com"), x509.DNSName("example.net")]),
        x509.BasicConstraints(True, 5),
        x509.KeyUsage(*[True] + [False] * 4, True, True, False, False),
        x509.ExtendedKeyUsage(
            [x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2"), x509.ObjectIdentifier("2.5.29.37.0")]
        ),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.51483.2.1"), b"\x05\x00"),
        common_name="victim.example.com",
    )
    chain = x509.load_pem_x509_certificates(daemon.ask(wanted(request=greedy), client="eve").chain.encode())
    leaf, found = chain[0], chain[0].extensions
    assert leaf.public_key() == key.public_key() and not leaf.subject.rdns
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [each.value for each in names] == ["eve.example.com"]
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign and not usage.crl_sign
    uses = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert {each.oid.dotted_string for each in found} & {"1.3.6.1.4.1.51483.2.1"} == set()
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == dt.timedelta(hours=1)


def test_other_authorities_and_none_are_the_same_error(daemon: Daemon) -> None:
    """So nothing tells which authorities there are, or that another client may ask them."""
    texts = set()
    for name in ("other", "nothing", "site", "issues-next"):
        for request in (wanted(name), messages.NodeTrust(name)):
            with pytest.raises(NotFound, match=NONE) as caught:
                daemon.ask(request, client="eve")
            texts.add(caught.value.text)
    assert len(texts) == 1
    about = daemon.ask(messages.AuditAbout(0, 500), client="eve")
    digests = {daemon.ask(messages.KeyShow(name)).digest for name in ("other", "site")}
    mine = [line for line in about.lines if '"node.' in line]
    assert len(mine) >= 4
    assert [line for line in mine if any(digest in line for digest in digests)] == []
    assert daemon.ask(wanted("other"), client="victim").chain


def test_other_roles_ask_nothing(daemon: Daemon) -> None:
    for client in (WEB, "operator", "auditor"):
        for request in (wanted(), messages.NodeTrust("issues")):
            with pytest.raises(Refused):
                daemon.ask(request, client=client)
    for operators in (
        messages.CaAllow("other", "eve", "server"),
        messages.CaAllowed("issues"),
        messages.CaIssue("issues", "server"),
    ):
        with pytest.raises(Refused):
            daemon.ask(operators, client="eve")


@pytest.mark.parametrize("what", ["served", "authority", "forged", "small", "garbage", "none"])
def test_keys_that_are_not_the_nodes_own_are_refused(daemon: Daemon, what: str) -> None:
    before = issued(daemon)
    if what == "served":
        request = daemon.ask(messages.KeyRequest("site", dns_names=["eve.example.com"])).pem
    elif what == "authority":
        limits = messages.AuthorityLimits(["server"], ["example.com"])
        request = daemon.ask(messages.CaInit("asks", "Example asks", limits, outside=True)).request
    elif what == "forged":
        request = _forged()
    elif what == "small":
        request = node_request(rsa.generate_private_key(65_537, 1024))
    else:
        request = {"garbage": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "none": " "}[what]
    with pytest.raises(BadRequest, match="request: "):
        daemon.ask(wanted(request=request), client="eve")
    assert issued(daemon) == before


def _forged() -> str:
    """A request with the signature of another one."""
    one, two = (
        x509.load_pem_x509_csr(node_request(node_key()).encode()).public_bytes(Encoding.DER) for _ in range(2)
    )
    first, second = (x509.load_der_x509_csr(each) for each in (one, two))
    forged = one.replace(first.tbs_certrequest_bytes, second.tbs_certrequest_bytes)
    return x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM).decode()


async def test_one_request_of_a_node_is_under_way_at_a_time(daemon: Daemon) -> None:
    """Over all its connections to this daemon."""
    async with await ssh(daemon, "eve") as first, await ssh(daemon, "eve") as second:
        channels = await wire(first), await wire(second)
        asked = [channel.control(number, wanted()) for number in range(1, 5) for channel in channels]
        answers = await asyncio.gather(*asked)
    errors = [decode_error(body) for kind, body in answers if kind == Kind.ERROR]
    assert errors and {error.code for error in errors} == {ErrorCode.OVERLOADED}
    assert 1 <= len(answers) - len(errors) <= 4
    assert all(error.retry_after_ms for error in errors)


def test_a_flood_ends_at_the_limit_and_leaves_others_theirs(daemon: Daemon) -> None:
    """Twenty at most have not ended, whichever way they are asked for, and one request is under way at a time."""

    async def flood() -> list[Any]:
        async with daemon.connection("flood") as one, daemon.connection("flood") as two:
            asked = [each.control(wanted(), timeout_s=60) for each in (one, two) for _ in range(12)]
            return await asyncio.gather(*asked, return_exceptions=True)

    assert {type(each) for each in run_aside(flood)} <= {messages.NodeDocuments, Conflict, Overloaded}
    with contextlib.suppress(Conflict):
        while True:
            daemon.ask(wanted(), client="flood")
    mine = [each for each in issued(daemon) if each.client == "flood"]
    assert len(mine) == 20
    with pytest.raises(
        Conflict, match=r"has 20 certificates .* the next one ends at \d{4}-\d\d-\d\d"
    ) as caught:
        daemon.ask(wanted(), client="flood")
    assert f"{min(each.not_after for each in mine):%H:%M:%S}" in caught.value.text
    daemon.ask(messages.CaDisallow("issues", "flood"))
    daemon.ask(messages.CaAllow("issues", "flood", "client", dns_names=["flood.example.com"], term_s=60))
    with pytest.raises(Conflict, match="has 20 certificates"):
        daemon.ask(wanted(), client="flood")
    assert daemon.ask(wanted(), client="victim").chain


def test_what_was_not_signed_does_not_count(daemon: Daemon) -> None:
    """A token that is away must not keep a node from its certificate afterwards."""
    before = [each for each in issued(daemon) if each.client == "victim"]
    stopped = daemon.signing_pids()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(HsmdError):
            daemon.ask(wanted(), client="victim", timeout_s=0.5)
        wait_until(lambda: len(daemon.audit("control.failed")) > 0, "the end of the request")
        wait_until(
            lambda: [each for each in issued(daemon) if each.client == "victim"] == before,
            "the note's removal",
        )
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    daemon.wait_for_workers()
    assert daemon.ask(wanted(), client="victim").chain
