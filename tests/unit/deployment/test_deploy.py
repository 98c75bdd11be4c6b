"""Root's side of a renewal: what it installs, what it leaves as it is, whom it reloads, and what it reports."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from hsmd.deployment import installed, pair
from hsmd.deployment.installed import Certificate
from hsmd.deployment.servers import Server
from hsmd.errors import ConfigurationError
from tests.support.renewals import DAY, NOW, FrontEnd, Key, content, is_root


@pytest.fixture
def front(tmp_path: Path) -> FrontEnd:
    return FrontEnd(tmp_path)


@pytest.fixture
def www() -> Key:
    return Key("www")


def served(front: FrontEnd) -> dict[str, str]:
    return {each.key: each.leaf for each in installed.read(front.places.report).certificates}


def leaf(chain: str) -> str:
    return pair.leaf_digest(chain.encode())


def test_an_export_of_an_earlier_release_is_renewed_without_any_list(front: FrontEnd, www: Key) -> None:
    front.places.servers.rmdir()
    reference = front.export(www, www.chain(), mode=0o644)
    renewed = www.offer()
    front.renew(renewed)
    done = front.deploy()
    assert (done.installed, done.refused, done.faults) == (["www"], {}, [])
    assert front.chain("www").read_text() == renewed.chain
    assert stat.S_IMODE(reference.stat().st_mode) == 0o644
    assert served(front) == {"www": leaf(renewed.chain)}


@pytest.mark.parametrize(("stem", "suffix"), [("www", ".key"), ("www", ".pem.key"), ("site", ".key")])
def test_each_form_of_an_export_is_renewed(front: FrontEnd, www: Key, stem: str, suffix: str) -> None:
    """The reference itself says which key it is, also under HAProxy's name for it and under any other."""
    front.export(www, www.chain(), stem=stem, suffix=suffix)
    renewed = www.offer()
    front.renew(renewed)
    assert front.deploy().installed == ["www"]
    assert front.chain(stem).read_text() == renewed.chain


def test_a_first_certificate_is_installed_beside_the_reference(front: FrontEnd, www: Key) -> None:
    front.export(www)
    renewed = www.offer()
    front.renew(renewed)
    assert front.deploy().installed == ["www"]
    assert front.chain("www").read_text() == renewed.chain
    assert stat.S_IMODE(front.chain("www").stat().st_mode) == 0o644


def test_a_new_key_of_the_same_name_replaces_both_files(front: FrontEnd, www: Key) -> None:
    reference = front.export(www, www.chain())
    successor = Key("www")
    renewed = successor.offer()
    front.renew(renewed)
    assert front.deploy().installed == ["www"]
    pair.parse("www", front.chain("www").read_bytes(), reference.read_bytes())
    assert front.chain("www").read_text() == renewed.chain


def test_owner_and_mode_stay_those_of_the_file(front: FrontEnd, www: Key) -> None:
    reference = front.export(www, www.chain(), mode=0o640)
    front.chain("www").chmod(0o604)
    if is_root():
        os.chown(reference, 0, 1)
        os.chown(front.chain("www"), 1, 2)
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in (reference, front.chain("www"))]
    front.renew(Key("www").offer())
    assert front.deploy().installed == ["www"]
    assert stat.S_IMODE(reference.stat().st_mode) == 0o640
    assert stat.S_IMODE(front.chain("www").stat().st_mode) == 0o604
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (reference, front.chain("www"))] == owners


def test_only_exported_keys_are_installed(front: FrontEnd, www: Key) -> None:
    front.export(www, www.chain())
    front.renew(www.offer(), Key("other").offer())
    front.deploy()
    assert sorted(os.listdir(front.places.keys)) == ["www.key", "www.pem"]


def test_a_private_key_among_the_exports_is_not_touched(front: FrontEnd, www: Key) -> None:
    private = front.places.keys / "www.key"
    private.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    front.renew(www.offer())
    before = content(front.places.keys)
    done = front.deploy()
    assert (done.installed, done.absent) == ([], [])
    assert content(front.places.keys) == before


def test_a_second_pass_does_nothing(front: FrontEnd, www: Key) -> None:
    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.export(www, www.chain())
    front.renew(www.offer())
    front.deploy()
    done = front.deploy()
    assert (done.installed, done.unchanged, done.reloaded) == ([], 1, [])
    assert front.reloads == ["nginx"]


def test_each_server_concerned_is_reloaded_once(front: FrontEnd) -> None:
    keys = [Key(name) for name in ("a", "b", "c")]
    for key in keys:
        front.export(key, key.chain())
    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.list_server("haproxy", 'unit = "haproxy.service"\nkeys = ["c"]\n')
    front.list_server("apache", 'unit = "apache2.service"\nkeys = ["other"]\n')
    front.unlisted = [Server("postgresql", (front.places.keys,), unit="postgresql.service")]
    front.renew(*(key.offer() for key in keys))
    assert front.deploy().reloaded == ["haproxy", "nginx", "postgresql"]
    front.reloads.clear()
    front.renew(keys[0].offer())
    assert front.deploy().reloaded == ["nginx", "postgresql"]
    assert front.reloads == ["nginx", "postgresql"]


def test_a_server_that_could_not_be_reloaded_is_tried_again(front: FrontEnd, www: Key) -> None:
    """Until then, what it served before is reported."""
    old, renewed = www.offer(), www.offer()
    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.export(www, "")
    front.renew(old)
    front.deploy()
    front.faults["nginx"] = "exit code 1"
    front.renew(renewed)
    assert front.deploy().not_reloaded == {"nginx": "exit code 1"}
    assert served(front) == {"www": leaf(old.chain)}
    assert front.deploy().not_reloaded == {"nginx": "exit code 1"}
    assert served(front) == {"www": leaf(old.chain)}
    front.faults.clear()
    assert front.deploy().reloaded == ["nginx"]
    assert served(front) == {"www": leaf(renewed.chain)}


def test_a_crash_between_installation_and_reload_is_made_good(front: FrontEnd, www: Key) -> None:
    class Killed(BaseException):
        pass

    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.export(www, www.chain())
    front.renew(www.offer())

    def killed(server: Server) -> str:
        raise Killed

    with pytest.raises(Killed):
        from hsmd.deployment.deploy import deploy

        deploy(front.places, NOW, reload=killed, unlisted=lambda listed, directory: [])
    assert front.deploy().reloaded == ["nginx"]


def test_the_notice_of_the_agent_is_taken_first(front: FrontEnd, www: Key) -> None:
    front.export(www, www.chain())
    front.renew(www.offer())
    notice = front.places.state / "certificates.switched"
    assert notice.exists()
    front.deploy()
    assert not notice.exists()


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (NOW + timedelta(hours=1), NOW + DAY, "not valid before"),
        (NOW - DAY, NOW + timedelta(hours=1), "ended on"),
    ],
    ids=["not yet valid", "ended"],
)
def test_a_certificate_that_is_not_valid_now_is_not_installed(
    front: FrontEnd, www: Key, begin: object, end: object, reason: str
) -> None:
    """The agent judged at another time, or not at all."""
    front.export(www, www.chain())
    before = content(front.places.keys)
    offer = www.offer(www.chain(begin, end))  # type: ignore[arg-type]
    front.versions.write([offer], NOW + timedelta(minutes=90) if begin > NOW else NOW)  # type: ignore[operator]
    done = front.deploy(NOW if begin > NOW else NOW + DAY)  # type: ignore[operator]
    assert reason in done.refused["www"]
    assert content(front.places.keys) == before


def test_a_key_that_the_agent_does_not_have_is_named(front: FrontEnd, www: Key) -> None:
    chain = www.chain()
    front.export(www, chain)
    front.renew(Key("other").offer())
    done = front.deploy()
    assert (done.absent, done.refused) == (["www"], {})
    assert served(front) == {"www": leaf(chain)}


def test_a_bad_entry_of_the_list_is_named_and_the_others_count(front: FrontEnd, www: Key) -> None:
    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.list_server("bad", 'directories = ["relative"]\nkey = 3\n')
    front.export(www, www.chain())
    front.renew(www.offer())
    done = front.deploy()
    assert (done.installed, done.reloaded) == (["www"], ["nginx"])
    assert "bad.toml" in done.faults[0] and "must be an absolute path" in done.faults[0]


def test_further_directories_of_the_list_are_renewed(front: FrontEnd, www: Key, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    front.list_server("custom", f'directories = ["{other}"]\n')
    front.export(www, www.chain())
    (front.places.keys / "www.key").rename(other / "www.key")
    renewed = www.offer()
    front.renew(renewed)
    assert front.deploy().installed == ["www"]
    assert (other / "www.pem").read_text() == renewed.chain


def test_what_another_user_could_write_is_not_believed(front: FrontEnd, www: Key) -> None:
    """The list, a file of it, and a directory of exports."""
    front.list_server("nginx", 'unit = "nginx.service"\n')
    front.export(www, www.chain())
    front.renew(www.offer())
    before = content(front.places.keys)
    front.places.servers.chmod(0o775)
    with pytest.raises(ConfigurationError, match="other users"):
        front.deploy()
    front.places.servers.chmod(0o755)
    (front.places.servers / "nginx.toml").chmod(0o646)
    front.places.keys.chmod(0o757)
    done = front.deploy()
    assert len(done.faults) == 2
    assert all("other users" in fault for fault in done.faults)
    assert (done.installed, done.reloaded) == ([], [])
    assert content(front.places.keys) == before
    front.places.keys.chmod(0o755)
    (front.places.servers / "nginx.toml").chmod(0o644)
    assert front.deploy().reloaded == ["nginx"]


def test_a_directory_that_another_user_could_replace_is_not_believed(front: FrontEnd, www: Key) -> None:
    """Who can rename a directory above can put links in its place between check and write."""
    home = front.places.state.parent / "of-a-user"
    (home / "keys").mkdir(parents=True)
    front.list_server("nginx", f'directories = ["{front.places.state.parent}/link/keys"]\n')
    (front.places.state.parent / "link").symlink_to("of-a-user")
    for file in (front.export(www, www.chain()), front.places.keys / "www.pem"):
        file.rename(home / "keys" / file.name)
    front.renew(www.offer())
    before = content(home / "keys")
    home.chmod(0o757)
    done = front.deploy()
    assert (done.installed, len(done.faults)) == ([], 1)
    assert f"{home}: other users than its owner may write it" in done.faults[0]
    assert content(home / "keys") == before
    home.chmod(0o1757)
    assert front.deploy().installed == ["www"], "the positive control: as in /tmp, others cannot rename it"


def test_a_file_of_another_owner_is_not_believed(front: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    path = front.list_server("nginx", 'unit = "nginx.service"\n')
    if os.stat(path).st_uid == 0:
        os.chown(path, 54321, -1)
    done = front.deploy()
    assert "belongs to user" in " ".join(done.faults)


def test_a_link_in_place_of_a_chain_is_not_replaced(front: FrontEnd, www: Key, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    front.export(www)
    front.chain("www").symlink_to(target)
    front.renew(www.offer())
    done = front.deploy()
    assert "is a link" in done.refused["www"]
    assert target.read_text() == "kept"
    assert front.chain("www").is_symlink()


def test_the_report_is_a_stable_document(front: FrontEnd, www: Key) -> None:
    chain = www.chain()
    front.export(www, chain)
    front.deploy()
    assert installed.read(front.places.report).certificates == [Certificate("www", leaf(chain))]
    assert stat.S_IMODE(front.places.report.stat().st_mode) == 0o644
    written = front.places.report.stat().st_mtime_ns
    front.deploy()
    assert front.places.report.stat().st_mtime_ns == written
