"""A node with its key in a SoftHSM token: the key is made there, signs its requests, and is in no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node_files import node_toml
from tests.support.owner_token import OwnerToken

pytestmark = pytest.mark.timeout(120)

PASSES = """
from datetime import timedelta
from pathlib import Path
from hsmd.node import config as configuration, documents
from hsmd.node.passes import Node, Wish
from tests.support.node_authority import Clock, NodeAuthority
config = configuration.load(Path("node.toml"))
authority = NodeAuthority(Clock())
node = Node(config, now=authority.clock, reload=lambda _: "")
config.state.mkdir(exist_ok=True)
"""


@pytest.fixture
def token(tmp_path: Path) -> OwnerToken:
    made = OwnerToken(tmp_path)
    place = f'authority = "root"\nkey = "token"\ntoken = "{made.settings}"\nlabel = "web1"'
    (tmp_path / "node.toml").write_text(node_toml(tmp_path).replace('authority = "root"', place))
    return made


def test_the_key_stays_in_the_token_and_is_used_again(token: OwnerToken) -> None:
    found = token.run(
        PASSES
        + """
first = node.make_pass(authority)
authority.clock.forward(minutes=50)
second = node.make_pass(authority)
kept = documents.read(config.files)
keys = {each.public_key().public_bytes_raw() if hasattr(each.public_key(), "public_bytes_raw") else
        each.public_key().public_numbers().x for each in authority.issued}
print(json.dumps([first.problems, second.problems, len(authority.issued), len(keys), os.listdir(config.files / "current"),
                  kept.leaf == authority.issued[-1]]))
"""
    )
    first, second, issued, keys, files, is_newest = found
    assert (first, second, issued, keys, is_newest) == ([], [], 2, 1, True)
    assert sorted(files) == ["anchors.pem", "chain.pem", "lists.pem"]


def test_a_revoked_key_of_a_token_gets_no_other_certificate(token: OwnerToken) -> None:
    problems, issued, new_key = token.run(
        PASSES
        + """
node.make_pass(authority)
authority.revoked.append(authority.issued[0].serial_number)
authority.clock.forward(minutes=1)
node.make_pass(authority)
authority.clock.forward(minutes=1)
problems = node.make_pass(authority).problems
new_key = node.make_pass(authority, Wish(new_key=True)).problems
print(json.dumps([problems, len(authority.issued), new_key]))
"""
    )
    assert issued == 1
    assert "was revoked" in problems[0]
    assert "another label" in new_key[0]


def test_a_token_that_cannot_be_opened_stops_nothing_else(token: OwnerToken) -> None:
    before, after, lists = token.run(
        PASSES
        + """
before = node.make_pass(authority).problems
Path(config.keys.file).rename("away.toml")
authority.revoked.append(4711)
authority.clock.forward(minutes=50)
after = node.make_pass(authority).problems
print(json.dumps([before, after, len(list(documents.read(config.files).lists[0]))]))
"""
    )
    assert before == []
    assert "owner.toml" in after[0]
    assert lists == 1, "the new revocation list is there"
