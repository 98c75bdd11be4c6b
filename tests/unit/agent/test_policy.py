"""The local policy, for arbitrary users and keys."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hsmd.agent.policy import ALL_USERS, NO_USERS, Rules

uids = st.integers(0, 5)
names = st.sampled_from(["a", "b", "c", "d"])
users = st.none() | st.frozensets(uids, max_size=4)
all_keys = st.lists(st.tuples(names, st.binary(min_size=2, max_size=2)), max_size=6)


@given(default=users, by_key=st.dictionaries(names, users), uid=uids, keys=all_keys)
def test_a_user_gets_exactly_the_keys_its_rules_name(
    default: frozenset[int] | None,
    by_key: dict[str, frozenset[int] | None],
    uid: int,
    keys: list[tuple[str, bytes]],
) -> None:
    allowed = Rules(default, by_key).keys_for(uid, keys)
    for name, digest in keys:
        rule = by_key.get(name, default)
        wanted = rule is None or uid in rule
        others = any(
            entry != name and Rules(default, by_key).allow(uid, entry)
            for entry, value in keys
            if value == digest
        )
        assert (digest in allowed) == (wanted or others)
    assert allowed <= {digest for _, digest in keys}


def test_no_user_is_allowed_unless_configured() -> None:
    assert not Rules().allow(0, "www")
    assert not Rules(NO_USERS, {"other": ALL_USERS}).allow(0, "www")


def test_a_key_with_its_own_section_does_not_use_the_default() -> None:
    rules = Rules(ALL_USERS, {"www": frozenset({33})})
    assert rules.allow(33, "www")
    assert not rules.allow(1000, "www")
    assert rules.allow(1000, "other")
