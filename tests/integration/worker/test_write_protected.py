"""A write-protected token: its keys are used and listed, what would write says so at once, and the worker stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.key_import import import_key
from hsmd.daemon.ipc.worker_messages import Adopt, Describe, Destroy
from hsmd.errors import TokenFailure
from hsmd.pkcs11.softhsm import make_token
from tests.support.fault_module.control import FaultModule, FaultyToken
from tests.support.messy_tokens import OBJECTS, candidates, handshake_signature
from tests.support.tokens import generate, in_token, settings_of


@pytest.fixture
def token(tmp_path: Path, fault_module: FaultModule) -> FaultyToken:
    return fault_module.before(make_token(tmp_path / "token", "faulty"))


def test_a_write_protected_token_is_read(token: FaultyToken, fault_module: FaultModule, start) -> None:
    control = start(token, control=True).ready()
    made = generate(control, "www", "p-256", ["tls-server"])
    control.spawned.process.kill()
    in_token(token, OBJECTS + 'ec_pair("foreign", b"9")')
    fault_module.protect_from_writing()
    control = start(token, control=True)
    ready = control.event()
    assert isinstance(ready, worker_messages.Ready) and ready.write_protected
    assert handshake_signature(start(token).ready(), made.key)
    assert [key.key for key in control.control(Describe()).keys] == [made.key]
    assert [key.cka_label for key in candidates(control)] == ["foreign"]
    assert control.control(Adopt(name="again", cka_id=made.cka_id)).key == made.key
    for change in (
        lambda: generate(control, "new", "p-256", ["tls-server"]),
        lambda: control.control(Adopt(name="w", cka_id="39", purposes=["tls-server"])),
        lambda: control.control(Destroy(key=made.key)),
    ):
        with pytest.raises(TokenFailure, match="write-protected, so no key can be made"):
            change()
    assert control.spawned.process.poll() is None
    fault_module.protect_from_writing(False)
    with pytest.raises(TokenFailure, match="no longer is: try again"):  # one try, and the next worker writes
        generate(control, "new", "p-256", ["tls-server"])
    control.exit_status()
    again = start(token, control=True).ready()
    assert generate(again, "new", "p-256", ["tls-server"]).key


def test_an_import_into_a_write_protected_token_says_so(
    tmp_path: Path, token: FaultyToken, fault_module: FaultModule
) -> None:
    fault_module.protect_from_writing()
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(TokenFailure, match="write-protected, so no key can be made"):
        import_key(
            settings_of(token, control=True),
            environment=token.environment,
            pem=tmp_path / "key.pem",
            passphrase=None,
            name="imported",
            purposes=["tls-server"],
        )
