"""A2: a key for TLS signs TLS handshakes and nothing else, for every caller and every encoding of the bytes.

The parsers have their own tests (tests/unit/purposes, tests/property/test_purposes_mutations.py); here the complete corpus
goes to workers, and operators try to give a TLS key a further purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hsmd.daemon.ipc import worker_messages as token_messages
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import BadRequest, ErrorCode, HsmdError
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, decode_error
from hsmd.purposes import Purpose
from tests.support.daemon import OPERATOR, WEB, Daemon, run_aside
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker
from tests.support.vectors import unbase64, vectors

TLS_PURPOSES = (Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT, Purpose.TLS12_SERVER, Purpose.TLS12_CLIENT)
SCHEMES = {"p-256": 0x0403, "rsa-2048": 0x0804}
UNBOUND = ("sign-digest", "sign-message", "tls12-rsa-premaster", "decrypt-oaep")


@pytest.mark.parametrize(("name", "key_type"), [("ec", "p-256"), ("rsa", "rsa-2048")])
def test_no_entry_of_the_corpus_is_signed(
    worker: RawWorker, keys: dict[str, KeyDescription], name: str, key_type: str
) -> None:
    """Certificates, CSRs, SSH logins, tokens, code, other TLS contexts: for each TLS purpose, directly at a worker."""
    key, scheme = bytes.fromhex(keys[name].key), SCHEMES[key_type]
    corpus = [entry for entry in vectors("purposes/hostile.json") if key_type in entry["keys"]]
    assert len(corpus) >= 200
    started = worker.progress.started
    for entry in corpus:
        data = unbase64(entry["data"])
        sent = [worker.send_use(purpose, scheme, key, data) for purpose in TLS_PURPOSES]
        for _ in sent:
            kind, _, body = worker.frame()
            assert kind == Kind.ERROR, entry["name"]
            assert decode_error(body).code == ErrorCode.PURPOSE, entry["name"]
    assert worker.progress.started == started, "the key was used"
    assert worker.use(Purpose.TLS13_SERVER, scheme, key, CERTIFICATE_VERIFY), "a valid request is signed"


def mixed() -> Iterator[list[str]]:
    """Combinations of a TLS purpose with one that would make the key an oracle."""
    for tls in ("tls-server", "tls-client", "tls13-server", "tls12-client"):
        for other in UNBOUND:
            yield [tls, other]
            yield [other, tls]


@pytest.mark.parametrize("purposes", list(mixed()), ids="+".join)
def test_no_key_combines_tls_with_an_unbound_purpose(control: RawWorker, purposes: list[str]) -> None:
    with pytest.raises(BadRequest):
        control.control(token_messages.Generate(name="mixed", key_type="rsa-2048", purposes=purposes))


def test_operators_cannot_give_a_tls_key_another_purpose(open_daemon: Callable[..., Daemon]) -> None:
    """By a grant, by adopting the key again under another name, with daemon purposes: the ceiling in the token holds."""
    daemon = open_daemon()
    daemon.add_key("site", "p-256", "tls-server")
    other = [*UNBOUND, "tls-client", "x509-certificate", "checkpoint", "x509-request"]

    async def work() -> None:
        async with daemon.connection(OPERATOR) as operator:
            for purpose in other:
                with pytest.raises(HsmdError):
                    await operator.control(messages.GrantAdd(WEB, "site", [purpose]), timeout_s=10)
                with pytest.raises(HsmdError):
                    await operator.control(
                        messages.KeyAdopt("again", [purpose], cka_label="site"), timeout_s=10
                    )
            grants = await operator.control(messages.GrantList(), timeout_s=10)
        assert {purpose for grant in grants.grants for purpose in grant.purposes} == {
            "tls13-server",
            "tls12-server",
        }

    run_aside(work)
