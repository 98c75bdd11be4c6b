"""The index of the keys in a token: how often the token is searched."""

from __future__ import annotations

from hsmd.daemon.worker import key_index


class EmptySession:
    """An empty token that counts searches."""

    def __init__(self) -> None:
        self.searches = 0

    def get_objects(self, template: object) -> list[object]:
        self.searches += 1
        return []


def test_unknown_keys_cause_at_most_one_search_a_second() -> None:
    now = [100.0]
    session = EmptySession()
    keys = key_index.KeyIndex(session, verify="rsa", clock=lambda: now[0])
    keys.scan()
    searches = session.searches
    for _ in range(50):
        assert keys.find(bytes(32)) is None
    assert session.searches == searches
    now[0] += 1.0
    for _ in range(50):
        keys.find(bytes(32))
    assert session.searches == 2 * searches
