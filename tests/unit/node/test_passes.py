"""Passes of a node against an authority in memory: what is written, what is kept when something fails, and what is tried again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hsmd.algorithms import KeyType
from hsmd.deployment import version_directories
from hsmd.deployment.servers import Server
from hsmd.deployment.version_directories import current
from hsmd.errors import NotFound, Unavailable
from hsmd.node import documents, state
from hsmd.node.config import NodeConfig
from hsmd.node.documents import Kept
from hsmd.node.passes import Node, Wish
from hsmd.node.probe import Probe, Whose
from hsmd.node.programs import ANCHORS, CHAIN, KEY, LISTS
from hsmd.node.renewal import due
from hsmd.node.tls_keys import TlsKey
from hsmd.protocol.messages import NodeAnchors, NodeCertificate, NodeTrust
from tests.support.node_authority import Clock, NodeAuthority


class Reloads:
    """A program that is reloaded, or cannot be."""

    def __init__(self) -> None:
        self.count = 0
        self.fault = ""

    def __call__(self, server: Server) -> str:
        self.count += 1
        return self.fault


@pytest.fixture
def reloads() -> Reloads:
    return Reloads()


@pytest.fixture
def node(config: NodeConfig, clock: Clock, reloads: Reloads) -> Node:
    config.state.mkdir()
    return Node(config, now=clock, reload=reloads, pause=lambda _: None)


def kept(config: NodeConfig) -> Kept:
    found = documents.read(config.files)
    assert found is not None
    return found


def certificates_asked(authority: NodeAuthority) -> int:
    return sum(isinstance(each, NodeCertificate) for each in authority.asked)


def test_the_first_pass_writes_everything_and_reloads(
    node: Node, config: NodeConfig, authority: NodeAuthority, reloads: Reloads
) -> None:
    done = node.make_pass(authority)
    assert done.is_well, done.problems
    found = kept(config)
    assert found.leaf == authority.issued[0]
    assert found.anchors == tuple(authority.anchors)
    assert len(found.lists) == 1
    assert done.loaded == current(config.files)
    assert (reloads.count, done.daemon) == (1, authority.used)
    assert state.read(config.state) == done


def test_the_first_pass_has_the_lists_of_all_authorities_of_the_chain(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    below = NodeAuthority(clock, common_name="Example issuing 1", above=authority)
    assert node.make_pass(below).is_well
    found = kept(config)
    assert found.has_all_lists
    assert {each.issuer for each in found.lists} == {
        each.subject for each in (found.chain[1], found.anchors[0])
    }


def test_nothing_is_renewed_or_reloaded_before_its_time(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock, reloads: Reloads
) -> None:
    node.make_pass(authority)
    leaf = kept(config).leaf
    renewal = due(leaf.not_valid_before_utc, leaf.not_valid_after_utc, config.client)
    clock.now = renewal - timedelta(seconds=1)
    node.make_pass(authority)
    assert certificates_asked(authority) == 1
    assert kept(config).leaf == leaf
    clock.now = renewal
    done = node.make_pass(authority)
    assert certificates_asked(authority) == 2
    assert kept(config).leaf == authority.issued[1]
    assert done.renewed_at == clock.now
    assert done.loaded == current(config.files)


def test_the_key_stays_unless_another_is_asked_for(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    node.make_pass(authority)
    first = kept(config).key
    node.make_pass(authority, Wish(renew=True))
    assert kept(config).key == first
    node.make_pass(authority, Wish(new_key=True))
    assert kept(config).key != first


def test_a_new_list_is_written_and_loaded(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock, reloads: Reloads
) -> None:
    node.make_pass(authority)
    clock.forward(minutes=1)
    authority.revoked.append(4_711)
    node.make_pass(authority)
    assert kept(config).lists[0].get_revoked_certificate_by_serial_number(4_711) is not None
    assert reloads.count == 2
    assert certificates_asked(authority) == 1


def test_a_list_that_has_ended_is_told(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    old = authority.list()

    class Stale(NodeAuthority):
        def ask(self, request: Any) -> object:
            answer = authority.ask(request)
            if isinstance(answer, NodeAnchors):
                pem = old.public_bytes(Encoding.PEM).decode()
                return msgspec.structs.replace(answer, revocation_lists=pem)
            return answer

    clock.forward(days=8)
    done = node.make_pass(Stale(clock))
    assert "revocation list of CN=Example CA 1 has ended" in done.problems[0]
    assert "hsmd ca crl" in done.problems[0]
    assert node.make_pass(authority).is_well


def test_a_revoked_certificate_is_replaced_with_a_new_key(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    before = kept(config)
    authority.revoked.append(before.leaf.serial_number)
    clock.forward(minutes=1)
    node.make_pass(authority)
    assert kept(config).key != before.key
    assert not kept(config).is_revoked


def test_while_no_daemon_answers_everything_stays(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock, reloads: Reloads
) -> None:
    node.make_pass(authority)
    before = kept(config)
    authority.fault = Unavailable("no daemon answers: 192.0.2.1:7440: refused")
    clock.forward(minutes=50)
    done = node.make_pass(authority)
    assert kept(config) == before
    assert reloads.count == 1
    assert done.problems == ["no daemon answers: 192.0.2.1:7440: refused"]
    assert done.next_at is not None
    assert done.next_at - clock.now < timedelta(minutes=1), (
        "the less time is left, the sooner it is tried again"
    )
    authority.fault = None
    assert node.make_pass(authority).is_well
    assert kept(config).leaf == authority.issued[1]


def test_a_refusal_keeps_what_is_there_and_is_told(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    node.make_pass(authority)
    authority.fault = NotFound("no certificates of this authority are for you")
    assert node.make_pass(authority).problems == ["no certificates of this authority are for you"]
    assert kept(config).leaf == authority.issued[0]


def test_an_anchor_of_another_key_is_not_written(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    before = kept(config)
    authority.anchors.append(NodeAuthority(clock, common_name="Evil CA").root())
    done = node.make_pass(authority)
    assert kept(config).anchors == before.anchors
    assert "does not trust" in done.problems[0]


def test_a_certificate_for_another_key_or_below_another_anchor_is_not_written(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    before = kept(config)
    other = NodeAuthority(clock, common_name="Evil CA")

    class Lying(NodeAuthority):
        key_of_another = False

        def ask(self, request: Any) -> object:
            if isinstance(request, NodeCertificate) and not self.key_of_another:
                return other.ask(request)
            if isinstance(request, NodeCertificate):
                request = NodeCertificate(request.authority, TlsKey.generate(KeyType.P256).request())
            return authority.ask(request)

    lying = Lying(clock)
    done = node.make_pass(lying, Wish(renew=True))
    assert "does not lead to a trust anchor" in done.problems[0]
    lying.key_of_another = True
    done = node.make_pass(lying, Wish(renew=True))
    assert "another key than this node's" in done.problems[0]
    assert kept(config).leaf == before.leaf


def test_lists_that_are_malformed_do_not_keep_a_certificate_from_being_renewed(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    before = kept(config)

    class Careless(NodeAuthority):
        def ask(self, request: Any) -> object:
            answer = authority.ask(request)
            return (
                msgspec.structs.replace(
                    answer, revocation_lists="-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
                )
                if isinstance(answer, NodeAnchors)
                else answer
            )

    done = node.make_pass(Careless(clock), Wish(renew=True))
    assert done.problems == ["the revocation lists of the daemon: list 1 is not a well-formed X.509 CRL"]
    assert kept(config).leaf == authority.issued[1]
    assert kept(config).lists == before.lists


def test_a_program_that_cannot_be_reloaded_is_tried_again(
    node: Node, config: NodeConfig, authority: NodeAuthority, reloads: Reloads
) -> None:
    reloads.fault = "nginx: exit code 1: broken configuration"
    done = node.make_pass(authority)
    assert (done.loaded, done.problems) == ("", [reloads.fault])
    reloads.fault = ""
    done = node.make_pass(authority)
    assert (done.loaded, done.problems) == (current(config.files), [])
    node.make_pass(authority)
    assert reloads.count == 2, "what is loaded is not loaded again"


def test_a_crash_between_the_switch_and_the_reload_is_made_good(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock, reloads: Reloads
) -> None:
    def crash(_: Server) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Node(config, now=clock, reload=crash).make_pass(authority)
    assert kept(config).leaf == authority.issued[0]
    assert state.read(config.state).loaded == ""
    assert node.make_pass(authority).loaded == current(config.files)
    assert (reloads.count, certificates_asked(authority)) == (1, 1)


@pytest.mark.parametrize("name", [KEY, CHAIN])
def test_damaged_files_are_made_anew_under_the_same_anchors(
    node: Node, config: NodeConfig, authority: NodeAuthority, name: str
) -> None:
    node.make_pass(authority)
    before = kept(config)
    path = config.files / "current" / name
    path.write_bytes(path.read_bytes()[:-50])
    done = node.make_pass(authority)
    assert "made anew" in done.problems[0]
    assert kept(config).anchors == before.anchors
    assert kept(config).leaf == authority.issued[1]
    assert node.make_pass(authority).is_well


def test_lost_anchors_are_not_taken_from_the_daemon_again(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    (config.files / "current" / ANCHORS).write_text("")
    evil = NodeAuthority(clock, common_name="Evil CA")
    done = node.make_pass(evil)
    assert evil.asked == []
    assert "hsmd node init --again" in done.problems[0]


def test_files_that_are_gone_do_not_have_anchors_taken_from_the_daemon_again(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    shutil.rmtree(config.files)
    evil = NodeAuthority(clock, common_name="Evil CA")
    done = node.make_pass(evil)
    assert evil.asked == []
    assert "hsmd node init --again" in done.problems[0]
    state.begin_anew(config.state)
    assert node.make_pass(authority).is_well
    assert kept(config).anchors == tuple(authority.anchors)


def test_a_node_that_is_set_up_again_takes_other_anchors_once(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    before = kept(config)
    state.begin_anew(config.state)
    other = NodeAuthority(clock, common_name="Example CA 2")
    other.fault = NotFound("not allowed yet")
    assert node.make_pass(other).anew
    assert kept(config) == before, "what the program has stays until there is another certificate"
    other.fault = None
    assert not node.make_pass(other).anew
    assert kept(config).anchors == tuple(other.anchors)
    assert kept(config).key != before.key
    assert "does not trust" in node.make_pass(authority).problems[0]


def test_files_that_cannot_be_written_are_told_and_the_program_keeps_what_it_has(
    node: Node,
    config: NodeConfig,
    authority: NodeAuthority,
    reloads: Reloads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node.make_pass(authority)
    before = kept(config)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device", str(config.files))

    monkeypatch.setattr(documents, "write", full)
    done = node.make_pass(authority, Wish(renew=True))
    assert done.problems == [f"{config.files}: No space left on device"]
    monkeypatch.undo()
    assert kept(config) == before
    assert reloads.count == 1


def test_no_certificate_is_asked_for_that_could_not_be_written(
    node: Node,
    config: NodeConfig,
    authority: NodeAuthority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon gives a node twenty certificates at a time: a full disk must not use them up."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(config.files))

    monkeypatch.setattr(version_directories, "store", full)
    for _ in range(3):
        assert node.make_pass(authority).problems == [f"{config.files}: No space left on device"]
    assert certificates_asked(authority) == 0
    monkeypatch.undo()
    assert node.make_pass(authority).is_well


def test_certificates_of_no_use_are_asked_for_less_and_less_often(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    clock.forward(days=400)  # this host's clock alone: what is issued is not valid here
    issued_at = clock.now - timedelta(days=400)

    class Right(NodeAuthority):
        def ask(self, request: Any) -> object:
            now, clock.now = clock.now, issued_at
            try:
                return authority.ask(request)
            finally:
                clock.now = now

    right = Right(clock)
    before = certificates_asked(authority)
    for _ in range(24 * 60):
        done = node.make_pass(right)
        assert "clocks" in done.problems[0], "it is told between the attempts, too"
        clock.forward(minutes=1)
    assert certificates_asked(authority) - before <= 11
    assert "clocks" in node.make_pass(right, Wish(renew=True)).problems[0]
    asked = certificates_asked(authority)
    clock.now = issued_at
    assert node.make_pass(right, Wish(renew=True)).wasted == 0
    assert certificates_asked(authority) == asked + 1


def test_a_crash_behind_the_request_counts_as_one_of_no_use(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    class Killing(NodeAuthority):
        def ask(self, request: Any) -> object:
            answer = authority.ask(request)
            if isinstance(request, NodeCertificate):
                raise KeyboardInterrupt
            return answer

    with pytest.raises(KeyboardInterrupt):
        node.make_pass(Killing(authority.clock))
    assert state.read(config.state).wasted == 1
    node.make_pass(authority)
    assert certificates_asked(authority) == 1
    authority.clock.forward(minutes=1)
    assert node.make_pass(authority).is_well


def test_a_refusal_is_no_certificate_of_no_use(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    class Refusing(NodeAuthority):
        def ask(self, request: Any) -> object:
            if isinstance(request, NodeCertificate):
                raise NotFound("not yet")
            return authority.ask(request)

    assert node.make_pass(Refusing(authority.clock)).wasted == 0
    assert node.make_pass(authority).is_well


def test_as_root_no_files_are_written_where_another_user_could_lead_them_elsewhere(
    node: Node, config: NodeConfig, authority: NodeAuthority, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(tmp_path, 12_345, -1)
    done = node.make_pass(authority)
    assert "belongs to user 12345" in done.problems[0]
    assert certificates_asked(authority) == 0
    assert list(config.files.iterdir()) == []


def test_a_pipe_in_place_of_a_file_does_not_stop_the_node(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    node.make_pass(authority)
    for name in (KEY, LISTS):
        path = config.files / "current" / name
        path.unlink()
        os.mkfifo(path)
        assert "named pipe" in node.make_pass(authority).problems[0]
        assert node.make_pass(authority).is_well


def test_what_is_not_the_nodes_stays_in_its_directory(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    """The directory may have been there before, with files of the program."""
    (config.files / "sites").mkdir(parents=True)
    (config.files / "nginx.conf").write_text("x")
    (config.files / ".0123456789abcdef.new").write_text("left by a crash")
    node.make_pass(authority)
    node.make_pass(authority, Wish(renew=True))
    names = {each.name for each in config.files.iterdir()}
    assert {"sites", "nginx.conf"} <= names
    assert ".0123456789abcdef.new" not in names


def test_a_lost_state_has_the_program_reloaded_once_more(
    node: Node, config: NodeConfig, authority: NodeAuthority, reloads: Reloads
) -> None:
    node.make_pass(authority)
    shutil.rmtree(config.state)
    config.state.mkdir()
    node.make_pass(authority)
    node.make_pass(authority)
    assert reloads.count == 2


def test_a_node_asks_with_the_key_that_it_keeps(
    node: Node, config: NodeConfig, authority: NodeAuthority
) -> None:
    node.make_pass(authority)
    certified = kept(config).leaf.public_key()
    assert certified == load_pem_private_key(kept(config).key.pem, None).public_key()
    assert [type(each) for each in authority.asked] == [NodeTrust, NodeCertificate]


def test_one_pass_at_a_time(config: NodeConfig, tmp_path: Path) -> None:
    from hsmd.errors import Conflict

    with state.locked(config.state), pytest.raises(Conflict, match="at work"), state.locked(config.state, 0):
        pass
    with state.locked(config.state, 0):
        pass


def test_a_check_is_remembered(node: Node, config: NodeConfig, authority: NodeAuthority) -> None:
    probed = replace(config, probes=(Probe(Whose.COUNTERPART, command=("/bin/false",)),))
    again = Node(probed, now=authority.clock, reload=lambda _: "")
    assert again.make_pass(authority).problems == ["/bin/false: exit code 1: it said nothing"]
    well = Node(
        replace(config, probes=(Probe(Whose.COUNTERPART, command=("/bin/true",)),)), reload=lambda _: ""
    )
    assert [each.error for each in well.check()] == [""]
    assert state.read(config.state).is_well


def test_a_new_anchor_comes_with_the_list_of_its_authority_or_is_no_success(
    node: Node, config: NodeConfig, authority: NodeAuthority, clock: Clock
) -> None:
    node.make_pass(authority)
    following = NodeAuthority(clock, common_name="Example CA 2")

    def add(before: Kept) -> Kept:
        return replace(before, anchors=(*before.anchors, following.root()))

    done = node.change(add, authority)
    assert "no revocation list of the new authority" in done.problems[0]
    authority.after = following
    done = node.change(lambda before: before, authority)
    assert done.problems == []
    assert kept(config).has_all_lists
    assert len(kept(config).anchors) == 2
