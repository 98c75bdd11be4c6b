"""A5: hsmd gives no way to obtain a key that wraps, unwraps or encrypts, or that can be changed to (Clulow, Tookan).

hsmd wraps no keys today. So the attacks fail at their first step: after any requests, the token holds only keys that sign or
decrypt and cannot be changed, copied or extracted, and no request has a member for a mechanism, a template or an attribute.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.ipc import worker_messages as token_messages
from hsmd.daemon.ipc.worker_messages import AnyRequest
from hsmd.errors import HsmdError
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.tokens import RawWorker, in_token

NEVER = ("WRAP", "UNWRAP", "DERIVE", "SIGN_RECOVER", "EXTRACTABLE", "MODIFIABLE", "COPYABLE")

READ_BACK = """
flags = ("SIGN", "DECRYPT", "ENCRYPT", "WRAP", "UNWRAP", "DERIVE", "SIGN_RECOVER", "EXTRACTABLE", "MODIFIABLE", "COPYABLE",
         "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "TRUSTED", "WRAP_WITH_TRUSTED")
def read(item):
    found = {}
    for name in flags:
        try:
            found[name] = bool(item[getattr(A, name)])
        except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, AttributeError):
            pass
    return found
def steps(key, public):
    "Try Tookan's first steps on an existing key; return the names of those that work."
    done = []
    def step(name, work):
        try:
            work()
            done.append(name)
        except (pkcs11.PKCS11Error, AttributeError, NotImplementedError, TypeError):
            pass
    for name in ("WRAP", "UNWRAP", "DECRYPT", "ENCRYPT", "SIGN", "DERIVE", "EXTRACTABLE", "MODIFIABLE", "TRUSTED"):
        for item, side in ((key, "private"), (public, "public")):
            if not read(item).get(name):
                step(f"{side} {name} on", lambda: item.__setitem__(getattr(A, name), True))
    step("SENSITIVE off", lambda: key.__setitem__(A.SENSITIVE, False))
    step("read", lambda: key[A.VALUE])
    step("read exponent", lambda: key[A.PRIVATE_EXPONENT])
    step("copy", lambda: key.copy({A.TOKEN: False, A.EXTRACTABLE: True, A.SENSITIVE: False}))
    return done
made = {}
for key in list(session.get_objects({A.CLASS: C.PRIVATE_KEY})):
    public, = list(session.get_objects({A.CLASS: C.PUBLIC_KEY, A.ID: key[A.ID]}))
    made[key.label] = {"private": read(key), "public": read(public), "steps": steps(key, public)}
show({"keys": made, "secret": len(list(session.get_objects({A.CLASS: C.SECRET_KEY})))})
"""


def test_no_request_has_a_member_for_a_mechanism_or_an_attribute() -> None:
    """All that a caller can specify for a key: names, one of seven types, purposes from the table, a certificate."""
    allowed = {
        "name", "key_type", "purposes", "cka_id", "cka_label", "key", "certificate", "accept_unsafe",
    }  # fmt: skip
    for request in AnyRequest.__args__:
        assert set(request.__struct_fields__) <= allowed, request
    words = (
        "mechanism",
        "template",
        "attribute",
        "wrap",
        "extract",
        "sensitive",
        "handle",
        "slot",
        "session",
    )
    for struct in messages.REQUESTS:
        for field in struct.__struct_fields__:
            assert not any(word in field for word in words), f"{struct.__name__}.{field}"


def test_random_requests_leave_only_safe_keys(
    fresh_token: SoftHsmToken, request: pytest.FixtureRequest
) -> None:
    """200 valid and invalid requests in a row, of every type with every purpose; then read the token itself."""
    choose = random.Random(request.config.getoption("randomly_seed", 1))
    control = RawWorker(fresh_token, {"control": True}).ready()
    try:
        names = [purpose.label for purpose in Purpose]
        alive: list[str] = []
        for number in range(200):
            made_name = f"key-{number}"
            purposes = choose.sample(names, choose.choice([1, 1, 1, 2, 3]))
            ask: Any = choose.choice(
                [
                    token_messages.Generate(
                        made_name, choose.choice(["p-256", "ed25519", "p-384"]), purposes
                    ),
                    token_messages.Generate(
                        made_name, choose.choice(list(KeyType)).value, ["tls-server", "unwrap"]
                    ),
                    token_messages.Adopt(
                        made_name, purposes, key=choose.choice([*alive, "00" * 32]), accept_unsafe=True
                    ),
                    token_messages.Destroy(choose.choice([*alive[:1], "11" * 32, "22" * 32])),
                    token_messages.Candidates(),
                ]
            )
            try:
                result = control.control(ask)
            except HsmdError:
                continue
            if isinstance(ask, token_messages.Generate):
                alive.append(result.key)
            elif isinstance(ask, token_messages.Destroy) and ask.key in alive:
                alive.remove(ask.key)
        for kind, purposes in itertools.product(("rsa-2048",), (["tls-server"], ["tls12-rsa-premaster"])):
            alive.append(control.control(token_messages.Generate(f"last-{purposes[0]}", kind, purposes)).key)
        assert len(alive) > 5
    finally:
        control.close()
    found = in_token(fresh_token, READ_BACK)
    assert found["secret"] == 0
    assert len(found["keys"]) == len(alive)
    for name, key in found["keys"].items():
        private, public = key["private"], key["public"]
        assert not any(private.get(flag) for flag in NEVER), (name, private)
        assert private["SENSITIVE"] and private["ALWAYS_SENSITIVE"] and private["NEVER_EXTRACTABLE"], name
        assert private["SIGN"] != private["DECRYPT"], f"{name} signs or decrypts, never both or neither"
        assert not public.get("WRAP") and not public.get("MODIFIABLE"), (name, public)
        assert key["steps"] == [], f"{name}: {key['steps']}"
