"""Hosts with a systemd of their own, on one machine: Debian root file systems booted in namespaces, joined by networks.

    with Bed() as bed:
        dedicated = bed.network("10.9.0.254/24")                     # the test itself has this address there
        key = bed.host("key", roots.debian("bookworm", "softhsm2"), {dedicated: "10.9.0.1"})
        front = bed.host("front", roots.debian("trixie", "nginx-light"), {dedicated: "10.9.0.2"})
        bed.boot()                                                   # all at once; returns when all are ready
        key.install_hsmd()                                           # /opt/hsmd, and /usr/local/bin/hsmd
        key.sh("systemctl is-active dbus")                           # bash -euo pipefail; AssertionError if it fails
        front.run("hsmd", "--version", check=False).returncode
        key.copy(front, "/etc/hsmd/ca.pem", "/etc/hsmd/ca.pem")
        front.write("/etc/nginx/conf.d/www.conf", text)
        dedicated.run("openssl", "s_client", "-connect", "10.9.0.2:443")    # a program of this machine, in that network

* `roots.machine()` is a copy-on-write view of this machine's own file system (in no time; what scripts/test installs is in
  it), `roots.debian(SUITE, PACKAGES...)` a Debian release from a cache (`roots.CACHE`; the first time takes a minute).
* A command runs as root (`user=` another one) with a new environment. With `online=True` it uses this machine's network
  instead of the host's, so that apt and pip reach their servers.
* `Host.reboot`, `power_off`, `power_cut` and `boot` keep the disk; `Bed.close` removes everything. Should the test be
  killed, the kernel ends all hosts with it; empty cgroups and temporary directories are removed by the next `Bed`.
* Disks are in memory. Root and namespaces are required; `Bed` raises SetupError (an AssertionError) with the reason.
* Use a Bed in the thread that made it: its hosts end with that thread. Commands may run in any thread.
"""

from tests.support.hosts import roots
from tests.support.hosts.bed import Bed
from tests.support.hosts.host import Host
from tests.support.hosts.networks import Network
from tests.support.hosts.requirements import SetupError
from tests.support.hosts.roots import Root

__all__ = ["Bed", "Host", "Network", "Root", "SetupError", "roots"]
