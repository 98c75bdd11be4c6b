"""Names, groups and ceilings of purposes."""

from __future__ import annotations

from itertools import combinations

import pytest

from hsmd.algorithms import KeyType
from hsmd.errors import MAX_ERROR_TEXT_BYTES, BadRequest
from hsmd.purposes import (
    GRANTABLE,
    OF_KEY_OPERATIONS,
    TLS_SIGNING,
    KeyUse,
    Purpose,
    check_ceiling,
    check_grantable,
    expand,
    is_decryption,
    is_unwrapping,
    labels,
    purpose_from_label,
    use_for,
    use_of,
    with_daemon_purposes,
)

CODES = {
    "tls13-server": 1, "tls13-client": 2, "tls12-server": 3, "tls12-client": 4, "tls12-rsa-premaster": 5,
    "sign-message": 8, "sign-digest": 9, "x509-request": 0x80, "x509-self-signed": 0x81, "checkpoint": 0x82,
    "statement": 0x83, "unwrap-key": 0x84, "x509-authority": 0x85,
}  # fmt: skip
OF_THE_DAEMON = (Purpose.CHECKPOINT, Purpose.STATEMENT)
ALONE = (*OF_THE_DAEMON, Purpose.X509_AUTHORITY)
EC_AND_RSA = [key_type for key_type in KeyType if key_type is not KeyType.ED25519]


def test_labels_and_codes_are_those_of_the_protocol():
    assert {purpose.label: purpose.value for purpose in Purpose} == CODES
    for label, code in CODES.items():
        assert purpose_from_label(label) == code


def test_only_codes_below_0x80_and_certificate_requests_can_be_granted():
    of_key_operations = {label for label, code in CODES.items() if code < 0x80}
    assert {purpose.label for purpose in OF_KEY_OPERATIONS} == of_key_operations
    assert {purpose.label for purpose in GRANTABLE} == of_key_operations | {"x509-request"}


def test_only_the_premaster_purpose_decrypts():
    assert [purpose for purpose in Purpose if is_decryption(purpose)] == [Purpose.TLS12_RSA_PREMASTER]


def test_only_unwrap_key_unwraps_and_all_others_sign():
    assert [purpose for purpose in Purpose if is_unwrapping(purpose)] == [Purpose.UNWRAP_KEY]
    signing = {purpose for purpose in Purpose if use_for(purpose) is KeyUse.SIGN}
    assert signing == set(Purpose) - {Purpose.TLS12_RSA_PREMASTER, Purpose.UNWRAP_KEY}
    assert use_of(frozenset({Purpose.UNWRAP_KEY})) is KeyUse.UNWRAP
    assert use_of(expand(["tls-server"])) is KeyUse.SIGN


@pytest.mark.parametrize("label", ["", "tls-server", "TLS13-SERVER", "tls13_server", "sign", "tls13-server "])
def test_an_unknown_label_is_refused_with_the_valid_ones(label):
    with pytest.raises(BadRequest) as caught:
        purpose_from_label(label)
    assert all(name in caught.value.text for name in CODES)


def test_a_group_includes_both_tls_versions():
    assert expand(["tls-server"]) == {Purpose.TLS13_SERVER, Purpose.TLS12_SERVER}
    assert expand(["tls-client", "tls13-client"]) == {Purpose.TLS13_CLIENT, Purpose.TLS12_CLIENT}
    assert expand(["tls-server", "tls-client"]) == TLS_SIGNING
    assert expand([]) == frozenset()


def test_a_refusal_of_expand_lists_groups_and_purposes():
    with pytest.raises(BadRequest, match=r"'tls'.*tls-server, tls-client, tls13-server"):
        expand(["tls13-server", "tls"])


def test_a_hostile_label_is_bounded_and_escaped_in_the_error_text():
    with pytest.raises(BadRequest) as caught:
        expand(["\n\x1b" * 10_000])
    assert len(caught.value.text.encode()) <= MAX_ERROR_TEXT_BYTES
    assert caught.value.text.isprintable()


def test_labels_are_listed_once_in_the_order_of_codes():
    mixed = [Purpose.X509_REQUEST, Purpose.TLS12_SERVER, Purpose.TLS13_SERVER, Purpose.TLS12_SERVER]
    assert labels(mixed) == ["tls13-server", "tls12-server", "x509-request"]
    assert expand(labels(Purpose)) == frozenset(Purpose)


@pytest.mark.parametrize("key_type", KeyType)
def test_a_ceiling_is_never_empty(key_type):
    with pytest.raises(BadRequest, match="at least one purpose"):
        check_ceiling(key_type, frozenset())


@pytest.mark.parametrize("key_type", KeyType)
def test_tls_purposes_can_be_combined_on_every_key(key_type):
    for size in range(1, 5):
        for purposes in combinations(TLS_SIGNING, size):
            check_ceiling(key_type, frozenset(purposes))
            check_ceiling(key_type, with_daemon_purposes(frozenset(purposes)))


@pytest.mark.parametrize(
    "other",
    [purpose for purpose in Purpose if purpose not in (Purpose.TLS12_RSA_PREMASTER, *ALONE)],
)
def test_a_key_either_signs_or_decrypts(other):
    with pytest.raises(BadRequest, match="either signs or decrypts"):
        check_ceiling(KeyType.RSA_2048, frozenset({Purpose.TLS12_RSA_PREMASTER, other}))


@pytest.mark.parametrize(
    "other", [purpose for purpose in Purpose if purpose not in (Purpose.UNWRAP_KEY, *ALONE)]
)
def test_a_key_that_unwraps_does_nothing_else(other):
    with pytest.raises(BadRequest, match="signs or decrypts or unwraps; unwrap-key cannot be combined"):
        check_ceiling(KeyType.RSA_2048, frozenset({Purpose.UNWRAP_KEY, other}))


@pytest.mark.parametrize("own", ALONE)
@pytest.mark.parametrize("other", Purpose)
def test_a_key_that_signs_for_the_daemon_or_certificates_has_no_other_purpose(own, other):
    check_ceiling(KeyType.P256, frozenset({own}))
    check_ceiling(KeyType.ED25519, frozenset({own}))
    if other is not own:
        for key_type in (KeyType.RSA_2048, KeyType.P256):
            with pytest.raises(BadRequest, match="cannot have other purposes"):
                check_ceiling(key_type, frozenset({own, other}))


@pytest.mark.parametrize("own", OF_THE_DAEMON)
@pytest.mark.parametrize("key_type", set(KeyType) - {KeyType.P256, KeyType.ED25519})
def test_what_the_daemon_states_needs_a_key_type_of_signed_notes(key_type, own):
    with pytest.raises(BadRequest, match="ed25519 or p-256"):
        check_ceiling(key_type, frozenset({own}))


@pytest.mark.parametrize("purpose", [Purpose.TLS12_RSA_PREMASTER, Purpose.UNWRAP_KEY])
@pytest.mark.parametrize("key_type", KeyType)
def test_only_rsa_keys_decrypt_or_unwrap(key_type, purpose):
    ceiling = frozenset({purpose})
    if key_type.value.startswith("rsa"):
        check_ceiling(key_type, ceiling)
    else:
        with pytest.raises(BadRequest, match="needs an RSA key"):
            check_ceiling(key_type, ceiling)


@pytest.mark.parametrize("unbound", [Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST])
@pytest.mark.parametrize("tls", TLS_SIGNING)
def test_free_signing_is_never_combined_with_tls(unbound, tls):
    with pytest.raises(BadRequest, match="cannot be combined with the TLS purpose"):
        check_ceiling(KeyType.P256, frozenset({unbound, tls}))


def test_free_signing_alone_is_a_valid_ceiling():
    for key_type in EC_AND_RSA:
        check_ceiling(key_type, frozenset({Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST}))
    check_ceiling(KeyType.ED25519, frozenset({Purpose.SIGN_MESSAGE}))


def test_ed25519_keys_cannot_sign_digests():
    with pytest.raises(BadRequest, match="ed25519 key cannot sign-digest"):
        check_ceiling(KeyType.ED25519, frozenset({Purpose.SIGN_DIGEST, Purpose.SIGN_MESSAGE}))


def test_the_daemon_adds_its_purposes_to_keys_that_get_certificates():
    own = {Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED}
    for purpose in [*TLS_SIGNING, Purpose.SIGN_MESSAGE]:
        assert with_daemon_purposes(frozenset({purpose})) == {purpose, *own}
    for purpose in (Purpose.TLS12_RSA_PREMASTER, Purpose.SIGN_DIGEST, Purpose.STATEMENT, Purpose.UNWRAP_KEY):
        assert with_daemon_purposes(frozenset({purpose})) == {purpose}


def test_a_grant_must_be_within_the_ceiling():
    ceiling = with_daemon_purposes(expand(["tls-server"]))
    check_grantable(ceiling, expand(["tls13-server"]))
    check_grantable(ceiling, expand(["tls-server"]))
    with pytest.raises(
        BadRequest, match=r"fixed as tls13-server, tls12-server, do not include tls13-client$"
    ):
        check_grantable(ceiling, expand(["tls13-server", "tls13-client"]))


def test_purposes_of_the_daemon_cannot_be_granted():
    ceiling = with_daemon_purposes(expand(["tls-server"]))
    for own in (*OF_THE_DAEMON, Purpose.UNWRAP_KEY):
        with pytest.raises(BadRequest, match=f"{own.label} cannot be granted"):
            check_grantable(frozenset({own}), frozenset({own}))
    with pytest.raises(BadRequest, match="x509-self-signed cannot be granted"):
        check_grantable(ceiling, frozenset({Purpose.TLS13_SERVER, Purpose.X509_SELF_SIGNED}))


def test_a_grant_needs_a_purpose():
    with pytest.raises(BadRequest, match="at least one purpose"):
        check_grantable(frozenset(Purpose), frozenset())
