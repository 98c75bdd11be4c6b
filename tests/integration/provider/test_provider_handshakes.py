"""TLS handshakes with keys of the agent: key types, versions, schemes, key exchange, clients, processes with other keys."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.fake_agent import Agent, handshake_types
from tests.support.provider import Environment, Identity
from tests.support.provider_reference import key_digest

SCHEMES = {
    "rsa_pss_rsae_sha256": 0x0804,
    "rsa_pss_rsae_sha384": 0x0805,
    "rsa_pss_rsae_sha512": 0x0806,
    "RSA+SHA256": 0x0401,
    "RSA+SHA384": 0x0501,
    "RSA+SHA512": 0x0601,
    "ECDSA+SHA256": 0x0403,
    "ECDSA+SHA384": 0x0503,
    "ECDSA+SHA512": 0x0603,
    "ed25519": 0x0807,
}

MATRIX = [
    ("1.3", "rsa", "rsa_pss_rsae_sha256"),
    ("1.3", "rsa", "rsa_pss_rsae_sha384"),
    ("1.3", "rsa", "rsa_pss_rsae_sha512"),
    ("1.3", "p256", "ECDSA+SHA256"),
    ("1.3", "p384", "ECDSA+SHA384"),
    ("1.3", "p521", "ECDSA+SHA512"),
    ("1.3", "ed25519", "ed25519"),
    ("1.2", "rsa", "rsa_pss_rsae_sha256"),
    ("1.2", "rsa", "rsa_pss_rsae_sha384"),
    ("1.2", "rsa", "rsa_pss_rsae_sha512"),
    ("1.2", "rsa", "RSA+SHA256"),
    ("1.2", "rsa", "RSA+SHA384"),
    ("1.2", "rsa", "RSA+SHA512"),
    ("1.2", "p256", "ECDSA+SHA256"),
    ("1.2", "p384", "ECDSA+SHA384"),
    ("1.2", "p384", "ECDSA+SHA256"),
    ("1.2", "p521", "ECDSA+SHA512"),
    ("1.2", "ed25519", "ed25519"),
]


def case(identity: Identity, version: str, **more: Any) -> dict[str, Any]:
    """A handshake in which the agent has the server's key."""
    certificate = str(identity.certificate)
    return {
        "certificate": certificate,
        "key": str(identity.reference),
        "trust": certificate,
        "version": version,
        **more,
    }


def succeeded(outcomes: list[dict[str, Any]]) -> bool:
    """Whether no outcome has an error; otherwise the errors are printed."""
    assert [outcome["error"] for outcome in outcomes if "error" in outcome] == []
    return bool(outcomes)


@pytest.mark.parametrize(("version", "name", "algorithm"), MATRIX)
def test_matrix(
    environment: Environment,
    agent: Agent,
    identities: dict[str, Identity],
    version: str,
    name: str,
    algorithm: str,
) -> None:
    """One handshake makes one request; the client verifies the signature, the agent the form of the signed bytes."""
    identity = identities[name]
    configuration = environment.configuration(tls=[f"SignatureAlgorithms = {algorithm}"])
    assert succeeded(environment.handshakes([case(identity, version)], configuration))
    (request,) = agent.requests
    assert request.purpose == (1 if version == "1.3" else 3)
    assert request.scheme == SCHEMES[algorithm]
    assert request.key == key_digest(identity.key.public_key())
    assert 1 <= request.deadline_ms <= 2000


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_client_certificates(
    environment: Environment, agent: Agent, identities: dict[str, Identity], version: str
) -> None:
    """The agent has the keys of both ends; in TLS 1.2 the client signs the complete transcript."""
    names = ("rsa", "p256", "p384", "p521", "ed25519")
    cases = []
    for name in names:
        client = {
            "client_certificate": str(identities[name].certificate),
            "client_key": str(identities[name].reference),
        }
        cases.append(case(identities["p256"], version, **client))
    assert succeeded(environment.handshakes(cases))
    by_clients = [request for request in agent.requests if request.purpose in (2, 4)]
    assert [request.purpose for request in by_clients] == [2 if version == "1.3" else 4] * len(names)
    assert [request.key for request in by_clients] == [
        key_digest(identities[name].key.public_key()) for name in names
    ]
    if version == "1.2":
        # ClientHello, ServerHello, ..., Certificate, ClientKeyExchange: the complete transcript
        assert all(handshake_types(request.data)[-2:] == [11, 16] for request in by_clients)


def test_large_client_transcript(
    environment: Environment, agent: Agent, identities: dict[str, Identity]
) -> None:
    """Tens of KiB of certificates in both chains exceed every buffer on the way."""
    paths = {}
    for name in ("p256", "rsa"):
        text = identities[name].certificate.read_text()
        paths[name] = environment.directory / f"{name}-long.crt"
        paths[name].write_text(text + identities["rsa"].certificate.read_text() * 28)
    client = {"client_certificate": str(paths["rsa"]), "client_key": str(identities["rsa"].reference)}
    outcomes = environment.handshakes(
        [case(identities["p256"], "1.2", **client) | {"certificate": str(paths["p256"])}]
    )
    assert succeeded(outcomes)
    (request,) = [request for request in agent.requests if request.purpose == 4]
    assert len(request.data) > 40_000


@pytest.mark.parametrize("cipher", ["AES128-SHA256", "AES256-GCM-SHA384"])
def test_rsa_key_exchange(
    environment: Environment, agent: Agent, identities: dict[str, Identity], cipher: str
) -> None:
    outcomes = environment.handshakes([case(identities["rsa"], "1.2", ciphers=cipher)])
    assert succeeded(outcomes)
    assert outcomes[0]["cipher"] == cipher
    (request,) = agent.requests
    assert (request.purpose, request.scheme, len(request.data)) == (5, 0, 256)


def test_software_keys_and_references_in_one_process(
    environment: Environment, agent: Agent, identities: dict[str, Identity]
) -> None:
    """Software keys and references alternate in one process; only references reach the agent."""
    cases = []
    for name in ("rsa", "p256", "p384", "p521", "ed25519"):
        keys = (identities[name].private, identities[name].reference, identities[name].private)
        cases += [case(identities[name], "1.3") | {"key": str(key)} for key in keys]
    cases.append(
        case(identities["rsa"], "1.2", ciphers="AES128-SHA256") | {"key": str(identities["rsa"].private)}
    )
    assert succeeded(environment.handshakes(cases))
    assert len(agent.requests) == 5


def test_mismatched_certificate_is_refused(
    environment: Environment, agent: Agent, identities: dict[str, Identity]
) -> None:
    wrong = case(identities["p256"], "1.3") | {"key": str(identities["other"].reference)}
    other_type = case(identities["p256"], "1.3") | {"key": str(identities["rsa"].reference)}
    outcomes = environment.handshakes([wrong, other_type, case(identities["p256"], "1.3")])
    assert [outcome.get("end") for outcome in outcomes] == ["load", "load", None]
    assert "MISMATCH" in outcomes[0]["error"]
    assert len(agent.requests) == 1


def test_several_pairs_in_one_context(
    environment: Environment, agent: Agent, identities: dict[str, Identity]
) -> None:
    """Reference, software key, reference: comparing them leaves no error that would make OpenSSL refuse the next pair."""
    rsa, p256, ed25519 = (identities[name] for name in ("rsa", "p256", "ed25519"))
    pairs = [(str(rsa.certificate), str(rsa.private)), (str(ed25519.certificate), str(ed25519.reference))]
    cases = []
    for identity, ciphers in ((p256, "ECDHE-ECDSA-AES128-GCM-SHA256"), (rsa, "ECDHE-RSA-AES128-GCM-SHA256")):
        more = {"also": pairs, "ciphers": ciphers}
        cases.append(case(p256, "1.2", **more) | {"trust": str(identity.certificate)})
    configuration = environment.configuration(tls=["SignatureAlgorithms = ECDSA+SHA256:RSA+SHA256"])
    assert succeeded(environment.handshakes(cases, configuration))
    assert [request.scheme for request in agent.requests] == [0x0403]


def test_combined_files(environment: Environment, agent: Agent, identities: dict[str, Identity]) -> None:
    """Certificate and reference in one file, in any order, with other text and carriage returns."""
    identity = identities["p256"]
    certificate, reference = identity.certificate.read_text(), identity.reference.read_text()
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    texts = [
        reference + certificate,
        certificate + reference,
        certificate + identities["rsa"].certificate.read_text() + reference,
        "a note\n" + certificate + "another\n" + reference + "the end",
        (certificate + reference).replace("\n", "\r\n"),
        parameters + reference + certificate,
    ]
    cases = []
    for number, text in enumerate(texts):
        path = environment.directory / f"combined-{number}.pem"
        path.write_bytes(text.encode())
        cases.append(case(identity, "1.3") | {"certificate": str(path), "key": str(path)})
    assert succeeded(environment.handshakes(cases))
    assert len(agent.requests) == len(texts)


ANSWER_TO_A_HELLO = """
import os, ssl, struct, sys

def answered(certificate, key, level):
    '''What a server makes of a TLS 1.2 hello with one suite of RSA key exchange, and no signature algorithms.'''
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"ALL:@SECLEVEL={level}")
    context.load_cert_chain(certificate, key)
    hello = b"\\x03\\x03" + os.urandom(32) + b"\\0" + b"\\0\\2\\0\\x2f" + b"\\1\\0"
    message = b"\\1" + struct.pack(">I", len(hello))[1:] + hello
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    there.write(b"\\x16\\3\\1" + struct.pack(">H", len(message)) + message)
    try:
        context.wrap_bio(there, back, server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        return "goes on"
    except ssl.SSLError as error:
        return error.reason

certificate, *keys = sys.argv[1:]
print(*[answered(certificate, key, level) for level in (0, 1) for key in keys], sep=", ")
"""


def test_without_signature_algorithms_a_reference_is_asked_to_sign_sha1(
    environment: Environment, identities: dict[str, Identity]
) -> None:
    """The limit that docs/servers.md names: at security level 0 a private key goes on, at level 1 no key does."""
    rsa = identities["rsa"]
    done = environment.run(
        [sys.executable, "-c", ANSWER_TO_A_HELLO, rsa.certificate, rsa.private, rsa.reference]
    )
    refused = "NO_SUITABLE_SIGNATURE_ALGORITHM"
    assert done.stdout.strip() == f"goes on, WRONG_SIGNATURE_TYPE, {refused}, {refused}", done.stderr
