"""nginx's error log gives the reason why a handshake failed, and the key's name, in the line that nginx writes anyway."""

from __future__ import annotations

import ssl

import pytest

from hsmd.protocol.messages import GrantAdd, GrantRemove
from tests.support.agent_policy import policy
from tests.support.front_end import server_user
from tests.support.polling import wait_until
from tests.support.site import CLIENT, PEM_HOST, Site


def failure(site: Site, host: str, version: str = "") -> int:
    """Attempt a handshake, which must fail; return the offset in nginx's log where its lines begin."""
    mark = site.nginx.log.stat().st_size
    with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
        site.handshake(host, version)
    return mark


def test_the_agent_is_down(site: Site) -> None:
    site.agent.stop()
    line = site.nginx.wait_for_log("hsmd::agent unreachable", failure(site, "p256.test"))
    assert f"key p256: cannot reach agent at {site.agent.socket}: " in line
    assert "is the agent running?" in line


def test_the_daemon_is_away(site: Site) -> None:
    site.daemon.stop()
    line = site.nginx.wait_for_log("hsmd::no daemon available", failure(site, "p256.test"))
    assert "key p256: no daemon can be reached" in line


def test_there_is_no_grant(site: Site) -> None:
    """The daemon only answers "refused"; the agent gives the reason, because it knows its grants."""
    site.daemon.ask(GrantRemove(CLIENT, "p384"))
    try:
        line = site.nginx.wait_for_log("hsmd::refused", failure(site, "p384.test"))
        assert f"key p384: the daemon does not grant {CLIENT} this key for " in line

        def known() -> bool:
            mark = failure(site, "p384.test")
            return f"or the daemon does not grant it to {CLIENT}" in site.nginx.wait_for_log("hsmd::", mark)

        wait_until(known, "the agent knows that the grant was removed")
    finally:
        site.daemon.ask(GrantAdd(CLIENT, "p384", ["tls-server"]))
    wait_until(lambda: site.serves("p384.test"), "the grant is in force again")


@pytest.mark.parametrize(("version", "purpose"), [("1.3", "tls13-server"), ("1.2", "tls12-server")])
def test_the_purpose_is_refused(site: Site, version: str, purpose: str) -> None:
    """A signature is requested from a key for RSA key exchange."""
    line = site.nginx.wait_for_log("hsmd::refused", failure(site, "rsakx.test", version))
    assert f"key rsakx: the daemon does not grant {CLIENT} this key for {purpose}" in line


def test_the_local_user_is_not_allowed(site: Site) -> None:
    """nginx's workers run as a user that agent.toml does not list for this key."""
    with policy(site, "[keys.p256]\nusers = []\n"):
        line = site.nginx.wait_for_log("hsmd::refused", failure(site, "p256.test"))
        user = user_id(server_user())
        assert (
            f"key p256: agent.toml does not allow user {user} to use this key, or the daemon does not grant"
            in line
        )
        assert site.serves("rsa.test")
    assert site.serves("p256.test")


def test_the_local_user_may_not_open_the_socket(site: Site) -> None:
    """The socket's mode excludes nginx's workers. Root is exempt from file modes, so this needs workers that are not root."""
    if server_user() != "root":
        mode = site.agent.socket.stat().st_mode
        site.agent.socket.chmod(0)
        try:
            line = site.nginx.wait_for_log("hsmd::agent unreachable", failure(site, "p256.test"))
        finally:
            site.agent.socket.chmod(mode)
        assert "this user may not use the socket" in line
    assert site.serves("p256.test")


def test_names_with_pem_keys_are_served_without_the_agent(site: Site) -> None:
    site.agent.stop()
    assert site.serves(PEM_HOST)


def user_id(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_uid
