"""An agent under an attacker's control against the step that installs certificates as root."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmd.client import keyref
from hsmd.client.keyref import KeyReference
from hsmd.deployment import pair
from hsmd.deployment.version_directories import CURRENT
from hsmd.deployment.versions import CHAIN, REFERENCE, SWITCHED
from hsmd.errors import BadRequest
from tests.support.certificate_versions import of_unknown_version
from tests.support.renewals import FrontEnd, Key, content

WWW = Key("www")
OTHER = Key("other")
OTHER_WWW = Key("www")
PIPES: list[int] = []


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontEnd]:
    """With `www` exported and listed for nginx, and a renewed certificate that has not been installed."""
    made = FrontEnd(tmp_path)
    made.list_server("nginx", 'unit = "nginx.service"\n')
    made.export(WWW, WWW.chain())
    made.renew(WWW.offer())
    yield made
    while PIPES:
        os.close(PIPES.pop())


def home(front: FrontEnd) -> Path:
    return front.places.state / "certificates" / "www"


def version(front: FrontEnd) -> Path:
    return home(front) / os.readlink(home(front) / CURRENT)


def elsewhere(front: FrontEnd) -> Path:
    """A directory outside of the agent's, with a pair that would be accepted."""
    outside = front.places.state.parent / "outside"
    shutil.copytree(version(front), outside)
    return outside


def current_leads_outside(front: FrontEnd) -> None:
    outside = elsewhere(front)
    (home(front) / CURRENT).unlink()
    (home(front) / CURRENT).symlink_to(outside)


def current_leads_up(front: FrontEnd) -> None:
    elsewhere(front)
    (home(front) / CURRENT).unlink()
    (home(front) / CURRENT).symlink_to("../../../outside")


def version_is_a_link(front: FrontEnd) -> None:
    outside, inside = elsewhere(front), version(front)
    shutil.rmtree(inside)
    inside.symlink_to(outside)


def name_is_a_link(front: FrontEnd) -> None:
    outside = front.places.state.parent / "outside"
    home(front).rename(outside)
    home(front).symlink_to(outside)


def chain_is_a_link(front: FrontEnd) -> None:
    outside, chain = elsewhere(front), version(front) / CHAIN
    chain.unlink()
    chain.symlink_to(outside / CHAIN)


def reference_is_a_link(front: FrontEnd) -> None:
    outside, reference = elsewhere(front), version(front) / REFERENCE
    reference.unlink()
    reference.symlink_to(outside / REFERENCE)


def chain_has_another_name(front: FrontEnd) -> None:
    outside, chain = elsewhere(front), version(front) / CHAIN
    chain.unlink()
    os.link(outside / CHAIN, chain)


def chain_is_a_pipe(front: FrontEnd) -> None:
    """With a chain in it that would be accepted."""
    chain = version(front) / CHAIN
    content = chain.read_bytes()
    chain.unlink()
    os.mkfifo(chain)
    PIPES.append(os.open(chain, os.O_RDWR))
    os.write(PIPES[-1], content)


def chain_is_a_directory(front: FrontEnd) -> None:
    (version(front) / CHAIN).unlink()
    (version(front) / CHAIN).mkdir()


def chain_is_endless(front: FrontEnd) -> None:
    with (version(front) / CHAIN).open("r+b") as file:
        file.truncate(1 << 40)


def reference_is_endless(front: FrontEnd) -> None:
    with (version(front) / REFERENCE).open("r+b") as file:
        file.truncate(1 << 40)


def chain_is_of_another_key(front: FrontEnd) -> None:
    (version(front) / CHAIN).write_text(Key("www").chain())


def pair_is_of_another_name(front: FrontEnd) -> None:
    """A certificate of another site, which the agent may use."""
    (version(front) / CHAIN).write_text(OTHER.chain())
    (version(front) / REFERENCE).write_text(keyref.encode(OTHER.reference))


def reference_is_a_private_key(front: FrontEnd) -> None:
    (version(front) / REFERENCE).write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


def chain_is_no_certificate(front: FrontEnd) -> None:
    (version(front) / CHAIN).write_text("root:x:0:0:root:/root:/bin/bash\n")


def chain_is_of_an_unknown_version(front: FrontEnd) -> None:
    (version(front) / CHAIN).write_text(of_unknown_version((version(front) / CHAIN).read_text())[0])


ATTACKS: tuple[Callable[[FrontEnd], None], ...] = (
    current_leads_outside,
    current_leads_up,
    version_is_a_link,
    name_is_a_link,
    chain_is_a_link,
    reference_is_a_link,
    chain_has_another_name,
    chain_is_a_pipe,
    chain_is_a_directory,
    chain_is_endless,
    reference_is_endless,
    chain_is_of_another_key,
    pair_is_of_another_name,
    reference_is_a_private_key,
    chain_is_no_certificate,
    chain_is_of_an_unknown_version,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_is_installed_from_a_hostile_directory(
    front: FrontEnd, attack: Callable[[FrontEnd], None]
) -> None:
    before = content(front.places.keys)
    attack(front)
    done = front.deploy()
    assert (done.installed, front.reloads) == ([], [])
    assert "www" in done.refused
    assert "root:x" not in str(done)
    assert content(front.places.keys) == before


def test_the_same_directory_without_an_attack_is_installed(front: FrontEnd) -> None:
    """The positive control."""
    assert front.deploy().installed == ["www"]


def test_the_directory_of_certificates_itself_may_not_be_a_link(front: FrontEnd) -> None:
    certificates = front.places.state / "certificates"
    certificates.rename(front.places.state.parent / "moved")
    certificates.symlink_to(front.places.state.parent / "moved")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        front.deploy()
    assert front.reloads == []


def test_only_certificates_are_installed_of_a_file_that_has_more(front: FrontEnd) -> None:
    """Parameters, keys and text beside the certificates could change how a server behaves."""
    chain = version(front) / CHAIN
    wanted = chain.read_text()
    chain.write_text(
        "-----BEGIN DH PARAMETERS-----\nMAYCAQ8CAQI=\n-----END DH PARAMETERS-----\n# text\n"
        + wanted
        + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    assert front.deploy().installed == ["www"]
    assert front.chain("www").read_text() == wanted


def test_a_reference_that_has_more_is_refused(front: FrontEnd) -> None:
    reference = version(front) / REFERENCE
    reference.write_text(
        reference.read_text() + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    assert front.deploy().installed == []


@pytest.mark.parametrize("name", ["../www", "/etc/www", "..", ".", "", "www/../../x", ".www"])
def test_no_name_leads_out_of_the_directory(front: FrontEnd, name: str) -> None:
    from hsmd.deployment.agent_directory import AgentDirectory

    with AgentDirectory(front.places.state) as agent:
        assert agent.read("www") is not None
        with pytest.raises(BadRequest):
            agent.read(name)


def test_a_reference_of_root_with_a_bad_name_is_no_export(front: FrontEnd) -> None:
    """A key reference may hold any text as its name."""
    path = front.places.keys / "bad.key"
    path.write_text(keyref.encode(KeyReference("../../etc/x", WWW.public_key)))
    done = front.deploy()
    assert (done.installed, done.absent) == (["www"], [])


def test_a_held_lease_makes_root_not_wait(front: FrontEnd) -> None:
    """open(2) of a file with a lease waits for its holder, up to 45 s."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with (version(front) / CHAIN).open("rb+") as held:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        done = front.deploy()
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    assert "www" in done.refused


def test_a_pair_that_changes_while_it_is_read_is_installed_whole_or_not(front: FrontEnd) -> None:
    """What is installed is what was checked, however the files change in between."""
    target, stop = version(front), threading.Event()
    pairs = [
        (OTHER_WWW.chain(), keyref.encode(OTHER_WWW.reference)),
        (WWW.chain(), keyref.encode(WWW.reference)),
    ]

    def swap() -> None:
        while not stop.is_set():
            for chain, reference in pairs:
                (target / CHAIN).write_text(chain)
                (target / REFERENCE).write_text(reference)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        for _ in range(100):
            seen.update(front.deploy().installed)
            pair.parse("www", front.chain("www").read_bytes(), (front.places.keys / "www.key").read_bytes())
    finally:
        stop.set()
        thread.join()
    assert seen == {"www"}


def test_a_notice_that_cannot_be_removed_installs_nothing(front: FrontEnd) -> None:
    notice = front.places.state / SWITCHED
    notice.unlink()
    notice.mkdir()
    with pytest.raises(OSError, match=r"directory|not permitted"):
        front.deploy()
    assert front.reloads == []


def test_a_notice_that_is_a_link_is_removed_and_not_followed(front: FrontEnd) -> None:
    target = front.places.state.parent / "target"
    target.write_text("kept")
    notice = front.places.state / SWITCHED
    notice.unlink()
    notice.symlink_to(target)
    assert front.deploy().installed == ["www"]
    assert target.read_text() == "kept"
