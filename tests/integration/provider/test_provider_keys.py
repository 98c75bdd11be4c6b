"""Keys through libcrypto and the openssl tools: loading, comparing, signing, decrypting, and invalid uses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from tests.support.fake_agent import ECDSA, ED25519, RSA_PKCS1, RSA_PSS, Agent
from tests.support.provider import SITE, Environment, Identity, with_section
from tests.support.provider_reference import LABEL, pem, reference_der, subject_public_key_info

KINDS = {"rsa": (6, 2048, 256), "p256": (408, 256, 72), "p384": (408, 384, 104), "p521": (408, 521, 139)}
KINDS["ed25519"] = (1087, 256, 64)
CORPUS_SIZE = 1500
Spoil = Callable[[bytes, str], str]
"""Makes a text that must not load from a reference's DER and PEM."""
ASAN = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0"}


def test_keys_have_the_properties_of_software_keys(
    environment: Environment, evp_driver: Path, identities: dict[str, Identity]
) -> None:
    """Type, bits and size match the software key; no error stays in the queue; no agent is needed."""
    for name, kind in KINDS.items():
        identity = identities[name]
        done = environment.run([evp_driver, "load", identity.reference, identity.private])
        line = f"key {kind[0]} {kind[1]} {kind[2]}"
        assert done.stdout.splitlines() == [line, "errors 0", line, "errors 0"]


@pytest.mark.parametrize("name", ["rsa", "p256", "p384", "p521", "ed25519"])
def test_comparison_and_export(
    environment: Environment,
    sanitized_module: Path,
    sanitized_evp_driver: Path,
    identities: dict[str, Identity],
    name: str,
) -> None:
    """Keys compare equal in both directions, and unequal to another key; no selection with the private key is exported."""
    unrelated = identities["other" if name != "other" else "p256"]
    done = environment.run(
        [
            sanitized_evp_driver,
            "compare",
            identities[name].reference,
            identities[name].certificate,
            unrelated.certificate,
        ],
        environment.configuration(module=sanitized_module),
        environment=ASAN,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "equal 1 1 1 1",
        "errors 0",
        "unrelated 0 0",
        "fits 1 0",
        "private exports 0",
        "public export 1",
        "written 0",
    ]


def test_ordinary_key_files_still_load(
    environment: Environment, evp_driver: Path, identities: dict[str, Identity]
) -> None:
    """Every other PEM encoding of a key loads in a process where hsmd's decoders run first."""
    paths = []
    for name in KINDS:
        key = identities[name].key
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            if name == "ed25519" and form is PrivateFormat.TraditionalOpenSSL:
                continue
            text = key.private_bytes(Encoding.PEM, form, NoEncryption())
            paths.append(_write(environment.directory, text))
            paths.append(_write(environment.directory, text.replace(b"\n", b"\r\n")))
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    traditional = identities["p256"].key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    certificate = identities["p256"].certificate.read_bytes()
    paths.append(_write(environment.directory, parameters + traditional))
    paths.append(_write(environment.directory, certificate + parameters + traditional))
    done = environment.run([evp_driver, "load", *paths])
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["key"] * len(paths)
    assert lines[1::2] == ["errors 0"] * len(paths)


def test_encrypted_key_files_still_load(environment: Environment, identities: dict[str, Identity]) -> None:
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        encrypted = identities["rsa"].key.private_bytes(
            Encoding.PEM, form, BestAvailableEncryption(b"secret")
        )
        path = _write(environment.directory, encrypted)
        done = environment.run(["openssl", "pkey", "-in", path, "-passin", "pass:secret", "-noout", "-check"])
        assert "Key is valid" in done.stdout + done.stderr


def _write(directory: Path, text: bytes) -> Path:
    path = directory / f"key-{len(list(directory.glob('key-*')))}.pem"
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda der, text: text.replace("-----\nM", "-----\n!", 1), "not base64"),
        (lambda der, text: text.split("-----END")[0], "the END line is missing"),
        (lambda der, text: text.replace(f"END {LABEL}", "END PRIVATE KEY"), "the END line has another label"),
        (lambda der, text: pem(der + b"\0"), "not exactly one DER SEQUENCE"),
        (lambda der, text: pem(der.replace(b"reference v1", b"reference v9")), "does not begin with"),
    ],
)
def test_malformed_references_report_the_fault(
    environment: Environment, evp_driver: Path, identities: dict[str, Identity], spoil: Spoil, reason: str
) -> None:
    der = reference_der(subject_public_key_info(identities["p256"].key.public_key()))
    path = environment.directory / "spoilt.ref"
    path.write_text(spoil(der, pem(der)))
    lines = environment.run([evp_driver, "load", path]).stdout.splitlines()
    assert lines == ["none", lines[1]]
    assert lines[1].startswith(f"error malformed key reference: {reason}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("timeout-ms = 5", "timeout-ms must be a number from 10 to 10000"),
        ("timeout-ms = 1e3", "timeout-ms must be a number from 10 to 10000"),
        ("timeout-ms = 99999999999999999999", "timeout-ms must be a number from 10 to 10000"),
        ("socket = agent.sock", "socket must be an absolute path"),
        (f"socket = /{'s' * 107}", "socket must be shorter than 108 bytes"),
    ],
)
def test_wrong_configuration_is_reported_when_a_key_loads(
    environment: Environment, evp_driver: Path, identities: dict[str, Identity], line: str, reason: str
) -> None:
    """OpenSSL silently continues without a provider that fails to start, so hsmd's starts and reports the error later."""
    configuration = environment.configuration()
    kept = [
        kept
        for kept in configuration.read_text().splitlines()
        if not kept.startswith(line.split(" =", maxsplit=1)[0])
    ]
    configuration.write_text("\n".join([*kept, line, ""]))
    references = [identities["p256"].reference, identities["p256"].private]
    lines = environment.run([evp_driver, "load", *references], configuration).stdout.splitlines()
    assert lines == ["none", f"error wrong configuration: {reason}", "key 408 256 72", "errors 0"]


def test_defaults_of_the_configuration(
    environment: Environment, evp_driver: Path, identities: dict[str, Identity]
) -> None:
    """Without socket and timeout-ms, as HAProxy's directives load it, the documented defaults apply."""
    configuration = environment.configuration()
    kept = [
        line
        for line in configuration.read_text().splitlines()
        if not line.startswith(("socket", "timeout-ms"))
    ]
    configuration.write_text("\n".join([*kept, ""]))
    done = environment.run(
        [evp_driver, "sign", identities["p256"].reference, "SHA256", "0", "text"], configuration
    )
    assert "/run/hsmd/agent.sock" in done.stdout


def test_mutated_references_under_sanitizers(
    environment: Environment,
    sanitized_module: Path,
    sanitized_evp_driver: Path,
    identities: dict[str, Identity],
) -> None:
    """No file content causes a sanitizer's finding; hardly any mutation loads but one of the name or the key."""
    dice = random.Random(20)
    corpus = environment.directory / "corpus"
    ders = [reference_der(subject_public_key_info(identities[name].key.public_key())) for name in KINDS]
    texts = [_mutate(dice, ders[number % len(ders)]) for number in range(CORPUS_SIZE)]
    corpus.write_bytes(b"".join(len(text).to_bytes(4, "big") + text for text in texts))
    configuration = environment.configuration(module=sanitized_module)
    done = environment.run([sanitized_evp_driver, "corpus", corpus], configuration, environment=ASAN)
    assert done.returncode == 0, done.stderr
    _, read, _, loaded = done.stdout.split()
    assert int(read) == CORPUS_SIZE
    assert 0 < int(loaded) < CORPUS_SIZE // 2


def _mutate(dice: random.Random, der: bytes) -> bytes:
    """Change, remove or repeat a few bytes, in the DER or in the text."""
    if dice.random() < 0.7:
        return pem(bytes(_damage(dice, bytearray(der)))).encode()
    return bytes(_damage(dice, bytearray(pem(der).encode())))


def _damage(dice: random.Random, data: bytearray) -> bytearray:
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[at] = dice.choice((0, 0x7F, 0x80, 0x82, 0x84, 0xFF, dice.randrange(256)))
        elif kind == 1:
            del data[at : at + dice.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + dice.randrange(1, 40)]
        else:
            data[at] ^= 1 << dice.randrange(8)
        data = data or bytearray(b"-")
    return data


SIGNING = [
    ("rsa", "SHA256", 0, 0x0401),
    ("rsa", "SHA384", 1, 0x0501),
    ("rsa", "SHA512", 1, 0x0601),
    ("rsa", "SHA256", 6, 0x0804),
    ("rsa", "SHA2-512", 6, 0x0806),
    ("p256", "SHA256", 0, 0x0403),
    ("p384", "SHA2-384", 0, 0x0503),
    ("p521", "SHA512", 0, 0x0603),
    ("p521", "-", 0, 0x0403),
    ("ed25519", "-", 0, 0x0807),
]


@pytest.mark.parametrize(("name", "digest", "rsa_padding", "scheme"), SIGNING)
def test_signing_a_message(
    environment: Environment,
    evp_driver: Path,
    agent: Agent,
    identities: dict[str, Identity],
    name: str,
    digest: str,
    rsa_padding: int,
    scheme: int,
) -> None:
    command: list[str | Path] = [
        evp_driver,
        "sign",
        identities[name].reference,
        digest,
        str(rsa_padding),
        "a message",
    ]
    signature, errors = environment.run(command).stdout.splitlines()
    assert errors == "errors 0"
    (request,) = agent.requests
    assert (request.purpose, request.scheme, request.data) == (8, scheme, b"a message")
    _verify(identities[name].key.public_key(), bytes.fromhex(signature.split()[1]), b"a message", scheme)


def _verify(key: PublicKeyTypes, signature: bytes, message: bytes, scheme: int) -> None:
    if isinstance(key, ed25519.Ed25519PublicKey) and scheme == ED25519:
        key.verify(signature, message)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, message, ec.ECDSA(ECDSA[scheme]))
    elif isinstance(key, rsa.RSAPublicKey) and scheme in RSA_PKCS1:
        key.verify(signature, message, padding.PKCS1v15(), RSA_PKCS1[scheme])
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        digest = RSA_PSS[scheme]
        key.verify(signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


@pytest.mark.parametrize(
    ("name", "digest", "rsa_padding", "reason"),
    [
        ("rsa", "SHA1", 0, "unsupported digest"),
        ("p256", "SHA224", 0, "unsupported digest"),
        ("ed25519", "SHA512", 0, "unsupported digest"),
        ("rsa", "SHA256", 3, "unsupported padding"),
        ("rsa", "SHA256", 7, "unsupported padding"),
    ],
)
def test_algorithms_without_a_tls_scheme_are_refused_locally(
    environment: Environment,
    evp_driver: Path,
    agent: Agent,
    identities: dict[str, Identity],
    name: str,
    digest: str,
    rsa_padding: int,
    reason: str,
) -> None:
    command: list[str | Path] = [
        evp_driver,
        "sign",
        identities[name].reference,
        digest,
        str(rsa_padding),
        "text",
    ]
    (line,) = environment.run(command).stdout.splitlines()
    assert line.startswith(f"error {reason}: ")
    assert agent.requests == []


def test_rsa_key_exchange_gives_48_bytes_or_a_public_reason(
    environment: Environment,
    sanitized_module: Path,
    sanitized_evp_driver: Path,
    agent: Agent,
    identities: dict[str, Identity],
) -> None:
    """Valid and invalid ciphertexts get indistinguishable results; a wrong length, version or padding is refused locally."""
    files = [identities["rsa"].reference, identities["rsa"].certificate]
    configuration = environment.configuration(module=sanitized_module)
    done = environment.run([sanitized_evp_driver, "decrypt", *files], configuration, environment=ASAN)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    values = dict(line.split() for line in lines if not line.startswith("error"))
    assert values["good"] == values["expected"]
    assert len(values["bad"]) == 96
    assert values["bad"] == values["bad-again"] != values["good"]
    assert [values[name] for name in ("short", "long", "empty", "version", "pkcs1", "oaep")] == ["none"] * 6
    errors = [line.split(": ")[0] for line in lines if line.startswith("error")]
    lengths = ["error wrong ciphertext length"] * 3
    assert (
        errors == ["errors 0"] * 3 + lengths + ["error wrong TLS version"] + ["error unsupported padding"] * 2
    )
    assert len(agent.requests) == 3


@pytest.mark.parametrize("name", ["rsa", "p256", "ed25519"])
def test_openssl_tools(
    environment: Environment, agent: Agent, identities: dict[str, Identity], tmp_path: Path, name: str
) -> None:
    """pkey, req and dgst read a reference with their ordinary key option; another library verifies their output."""
    identity = identities[name]
    public = environment.run(["openssl", "pkey", "-in", identity.reference, "-pubout"]).stdout
    assert load_pem_public_key(public.encode()) == identity.key.public_key()
    request = environment.run(["openssl", "req", "-new", "-key", identity.reference, "-subj", "/CN=tool"])
    assert x509.load_pem_x509_csr(request.stdout.encode()).is_signature_valid
    private = environment.run(["openssl", "pkey", "-in", identity.reference])
    assert "PRIVATE" not in private.stdout
    message, signature = tmp_path / "message", tmp_path / "signature"
    message.write_bytes(bytes(10_000))
    if name == "ed25519":
        done = environment.run(
            [
                "openssl",
                "pkeyutl",
                "-sign",
                "-rawin",
                "-in",
                message,
                "-inkey",
                identity.reference,
                "-out",
                signature,
            ]
        )
    else:
        done = environment.run(
            ["openssl", "dgst", "-sha256", "-sign", identity.reference, "-out", signature, message]
        )
    assert done.returncode == 0, done.stderr
    scheme = {"rsa": 0x0401, "p256": 0x0403, "ed25519": 0x0807}[name]
    _verify(identity.key.public_key(), signature.read_bytes(), bytes(10_000), scheme)


def test_pss_requests_and_digests(
    environment: Environment, agent: Agent, identities: dict[str, Identity], tmp_path: Path
) -> None:
    """The command line passes paddings and salts as words and as numbers."""
    reference = identities["rsa"].reference
    options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1", "-sha384"]
    done = environment.run(["openssl", "req", "-new", "-key", reference, "-subj", "/CN=tool", *options])
    assert x509.load_pem_x509_csr(done.stdout.encode()).is_signature_valid
    message = tmp_path / "message"
    message.write_bytes(b"salted")
    for salt, accepted in (("digest", True), ("32", True), ("20", False), ("max", False)):
        output = tmp_path / f"signature-{salt}"
        pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{salt}"]
        environment.run(["openssl", "dgst", "-sha256", *pss, "-sign", reference, "-out", output, message])
        signature = output.read_bytes() if output.exists() else b""
        try:
            _verify(identities["rsa"].key.public_key(), signature, b"salted", 0x0804)
            assert accepted
        except InvalidSignature:
            assert not accepted


def test_the_size_of_messages_is_limited(
    environment: Environment, agent: Agent, identities: dict[str, Identity], tmp_path: Path
) -> None:
    message = tmp_path / "message"
    sign: list[str | Path] = [
        "openssl",
        "dgst",
        "-sha256",
        "-sign",
        identities["p256"].reference,
        "-out",
        tmp_path / "out",
        message,
    ]
    message.write_bytes(bytes(65_488))
    assert environment.run(sign).returncode == 0
    message.write_bytes(bytes(65_489))
    refused = environment.run(sign)
    assert refused.returncode != 0
    assert "data too long" in refused.stderr
    assert [len(request.data) for request in agent.requests] == [65_488]


def test_cms(environment: Environment, agent: Agent, identities: dict[str, Identity], tmp_path: Path) -> None:
    """Signed attributes are passed in pieces; software verifies the message."""
    identity = identities["p256"]
    message, signed = tmp_path / "message", tmp_path / "signed"
    message.write_bytes(b"content\r\n")
    sign: list[str | Path] = [
        "cms",
        "-sign",
        "-in",
        message,
        "-signer",
        identity.certificate,
        "-inkey",
        identity.reference,
        "-out",
        signed,
    ]
    done = environment.run(["openssl", *sign, "-outform", "DER", "-md", "sha256", "-binary", "-nodetach"])
    assert done.returncode == 0, done.stderr
    verify: list[str | Path] = [
        "cms",
        "-verify",
        "-in",
        signed,
        "-inform",
        "DER",
        "-noverify",
        "-certfile",
        identity.certificate,
    ]
    done = environment.run(["openssl", *verify], configuration=Path("/dev/null"))
    assert done.returncode == 0, done.stderr


def test_threads_share_a_key(
    environment: Environment, evp_driver: Path, agent: Agent, identities: dict[str, Identity]
) -> None:
    done = environment.run([evp_driver, "threads", identities["p256"].reference, "8", "25"])
    assert done.returncode == 0
    assert done.stdout == "failed 0\n"
    assert len(agent.requests) == 200


ORDERS = {
    "default first": ("default = hsmd_default", "hsmd = hsmd_self"),
    "hsmd first, optional query": ("hsmd = hsmd_self", "default = hsmd_default"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_providers(
    environment: Environment, agent: Agent, identities: dict[str, Identity], order: str
) -> None:
    """Ephemeral P-256 keys must come from the default provider, which is first in the list or chosen by a property query."""
    configuration = environment.configuration(tls=["Groups = P-256"], include=None)
    text = configuration.read_text()
    lines = ["default = hsmd_default", "hsmd = hsmd_self"]
    assert "\n".join(lines) in text
    text = text.replace("\n".join(lines), "\n".join(ORDERS[order]))
    if order != "default first":
        text = (
            with_section(text, None, "alg_section", "test_evp") + "default_properties = ?provider=default\n"
        )
    configuration.write_text(text)
    certificates = {name: str(identities[name].certificate) for name in ("rsa", "p256")}
    cases = [
        {"certificate": path, "trust": path, "key": str(identities[name].reference), "version": version}
        for (name, path), version in itertools.product(certificates.items(), ("1.2", "1.3"))
    ]
    outcomes = environment.handshakes(cases, configuration)
    assert [outcome.get("version") for outcome in outcomes] == ["TLSv1.2", "TLSv1.3"] * 2
    done = environment.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256"], configuration
    )
    assert "BEGIN PRIVATE KEY" in done.stdout


def test_a_mandatory_query_for_another_provider_fails_cleanly(
    environment: Environment, agent: Agent, identities: dict[str, Identity], evp_driver: Path
) -> None:
    """`provider=default` excludes hsmd's keys: an error without a crash or a request; software keys still work."""
    configuration = environment.configuration()
    text = with_section(configuration.read_text(), SITE, "alg_section", "test_evp")
    configuration.write_text(text + "default_properties = provider=default\n")
    refused = environment.run(
        [evp_driver, "sign", identities["p256"].reference, "SHA256", "0", "text"], configuration
    )
    assert refused.returncode in (0, 1), refused
    assert "signature" not in refused.stdout
    ordinary = environment.run(
        [evp_driver, "sign", identities["p256"].private, "SHA256", "0", "text"], configuration
    )
    assert ordinary.stdout.startswith("signature ")
    assert agent.requests == []
