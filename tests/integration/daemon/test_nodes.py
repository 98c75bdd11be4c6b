"""Nodes of a complete daemon: what operators let them have, and what they get."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.daemon.store import Store
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound
from hsmd.protocol import messages
from tests.support.daemon import AUDITOR, WEB, Daemon, running_daemon
from tests.support.nodes import add_node, node_key, node_request
from tests.support.polling import wait_until

pytestmark = pytest.mark.timeout(120)
Ask = Callable[..., Any]
HOUR, DAY = 3_600, 86_400


@pytest.fixture(scope="module")
def ask(shared_daemon: Daemon) -> Ask:
    """Authorities `node-root`, and `node-issuing` below it; a node `ann` that gets certificates of the second."""
    ask = shared_daemon.ask
    for name, below in (("node-root", 2), ("node-issuing", 1)):
        limits = messages.AuthorityLimits(
            ["server", "client"], ["example.com"], ["192.0.2.0/24"], ["example.com"], ["secret.example.com"],
            common_names=["alice"], path_length=below, leaf_s=30 * DAY, authority_s=(900 + below) * DAY,
        )  # fmt: skip
        ask(messages.CaInit(name, f"Example {name}", limits, lists_at=["http://ca.example.com/1.crl"]))
    ask(messages.CaIssue("node-root", "issuing", key="node-issuing"))
    add_node(shared_daemon, "ann")
    assert ask(allow()).changed
    return ask


def allow(client: str = "ann", authority: str = "node-issuing", **changes: Any) -> messages.CaAllow:
    members = {
        "profile": "server", "dns_names": ["WWW.example.com", "*.shop.example.com"], "ip_addresses": ["192.0.2.9"], "term_s": HOUR,
    } | changes  # fmt: skip
    return messages.CaAllow(authority, client, **members)


def have_lists(ask: Ask) -> None:
    """The daemon signs first lists by itself: not before that is over they stay as they are."""
    for name in ("node-root", "node-issuing"):
        wait_until(lambda name=name: ask(messages.CaShow(name)).revocation_list, f"a list of {name}")  # type: ignore[misc]


def refused(ask: Ask, error: type[HsmdError], request: messages.Request, about: str, **more: Any) -> None:
    with pytest.raises(error) as caught:
        ask(request, **more)
    assert about in caught.value.text


def certificates(chain: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain.encode())


# --- permits ---


def test_a_permit_is_listed_in_the_form_of_certificates(shared_daemon: Daemon, ask: Ask) -> None:
    assert not ask(allow()).changed
    for client in (None, AUDITOR):
        page = ask(messages.CaAllowed("node-issuing"), **({"client": client} if client else {}))
        (found,) = [each for each in page.permits if each.client == "ann"]
        assert (found.profile, found.term_s) == ("server", HOUR)
        assert (found.dns_names, found.ip_addresses) == (
            ["www.example.com", "*.shop.example.com"],
            ["192.0.2.9"],
        )
    begun = [each for each in shared_daemon.audit("control.begun") if each["fields"].get("op") == "ca.allow"][
        -1
    ]
    fields = begun["fields"]
    assert (fields["target_authority"], fields["target_client"]) == ("node-issuing", "ann")
    assert fields["target_digest"] == ask(messages.KeyShow("node-issuing")).digest


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"profile": "issuing"}, "profile: choose one of server, client, server-client"),
        ({"profile": "server-client"}, "profile: node-issuing does not certify server-client; its ceiling has: client, server"),
        ({"term_s": 31 * DAY}, "term_s: node-issuing certifies for 30 days at most"),
        ({"dns_names": ["www.example.net"]}, "dns_names: the ceiling of node-issuing does not permit www.example.net"),
        ({"dns_names": ["a.secret.example.com"]}, "does not permit a.secret.example.com"),
        ({"dns_names": ["a_b.example.com"]}, "dns_names: "),
        ({"ip_addresses": ["198.51.100.1"]}, "ip_addresses: the ceiling"),
        ({"ip_addresses": ["192.0.2.0/24"]}, "ip_addresses: "),
        ({"emails": ["a@example.net"]}, "emails: the ceiling"),
        ({"emails": ["a"]}, "emails: "),
        ({"common_name": "bob"}, "common_name: the ceiling of node-issuing does not permit 'bob'"),
        ({"common_name": "a\tb"}, "common_name: only printable"),
        ({"dns_names": [], "ip_addresses": []}, "dns_names: a server's certificate has"),
        ({"dns_names": [], "ip_addresses": [], "profile": "client"}, "dns_names: give at least one name"),
        ({"client": WEB}, f"hsmd client role add {WEB} node"),
    ],
)  # fmt: skip
def test_what_the_ceiling_does_not_permit_is_refused_at_once(
    ask: Ask, changes: dict[str, Any], about: str
) -> None:
    refused(ask, BadRequest, allow(**changes), about)


def test_unknown_names_are_refused_to_operators(ask: Ask) -> None:
    refused(ask, NotFound, allow("unknown"), "unknown")
    refused(ask, NotFound, allow(authority="web"), "not the key of an authority")
    refused(ask, NotFound, messages.CaDisallow("node-issuing", "unknown"), "unknown")
    refused(ask, NotFound, messages.CaAllowed("unknown"), "unknown")


# --- certificates ---


def test_a_node_gets_what_it_is_allowed(shared_daemon: Daemon, ask: Ask) -> None:
    key = node_key()
    wanted = messages.NodeCertificate("node-issuing", node_request(key))
    found = ask(wanted, client="ann")
    leaf, issuing = certificates(found.chain)
    assert leaf.public_key() == key.public_key()
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (found.not_before, found.not_after)
    assert found.not_after - found.not_before == timedelta(hours=1)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == ["www.example.com", "*.shop.example.com", "192.0.2.9"]
    (root,) = certificates(ask(messages.NodeTrust("node-issuing"), client="ann").anchors)
    assert leaf.issuer == issuing.subject and issuing.issuer == root.subject
    (row,) = [
        each
        for each in ask(messages.CaCertificates("node-issuing", limit=500)).certificates
        if int(each.serial, 16) == leaf.serial_number
    ]
    assert (row.client, row.key, row.profile) == ("ann", "", "server")
    used = [each for each in shared_daemon.audit("attempt") if each.get("client") == "ann"]
    assert used[-1]["purpose"] == "x509-authority"
    begun, done = (
        [each for each in shared_daemon.audit(event) if each["fields"].get("op") == "node.certificate"][-1]
        for event in ("control.begun", "control.done")
    )
    assert begun["client"] == done["client"] == "ann"
    fields = begun["fields"]
    assert "target_request" not in fields and len(fields["target_request_sha256"]) == 64
    (permit,) = [each for each in ask(messages.CaAllowed("node-issuing")).permits if each.client == "ann"]
    assert permit.certificates >= 1 and permit.last_ends is not None


def test_a_permit_without_a_term_gives_the_longest(shared_daemon: Daemon, ask: Ask) -> None:
    add_node(shared_daemon, "longest", "node", "front-end")
    permit = {"profile": "client", "common_name": "alice", "dns_names": [], "ip_addresses": [], "term_s": 0}
    ask(allow("longest", **permit, emails=["alice@Example.com"]))
    found = ask(messages.NodeCertificate("node-issuing", node_request(node_key())), client="longest")
    assert found.not_after - found.not_before == timedelta(days=30)
    leaf = certificates(found.chain)[0]
    assert leaf.subject.rfc4514_string() == "CN=alice"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [each.value for each in names] == ["alice@example.com"]


def test_a_permit_that_is_taken_away_counts_at_once(shared_daemon: Daemon, ask: Ask) -> None:
    add_node(shared_daemon, "gone")
    wanted = messages.NodeCertificate("node-issuing", node_request(node_key()))
    ask(allow("gone"))
    ask(wanted, client="gone")
    assert ask(messages.CaDisallow("node-issuing", "gone")).changed
    assert not ask(messages.CaDisallow("node-issuing", "gone")).changed
    refused(ask, NotFound, wanted, "authority: there is none", client="gone")
    refused(ask, NotFound, messages.NodeTrust("node-issuing"), "authority: there is none", client="gone")


# --- trust ---


def test_a_node_gets_the_root_and_the_lists_up_to_it(ask: Ask) -> None:
    have_lists(ask)
    found = ask(messages.NodeTrust("node-issuing"), client="ann")
    shown = [ask(messages.CaShow(name)) for name in ("node-issuing", "node-root")]
    assert found.anchors == shown[1].chain
    assert found.revocation_lists == "".join(each.revocation_list for each in shown)
    renewed = ask(messages.CaRenew("node-root", term_s=899 * DAY)).chain
    assert ask(messages.NodeTrust("node-issuing"), client="ann").anchors == renewed


def test_an_authority_two_below_the_root_has_its_anchor(shared_daemon: Daemon, ask: Ask) -> None:
    """Its stored chain leaves out the root, which the daemon has."""
    limits = messages.AuthorityLimits(
        ["server"], ["example.com"], excluded_dns=["secret.example.com"], path_length=0, leaf_s=DAY, authority_s=DAY
    )  # fmt: skip
    ask(messages.CaInit("node-lowest", "Example lowest", limits))
    refused(ask, NotFound, messages.NodeTrust("node-lowest"), "authority: there is none", client="ann")
    ask(messages.CaIssue("node-issuing", "issuing", key="node-lowest"))
    ask(messages.CaAllow("node-lowest", "ann", "server", dns_names=["example.com"]))
    have_lists(ask)
    assert len(certificates(ask(messages.CaShow("node-lowest")).chain)) == 2
    found = ask(messages.NodeTrust("node-lowest"), client="ann")
    assert found.anchors == ask(messages.CaShow("node-root")).chain
    assert found.revocation_lists.count("BEGIN X509 CRL") == 2, "it has signed none itself"


def test_an_authority_below_an_outside_one(shared_daemon: Daemon, ask: Ask) -> None:
    limits = messages.AuthorityLimits(["server"], ["example.com"])
    made = ask(messages.CaInit("node-outside", "Example outside", limits, outside=True))
    ask(messages.CaAllow("node-outside", "ann", "server", dns_names=["example.com"]))
    trust, wanted = messages.NodeTrust("node-outside"), node_request(node_key())
    refused(ask, Conflict, trust, "does not end in a self-signed certificate", client="ann")
    refused(
        ask, Conflict, messages.NodeCertificate("node-outside", wanted), "no certificate yet", client="ann"
    )
    csr = x509.load_pem_x509_csr(made.request.encode())
    above, now = node_key(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Above")])

    def certified(subject: x509.Name, key: Any) -> str:
        builder = x509.CertificateBuilder(
            name, subject, key, 77, now - timedelta(days=1), now + timedelta(days=30)
        ).add_extension(x509.BasicConstraints(True, None), True)
        return builder.sign(above, SHA256()).public_bytes(Encoding.PEM).decode()

    own, top = certified(csr.subject, csr.public_key()), certified(name, above.public_key())
    ask(messages.CaRenew("node-outside", chain=own + top))
    found = ask(trust, client="ann")
    assert (found.anchors, found.revocation_lists) == (top, "")
    assert certificates(ask(messages.NodeCertificate("node-outside", wanted), client="ann").chain)


def test_a_node_needs_no_certificate_of_a_kind_that_hsmd_does_not_know(ask: Ask) -> None:
    wanted = messages.NodeCertificate("node-issuing", node_request(ec.generate_private_key(ec.SECP256K1())))
    refused(ask, BadRequest, wanted, "request: its key is of a type that is not certified", client="ann")


# --- revocation lists ---


def test_the_daemon_keeps_lists_up_to_date(open_daemon: Callable[..., Daemon]) -> None:
    """The first one comes by itself, and the next one before that has ended; in the record they are the daemon's own."""
    daemon = open_daemon()
    limits = messages.AuthorityLimits(["server"], ["example.com"])
    daemon.ask(messages.CaInit("lists", "Example lists", limits, lists_at=["http://a/1.crl"], list_s=HOUR))
    daemon.ask(messages.CaInit("none", "Example none", limits))
    shown = lambda name: daemon.ask(messages.CaShow(name)).authority  # noqa: E731
    wait_until(lambda: shown("lists").list_number and shown("lists").list_ends, "the first list")
    first = shown("lists").list_number
    soon = datetime.now(UTC) + timedelta(minutes=19)
    store = Store(daemon.store_url)
    store.change(lambda tx: tx.authorities.set_list("lists", first, b"", soon), versioned=False)
    store.close()
    daemon.ask(messages.CaRenew("lists"))  # a certificate that is stored has the keeper look
    wait_until(lambda: shown("lists").list_ends > soon, "the next list")
    assert (shown("lists").list_number > first, shown("none").list_number) == (True, 0)
    wait_until(lambda: daemon.ask(messages.Status()).first_list_ends, "the state of the lists")
    found = daemon.ask(messages.Status()).first_list_ends
    assert [(each.authority, each.state) for each in found] == [("lists", "valid")]
    begun = [each for each in daemon.audit("control.begun") if each["fields"].get("op") == "ca.crl"]
    assert [each.get("client", "") for each in begun] == ["", ""]
    assert daemon.ask(messages.HealthRead()).level == "well"


def test_one_of_two_daemons_signs_a_list(open_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Both share store and token; either tells how the list stands."""
    one = open_daemon()
    limits = messages.AuthorityLimits(["server"], ["example.com"])
    with running_daemon(tmp_path / "second", beside=one, name="second") as two:
        for number in range(3):
            lists_at = ["http://a/1.crl"]
            one.ask(messages.CaInit(f"ca-{number}", f"Example {number}", limits, lists_at=lists_at))
        for each in (one, two):
            wait_until(
                lambda each=each: (
                    [end.state for end in each.ask(messages.Status()).first_list_ends] == ["valid"] * 3
                ),  # type: ignore[misc]
                "the state of the lists",
            )
        assert all(each.list_number for each in two.ask(messages.CaList()).authorities)
        signed = [
            record
            for each in (one, two)
            for record in each.audit("control.done")
            if record["fields"].get("op") == "ca.crl"
        ]
        assert len(signed) == 3
