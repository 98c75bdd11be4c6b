"""A certificate authority with a key in SoftHSM, through a complete daemon: what it issues, and who accepts it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound, PurposeMismatch
from hsmd.pkcs11.softhsm import make_token
from hsmd.protocol import messages
from tests.support.daemon import AUDITOR, WEB, Daemon, running_daemon
from tests.support.polling import wait_until
from tests.support.processes import program

pytestmark = pytest.mark.timeout(120)
Ask = Callable[..., Any]
DAY = 86_400
SOON = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture(scope="module")
def ask(shared_daemon: Daemon) -> Ask:
    """Two authorities: `root`, and `issuing` below it, which certifies example.com; and keys `site` and `decrypts`."""
    ask = shared_daemon.ask
    ask(root("root", path_length=2))
    ask(root("issuing", common_name="Example issuing 1", path_length=1, authority_s=1_000 * DAY))
    ask(messages.CaIssue("root", "issuing", key="issuing"))
    ask(messages.KeyGenerate("site", "p-256", ["tls-server"]))
    ask(messages.KeyGenerate("decrypts", "rsa-2048", ["tls12-rsa-premaster"]))
    return ask


OF_REQUEST = {"adopt", "common_name", "key_type", "token", "lists_at", "list_s", "next_token", "outside"}


def root(name: str, **changes: Any) -> messages.CaInit:
    """A request for an authority; members of it and of its limits can be changed."""
    members: dict[str, Any] = {
        "common_name": f"Example {name} 1",
        "profiles": ["server", "client"],
        "permitted_dns": ["example.com"],
        "permitted_ip": ["192.0.2.0/24"],
        "common_names": ["alice"],
        "lists_at": ["http://ca.example.com/1.crl"],
    } | changes
    limits = {name: value for name, value in members.items() if name not in OF_REQUEST}
    of_request = {name: value for name, value in members.items() if name in OF_REQUEST}
    return messages.CaInit(name, limits=messages.AuthorityLimits(**limits), **of_request)


def certificates(chain: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain.encode())


def refused(ask: Ask, error: type[HsmdError], request: messages.Request, about: str) -> None:
    with pytest.raises(error) as caught:
        ask(request)
    assert about in caught.value.text


def request_of(key: ec.EllipticCurvePrivateKey, *names: str) -> str:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


# --- what is issued ---


def test_a_root_commits_to_the_next_key_and_is_recorded(shared_daemon: Daemon, ask: Ask) -> None:
    made = ask(root("committing", path_length=1))
    (own,) = certificates(made.chain)
    assert own.subject == own.issuer
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).critical
    hashed = own.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.51483.2.1")).value
    assert hashed.value[-32:].hex() == made.authority.next_key
    assert made.authority.next_token == shared_daemon.ask(messages.KeyShow("committing")).token
    candidates = ask(messages.KeyCandidates()).keys
    (reserve,) = [each for each in candidates if each.digest == made.authority.next_key]
    assert reserve.cka_label == "committing-next"
    assert ask(messages.CaShow("committing")).chain == made.chain
    records = [each for each in shared_daemon.audit("attempt") if each["purpose"] == "x509-authority"]
    assert any(each.get("client") for each in records)
    refused(ask, Conflict, root("committing"), "committing")
    assert len(ask(messages.KeyCandidates()).keys) == len(candidates)


def test_a_served_key_gets_its_chain(ask: Ask) -> None:
    wanted = messages.CaIssue("issuing", "server", key="site", dns_names=["www.example.com"])
    issued = ask(wanted)
    assert ask(messages.CertificateExport("site")).pem == issued.chain
    leaf, issuing = certificates(issued.chain)
    assert (issued.certificate.key, issued.certificate.names) == ("site", ["www.example.com"])
    assert f"{leaf.serial_number:x}" == issued.certificate.serial
    assert leaf.serial_number.bit_length() > 90
    assert leaf.issuer == issuing.subject
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.authority_cert_issuer is None
    own = issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == own.digest
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical and not leaf.subject.rdns
    again = ask(messages.CaRenew("issuing", issued.certificate.serial, term_s=3_600))
    renewed = certificates(again.chain)[0]
    assert renewed.public_key() == leaf.public_key()
    assert renewed.not_valid_after_utc - renewed.not_valid_before_utc == timedelta(hours=1)
    assert ask(messages.CertificateExport("site")).pem == again.chain


def test_a_key_that_decrypts_gets_the_usage_for_it(ask: Ask) -> None:
    issued = ask(messages.CaIssue("issuing", "server", key="decrypts", dns_names=["a.example.com"]))
    usage = certificates(issued.chain)[0].extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment and not usage.digital_signature


def test_a_request_is_certified_with_its_names_or_others(ask: Ask) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = request_of(key, "b.example.com")
    issued = ask(messages.CaIssue("issuing", "server", request=pem))
    assert issued.certificate.names == ["b.example.com"]
    served = ask(messages.KeyRequest("site", dns_names=["c.example.com"])).pem
    assert ask(messages.CaIssue("issuing", "server", request=served)).certificate.key == "site"
    client = ask(messages.CaIssue("issuing", "client", request=pem, common_name="alice"))
    assert (client.certificate.subject, client.certificate.names) == ("CN=alice", [])


def test_the_ceiling_refuses_and_leaves_no_row(shared_daemon: Daemon, ask: Ask) -> None:
    before = ask(messages.CaCertificates("issuing", limit=500)).certificates
    pem = request_of(ec.generate_private_key(ec.SECP256R1()), "www.example.net")
    refused(ask, PurposeMismatch, messages.CaIssue("issuing", "server", request=pem), "www.example.net")
    refused(
        ask, PurposeMismatch, messages.CaIssue("issuing", "server-client", key="site", dns_names=["x.example.com"]),
        "server-client",
    )  # fmt: skip
    assert ask(messages.CaCertificates("issuing", limit=500)).certificates == before
    refusals = [each for each in shared_daemon.audit("outcome") if each["result"] == "refused"]
    assert ["www.example.net" in each["error"] for each in refusals[-2:]] == [True, False]


@pytest.mark.parametrize(
    ("wanted", "error", "about"),
    [
        (messages.CaIssue("issuing", "server"), BadRequest, "key: give either"),
        (messages.CaIssue("issuing", "root", key="site"), BadRequest, "profile: choose"),
        (messages.CaIssue("issuing", "server", key="site"), BadRequest, "dns_names: give"),
        (messages.CaIssue("issuing", "server", request="x"), BadRequest, "request: is not"),
        (messages.CaIssue("issuing", "issuing", key="site"), NotFound, "site"),
        (messages.CaIssue("site", "server", key="site"), NotFound, "not the key of an authority"),
        (messages.CaRenew("issuing", "ff"), NotFound, "serial number"),
        (messages.CaRevoke("issuing", "ff"), NotFound, "serial number"),
        (messages.CaRevoke("issuing", "ff", "boredom"), BadRequest, "reason: choose"),
        (messages.CaRevoke("issuing", "0f", unknown_until=SOON), BadRequest, "serial: must be"),
        (messages.CaRevoke("issuing", "F0", unknown_until=SOON), BadRequest, "serial: must be"),
        (messages.CaRevoke("issuing", "f" * 41, unknown_until=SOON), BadRequest, "serial: must be"),
        (
            messages.CaRevoke("issuing", "f", unknown_until=SOON - 60 * timedelta(days=1)),
            BadRequest,
            "unknown_until: ",
        ),
        (root("x", permitted_ip=["192.0.2.1/24"]), BadRequest, "permitted: '192.0.2.1/24'"),
        (root("x", permitted_dns=["*.example.com"]), BadRequest, "'example.com'"),
        (root("x", common_name=""), BadRequest, "common_name: give"),
        (root("x", lists_at=["https://a"]), BadRequest, "lists_at: "),
        (root("x", permitted_dns=[], permitted_ip=[], common_names=[]), BadRequest, "permitted_dns: give"),
        (root("x", token="nothing"), BadRequest, "token: there is no token"),
    ],
)
def test_errors_name_the_member(
    ask: Ask, wanted: messages.Request, error: type[HsmdError], about: str
) -> None:
    refused(ask, error, wanted, about)


def test_lists_come_in_pages_and_auditors_read_them(shared_daemon: Daemon, ask: Ask) -> None:
    for name in ("d.example.com", "e.example.com"):
        csr = request_of(ec.generate_private_key(ec.SECP256R1()), name)
        ask(messages.CaIssue("issuing", "server", request=csr))
    everything = ask(messages.CaCertificates("issuing", limit=500)).certificates
    first = shared_daemon.ask(messages.CaCertificates("issuing", limit=1), client=AUDITOR)
    assert (first.certificates, first.more) == (everything[:1], True)
    second = ask(messages.CaCertificates("issuing", after=everything[0].number, limit=1))
    assert second.certificates == everything[1:2]
    page = shared_daemon.ask(messages.CaList(), client=AUDITOR)
    assert {"root", "issuing"} <= {each.name for each in page.authorities}


# --- revocation ---


def test_a_revoked_certificate_is_in_the_next_list(ask: Ask) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = ask(messages.CaIssue("issuing", "server", request=request_of(key, "c.example.com"))).certificate
    first = x509.load_pem_x509_crl(ask(messages.CaCrl("issuing")).pem.encode())
    done = ask(messages.CaRevoke("issuing", issued.serial, "key-compromise"))
    assert done.changed and not ask(messages.CaRevoke("issuing", issued.serial)).changed
    listed = x509.load_pem_x509_crl(done.revocation_list.encode())
    entry = listed.get_revoked_certificate_by_serial_number(int(issued.serial, 16))
    assert entry is not None
    assert (
        entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        is x509.ReasonFlags.key_compromise
    )
    numbers = [
        each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for each in (first, listed)
    ]
    assert numbers[0] < numbers[1]
    assert listed.next_update_utc is not None
    assert listed.next_update_utc - listed.last_update_utc == timedelta(days=7)
    assert ask(messages.CaShow("issuing")).authority.list_number > numbers[1]
    refused(ask, Conflict, messages.CaRenew("issuing", issued.serial), "is revoked")
    (row,) = [
        each
        for each in ask(messages.CaCertificates("issuing", revoked=True)).certificates
        if each.serial == issued.serial
    ]
    assert row.reason == "key-compromise" and row.revoked_at is not None


def test_what_was_issued_without_a_note_is_revoked_by_its_serial_number(ask: Ask) -> None:
    """By a front that was taken over, or after the copy of a database that was restored."""
    done = ask(messages.CaRevoke("issuing", "deadbeef", "key-compromise", unknown_until=SOON))
    assert done.changed
    assert not ask(messages.CaRevoke("issuing", "deadbeef", unknown_until=SOON)).changed
    listed = x509.load_pem_x509_crl(ask(messages.CaCrl("issuing")).pem.encode())
    assert listed.get_revoked_certificate_by_serial_number(0xDEADBEEF) is not None
    rows = ask(messages.CaCertificates("issuing", revoked=True, limit=500)).certificates
    (row,) = [each for each in rows if each.serial == "deadbeef"]
    assert (row.profile, row.key, row.signed) == ("unknown", "", False)
    known = ask(
        messages.CaIssue(
            "issuing", "server", request=request_of(ec.generate_private_key(ec.SECP256R1()), "e.example.com")
        )
    ).certificate
    assert ask(messages.CaRevoke("issuing", known.serial, unknown_until=SOON)).changed
    rows = ask(messages.CaCertificates("issuing", revoked=True, limit=500)).certificates
    assert [each.profile for each in rows if each.serial == known.serial] == ["server"]


def test_a_key_that_is_compromised_gets_no_certificate_again(ask: Ask) -> None:
    request = request_of(ec.generate_private_key(ec.SECP256R1()), "f.example.com")
    wanted = messages.CaIssue("issuing", "server", request=request)
    for reason in ("superseded", "key-compromise"):
        serial = ask(wanted).certificate.serial
        kept = ask(wanted).certificate.serial
        ask(messages.CaRevoke("issuing", serial, reason))
    refused(ask, Conflict, wanted, "because of a compromise")
    refused(ask, Conflict, messages.CaRenew("issuing", kept), "because of a compromise")


def test_after_a_restore_numbers_of_lists_go_on(tmp_path: Path) -> None:
    """Two lists with one number have to be the same (RFC 5280, section 5.2.3), and readers ignore an older one."""
    with running_daemon(tmp_path / "daemon") as daemon:
        daemon.ask(root("r"))
        daemon.ask(messages.CaCrl("r"))
        daemon.stop()
        files = [each for each in daemon.directory.glob("store.sqlite*") if each.is_file()]
        copies = {each.name: each.read_bytes() for each in files}
        daemon.start()
        before = [x509.load_pem_x509_crl(daemon.ask(messages.CaCrl("r")).pem.encode()) for _ in range(3)]
        daemon.stop()
        for each in daemon.directory.glob("store.sqlite*"):
            each.unlink()
        for name, content in copies.items():
            (daemon.directory / name).write_bytes(content)
        wait_until(lambda: time.time() > number_of(before[-1]), "the second of the last number")
        daemon.start()
        after = x509.load_pem_x509_crl(daemon.ask(messages.CaCrl("r")).pem.encode())
    assert number_of(after) > max(map(number_of, before))


def number_of(document: x509.CertificateRevocationList) -> int:
    return document.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_what_cannot_be_read_is_a_declared_error(shared_daemon: Daemon, ask: Ask, tmp_path: Path) -> None:
    """Names of kinds that the library does not know, and keys on curves that it does not have."""
    key = ec.generate_private_key(ec.SECP256R1())
    edi_party = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3004a5028000"))
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(edi_party, False)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + timedelta(days=9))
    texts = [
        each.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
        for each in (csr, certificate.add_extension(edi_party, False))
    ]
    made = tmp_path / "key.pem"
    curve = [
        "openssl",
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:sect571r1",
        "-out",
        str(made),
    ]
    subprocess.run(curve, check=True, capture_output=True, timeout=60)
    of_curve = subprocess.run(
        ["openssl", "req", "-new", "-key", str(made), "-subj", "/CN=a"],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    for wanted in (
        messages.CaIssue("issuing", "server", request=texts[0]),
        messages.CaIssue("issuing", "server", request=of_curve),
        messages.CaRenew("issuing", chain=texts[1]),
        messages.CertificateImport("site", texts[1]),
    ):
        with pytest.raises(BadRequest):
            ask(wanted)


# --- an authority that another one certifies ---


def test_an_outside_authority_issues_the_certificate(ask: Ask, tmp_path: Path) -> None:
    made = ask(root("outside", outside=True))
    assert made.chain == ""
    csr = x509.load_pem_x509_csr(made.request.encode())
    assert csr.is_signature_valid and csr.subject.rfc4514_string() == "CN=Example outside 1"
    wanted = messages.CaIssue("outside", "server", key="site", dns_names=["d.example.com"])
    refused(ask, Conflict, wanted, "hsmd ca renew outside --chain FILE")
    above = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Above")])
    now = datetime.now(UTC)

    def certified(subject: x509.Name, *, ca: bool) -> str:
        builder = x509.CertificateBuilder(
            name, subject, csr.public_key(), 77, now - timedelta(days=1), now + timedelta(days=30)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, 1 if ca else None), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier(b"\x05" * 20), False)
        return builder.sign(above, SHA256()).public_bytes(Encoding.PEM).decode()

    own = x509.CertificateBuilder(
        name, name, above.public_key(), 1, now - timedelta(days=1), now + timedelta(days=60)
    )
    top = (
        own.add_extension(x509.BasicConstraints(True, None), True)
        .sign(above, SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    refused(
        ask, BadRequest, messages.CaRenew("outside", chain=certified(csr.subject, ca=False) + top), "CA:true"
    )
    refused(
        ask, BadRequest, messages.CaRenew("outside", chain=certified(name, ca=True) + top), "another subject"
    )
    ask(messages.CaRenew("outside", chain=certified(csr.subject, ca=True) + top))
    issued = ask(wanted)
    leaf = certificates(issued.chain)[0]
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == b"\x05" * 20
    assert leaf.not_valid_after_utc <= now + timedelta(days=30)
    refused(ask, BadRequest, messages.CaRenew("outside"), "another authority has issued")


def test_a_key_of_the_token_is_adopted(shared_daemon: Daemon, ask: Ask) -> None:
    """The next key of an authority is one, and so is a key that other software has made."""
    made = ask(root("adopting"))
    adopted = ask(root("adopted", adopt=made.authority.next_key))
    assert adopted.authority.digest == made.authority.next_key
    assert ask(messages.KeyShow("adopted")).purposes == ["x509-authority"]
    (own,) = certificates(adopted.chain)
    assert own.subject.rfc4514_string() == "CN=Example adopted 1"
    refused(ask, Conflict, root("twice", adopt=made.authority.next_key), "")
    refused(ask, BadRequest, root("none", adopt="ff" * 32), "no such private key")


def test_its_own_certificate_is_renewed(ask: Ask) -> None:
    before = certificates(ask(messages.CaShow("root")).chain)[0]
    renewed = ask(messages.CaRenew("root", term_s=400 * DAY))
    own = certificates(renewed.chain)[0]
    assert own.public_key() == before.public_key() and own.serial_number != before.serial_number
    assert own.not_valid_after_utc - own.not_valid_before_utc == timedelta(days=400)


def test_the_next_key_is_made_in_another_token(open_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Whoever gets at the one token has only one of the two keys."""
    with_two = open_daemon(more_tokens={"other": make_token(tmp_path / "other", "other")})
    wait_until(
        lambda: all(token.state == "ready" for token in with_two.ask(messages.TokenList()).tokens),
        "both tokens",
    )
    refused(with_two.ask, BadRequest, root("none"), "token: the daemon has several tokens")
    made = with_two.ask(root("root", token="main"))
    assert made.authority.next_token == "other"
    in_other = with_two.ask(messages.KeyCandidates(token="other")).keys
    assert [each.digest for each in in_other] == [made.authority.next_key]
    assert with_two.ask(messages.KeyCandidates(token="main")).keys == []
    same = with_two.ask(root("same", token="main", next_token="main"))
    assert same.authority.next_token == "main"
    with pytest.raises(BadRequest, match="follows a reserve"):
        with_two.ask(root("x", token="other", adopt=made.authority.next_key, next_token="main"))
    second = with_two.ask(root("second", token="other", adopt=made.authority.next_key))
    assert (second.authority.digest, second.authority.next_token) == (made.authority.next_key, "other")
    above = with_two.ask(root("above", token="main", path_length=2))
    for name, next_token in (("apart", "other"), ("beside", "main")):
        with_two.ask(root(name, token="main", next_token=next_token))
    refused(with_two.ask, Conflict, messages.CaIssue("above", "issuing", key="apart"), "--next-token main")
    issued = with_two.ask(messages.CaIssue("above", "issuing", key="beside"))
    assert issued.chain.endswith(above.chain)


# --- verification by others ---


class Issued:
    """A root, a server's and a client's chain below it, and the lists of both authorities, in files."""

    def __init__(self, ask: Ask, directory: Path) -> None:
        self.directory = directory
        issue = messages.CaIssue(
            "issuing", "server", key="site", dns_names=["www.example.com"], ip_addresses=["192.0.2.9"]
        )
        leaf, issuing = certificates(ask(issue).chain)
        key = ec.generate_private_key(ec.SECP256R1())
        gone = ask(messages.CaIssue("issuing", "server", request=request_of(key, "gone.example.com")))
        wanted = request_of(key, "alice.example.com")
        # Java and others take a common name for a host if there is no alternative name, and meet name constraints with it.
        client = messages.CaIssue(
            "issuing", "client", request=wanted, common_name="alice", dns_names=["alice.example.com"]
        )
        alice = ask(client)
        ask(messages.CaRevoke("issuing", gone.certificate.serial, "superseded"))
        (top,) = certificates(ask(messages.CaShow("root")).chain)
        documents = {
            "root": top, "issuing": issuing, "leaf": leaf, "gone": certificates(gone.chain)[0],
            "client": certificates(alice.chain)[0],
        }  # fmt: skip
        for name, certificate in documents.items():
            (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        lists = [ask(messages.CaCrl(name)).pem for name in ("root", "issuing")]
        (directory / "lists.pem").write_text("".join(lists))
        (directory / "issuing-list.pem").write_text(lists[1])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program(command[0]), *command[1:]],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def issued(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Issued(ask, tmp_path_factory.mktemp("issued"))


def test_openssl_accepts_certificates_and_lists(issued: Issued) -> None:
    common = [
        "openssl", "verify", "-x509_strict", "-policy_check", "-crl_check_all", "-CAfile", "root.pem", "-CRLfile", "lists.pem",
        "-untrusted", "issuing.pem",
    ]  # fmt: skip
    for arguments in (
        ["-purpose", "sslserver", "-verify_hostname", "www.example.com", "leaf.pem"],
        ["-purpose", "sslserver", "-verify_ip", "192.0.2.9", "leaf.pem"],
        ["-purpose", "sslclient", "client.pem"],
    ):
        done = issued.run(*common, *arguments)
        assert done.returncode == 0, done.stderr
    for arguments in (["gone.pem"], ["-purpose", "sslclient", "leaf.pem"]):
        assert issued.run(*common, *arguments).returncode != 0


def test_gnutls_accepts_certificates_and_lists(issued: Issued) -> None:
    def verify(leaf: str, *more: str) -> subprocess.CompletedProcess[str]:
        chain = "".join((issued.directory / f"{name}.pem").read_text() for name in (leaf, "issuing"))
        (issued.directory / "chain.pem").write_text(chain)
        return issued.run(
            "certtool", "--verify", "--load-ca-certificate", "root.pem", "--infile", "chain.pem", *more
        )

    for leaf in ("leaf", "client"):
        done = verify(leaf)
        assert done.returncode == 0, done.stdout + done.stderr
    assert verify("leaf", "--verify-hostname", "www.example.com").returncode == 0
    assert verify("leaf", "--verify-hostname", "www.example.net").returncode != 0
    done = issued.run(
        "certtool", "--verify-crl", "--load-ca-certificate", "issuing.pem", "--infile", "issuing-list.pem"
    )
    assert done.returncode == 0, done.stdout + done.stderr


JAVA = """
import java.io.*; import java.security.*; import java.security.cert.*; import java.util.*;
public class Verify {
  public static void main(String[] names) throws Exception {
    CertificateFactory factory = CertificateFactory.getInstance("X.509");
    List<X509Certificate> chain = new ArrayList<>();
    for (String name : new String[] {names[0], "issuing.pem"})
      chain.add((X509Certificate) factory.generateCertificate(new FileInputStream(name)));
    X509Certificate root = (X509Certificate) factory.generateCertificate(new FileInputStream("root.pem"));
    PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
    Collection<Object> lists = new ArrayList<>(factory.generateCRLs(new FileInputStream("lists.pem")));
    parameters.addCertStore(CertStore.getInstance("Collection", new CollectionCertStoreParameters(lists)));
    parameters.setRevocationEnabled(true);
    CertPathValidator.getInstance("PKIX").validate(factory.generateCertPath(chain), parameters);
    System.out.println("valid");
  }
}
"""


def test_java_accepts_certificates_and_lists(issued: Issued) -> None:
    (issued.directory / "Verify.java").write_text(JAVA)
    for leaf in ("leaf", "client"):
        done = issued.run("java", "Verify.java", f"{leaf}.pem")
        assert "valid" in done.stdout, done.stdout + done.stderr
    gone = issued.run("java", "Verify.java", "gone.pem")
    assert gone.returncode != 0 and "valid" not in gone.stdout


def test_cryptography_accepts_certificates_and_lists(issued: Issued) -> None:
    load = {
        name: x509.load_pem_x509_certificate((issued.directory / f"{name}.pem").read_bytes())
        for name in ("root", "issuing", "leaf", "client")
    }
    policy = PolicyBuilder().store(Store([load["root"]]))
    chain = policy.build_server_verifier(x509.DNSName("www.example.com")).verify(
        load["leaf"], [load["issuing"]]
    )
    assert chain == [load["leaf"], load["issuing"], load["root"]]
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("www.example.net")).verify(load["leaf"], [load["issuing"]])
    listed = x509.load_pem_x509_crl((issued.directory / "issuing-list.pem").read_bytes())
    assert listed.is_signature_valid(load["issuing"].public_key())  # type: ignore[arg-type]


def test_names_outside_the_constraints_are_refused_by_verifiers_too(issued: Issued) -> None:
    """The certificate of the issuing authority repeats them, for those who do not trust its worker."""
    issuing = x509.load_pem_x509_certificate((issued.directory / "issuing.pem").read_bytes())
    names = issuing.extensions.get_extension_for_class(x509.NameConstraints)
    assert names.critical
    assert [
        each.value for each in names.value.permitted_subtrees or [] if isinstance(each, x509.DNSName)
    ] == ["example.com"]


def test_front_ends_make_no_such_request(shared_daemon: Daemon, ask: Ask) -> None:
    for request in (messages.CaList(), messages.CaShow("root"), messages.CaCrl("root")):
        with pytest.raises(HsmdError):
            shared_daemon.ask(request, client=WEB)
