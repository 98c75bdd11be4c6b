"""`hsmd key replace` with a real daemon and token: each step, what it refuses, and that repeating it does no harm."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd import cli
from hsmd.errors import Conflict
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.authority import Authority
from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, running_daemon

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_daemon(tmp_path_factory.mktemp("replace") / "daemon") as built:
        profile = {
            "daemon": built.notice["addresses"][0],
            "user": OPERATOR,
            "identity": str(built.directory / OPERATOR),
            "host_keys": [built.notice["host_key"]],
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in profile.items()]
        (built.directory / "operator.toml").write_text("\n".join(lines))
        yield built


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def hsmd(daemon: Daemon, *arguments: str, as_json: bool = True) -> tuple[int, Any, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        options = ["--profile", str(daemon.directory / "operator.toml"), *(["--json"] if as_json else [])]
        code = cli.run([*arguments, *options])
    return (
        code,
        json.loads(out.getvalue()) if as_json and out.getvalue() else out.getvalue(),
        errors.getvalue(),
    )


def done(daemon: Daemon, *arguments: str) -> Any:
    code, document, errors = hsmd(daemon, *arguments)
    assert code == 0, errors
    return document


def refused(daemon: Daemon, *arguments: str) -> str:
    code, document, _ = hsmd(daemon, *arguments)
    assert code != 0, document
    return f"{document['error']['text']} {document['error']['next']}"


def leaf_of(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(SHA256()).hex()


def report(daemon: Daemon, client: str, key: str, pem: str) -> None:
    daemon.ask(messages.CertificateReport([messages.ServedCertificate(key, leaf_of(pem))]), client=client)


def test_a_key_is_replaced(daemon: Daemon, authority: Authority, tmp_path: Path) -> None:
    root = authority.file.read_text()
    old = daemon.ask(messages.KeyGenerate("www", "p-256", ["tls13-server"]))
    chain = authority.issue(
        load_der_public_key(old.public_key), "www.test", "b.test", begun=timedelta(days=9)
    )
    daemon.ask(messages.CertificateImport("www", chain + root))
    daemon.ask(messages.GrantAdd(WEB, "www", ["tls13-server"]))
    daemon.ask(messages.GrantAdd(MAIL, "www", ["tls13-server"], max_uses=7))
    report(daemon, WEB, "www", chain)

    # the new key, made once however often one asks
    request = x509.load_pem_x509_csr(done(daemon, "key", "replace", "www")["pem"].encode())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["www.test", "b.test"]
    assert request.public_key() != load_der_public_key(old.public_key)
    again = x509.load_pem_x509_csr(done(daemon, "key", "replace", "www", "--dns", "c.test")["pem"].encode())
    assert again.public_key() == request.public_key()
    new = done(daemon, "key", "show", "www.next")
    assert (new["key_type"], new["purposes"]) == ("p-256", done(daemon, "key", "show", "www")["purposes"])
    assert "has not taken over the name www yet" in refused(daemon, "key", "replace", "www", "--finish")
    assert "is itself the new key" in refused(daemon, "key", "replace", "www.next", "--dns", "x.test")

    # the switch
    file = tmp_path / "chain.pem"
    file.write_text(chain + root)
    assert "no certificate of this key" in refused(
        daemon, "key", "replace", "www", "--certificate", str(file)
    )
    issued = authority.issue(request.public_key(), "www.test")
    file.write_text(issued)
    assert "is missing: append it" in refused(daemon, "key", "replace", "www", "--certificate", str(file))
    assert daemon.ask(messages.KeyShow("www")).digest == old.digest, "nothing has changed yet"
    file.write_text(issued + root)
    switched = done(daemon, "key", "replace", "www", "--certificate", str(file))
    kept = switched["other"]["name"]
    assert kept.startswith("www.replaced-20")
    assert switched["warnings"] == [
        "the certificate before was also for b.test",
        f"{MAIL} for tls13-server: 7 uses of the new key, as many as are left of the old one",
    ]
    assert switched == {
        **done(daemon, "key", "replace", "www", "--certificate", str(file)),
        "warnings": switched["warnings"],
    }
    assert daemon.ask(messages.KeyShow("www")).digest == new["digest"]
    assert daemon.ask(messages.KeyShow(kept), client=WEB).digest == old.digest, "front ends go on with it"
    assert daemon.ask(messages.CertificateExport(kept)).pem == chain + root
    event = daemon.ask(messages.EventsRead()).events[-1]
    assert (event.kind, event.subject) == ("certificate.replaced", "www")
    assert (event.payload["previous"], event.payload["certificate"]) == (leaf_of(chain), leaf_of(issued))

    # who serves what
    progress = done(daemon, "key", "replace", "www")
    assert [(each["client"], each["state"]) for each in progress["front_ends"]] == [
        (MAIL, "unreported"), (WEB, "other")
    ]  # fmt: skip
    assert "serves the certificate of the other key" in refused(daemon, "key", "replace", "www", "--finish")
    code, text, hints = hsmd(daemon, "key", "replace", "www", as_json=False)
    assert (code, "another certificate" in text, "Then: hsmd key replace www --finish" in hints) == (
        0,
        True,
        True,
    )
    report(daemon, WEB, "www", issued)
    report(daemon, MAIL, "www", issued)
    assert done(daemon, "key", "replace", "www")["waiting"] == 0
    shown = done(daemon, "key", "show", "www")
    assert [(each["client"], each["state"]) for each in shown["served_by"]] == [
        (MAIL, "current"),
        (WEB, "current"),
    ]
    assert f"has taken over the name of {kept}" in hsmd(daemon, "key", "show", "www", as_json=False)[1]

    assert "is not" in refused(daemon, "key", "replace", "www", "--finish", "--confirm", "www")
    assert done(daemon, "key", "replace", "www", "--finish", "--confirm", kept)["destroyed"] == kept
    assert done(daemon, "key", "show", "www")["replacement"] is None
    assert "is not being replaced" in refused(daemon, "key", "replace", "www", "--finish")


def test_a_replacement_is_aborted_before_and_after_the_switch(
    daemon: Daemon, authority: Authority, tmp_path: Path
) -> None:
    old = daemon.ask(messages.KeyGenerate("shop", "p-256", ["tls13-server"]))
    assert "give --dns or --ip" in refused(daemon, "key", "replace", "shop")
    done(daemon, "key", "replace", "shop", "--dns", "shop.test")
    assert done(daemon, "key", "replace", "shop", "--abort")["destroyed"] == "shop.next"
    assert done(daemon, "key", "show", "shop")["replacement"] is None

    daemon.ask(messages.GrantAdd(WEB, "shop", ["tls13-server"]))
    before = daemon.ask(messages.CertificateSelfSigned("shop", ["shop.test"])).pem
    request = x509.load_pem_x509_csr(done(daemon, "key", "replace", "shop")["pem"].encode())
    file = tmp_path / "chain.pem"
    after = authority.issue(request.public_key(), "shop.test")
    file.write_text(after + authority.file.read_text())
    done(daemon, "key", "replace", "shop", "--certificate", str(file))
    report(daemon, WEB, "shop", after)
    back = done(daemon, "key", "replace", "shop", "--abort")
    assert (back["key"]["digest"], back["other"]["name"]) == (old.digest, "shop.next")
    event = daemon.ask(messages.EventsRead()).events[-1]
    assert (event.kind, event.payload["certificate"]) == ("certificate.replaced", leaf_of(before))
    # web still serves the new key until it reports the old one again
    assert f"{WEB} serves the certificate" in refused(daemon, "key", "replace", "shop", "--abort")
    report(daemon, WEB, "shop", before)
    assert (
        done(daemon, "key", "replace", "shop", "--abort", "--confirm", "shop.next")["destroyed"]
        == "shop.next"
    )
    assert daemon.ask(messages.KeyShow("shop")).digest == old.digest


def test_what_is_not_replaced(daemon: Daemon) -> None:
    daemon.ask(messages.KeyGenerate("own", "p-256", [Purpose.STATEMENT.label]))
    with pytest.raises(Conflict, match="is a key of the daemon itself"):
        daemon.ask(messages.KeyReplace("own"))
    assert "there is no key 'ww'" in refused(daemon, "key", "replace", "ww")
    assert "different steps" in refused(daemon, "key", "replace", "www", "--finish", "--abort")
    daemon.ask(messages.KeyGenerate("decrypts", "rsa-2048", ["tls12-rsa-premaster"]))
    begun = done(daemon, "key", "replace", "decrypts", "--dns", "x.test")
    assert begun["other"]["name"] == "decrypts.next"
