#!/bin/bash
# Keeps the disk of a host, and boots it whenever a line arrives on standard input. Runs as PID 1 of a namespace, so that
# everything below ends with it.
#
#   keeper.sh CGROUP ROOT CLEAN NAME [SOURCE=TARGET[:rw]...]
#
# CGROUP: the host's; ROOT: its files; CLEAN: yes for a machine's own root; the rest: directories that the host sees, read-only without :rw.
set -euo pipefail
cgroup=$1 root=$2 clean=$3 name=$4
shift 4
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
disk=/mnt   # of this mount namespace

boot=$(cat "$here/init.sh")   # read now: what is mounted on $disk may hide it
mount -t tmpfs -o mode=755,size=90% hsmd-host "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay -o "lowerdir=$root,upperdir=$disk/upper,workdir=$disk/work" hsmd-host "$disk/root"
cd "$disk/root"

printf '%s\n' "$name" >etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$name" >etc/hosts
rm -f etc/machine-id etc/fstab
: >etc/machine-id   # empty, not missing: systemd makes one, without the questions of a first boot
: >etc/fstab
if [ "$clean" = yes ]; then
  # A machine's own services do not start in the host, and what it has of hsmd is not there.
  rm -rf etc/systemd/system etc/init.d etc/rc?.d etc/cron.d var/log/journal var/lib/systemd etc/hsmd var/lib/hsmd* usr/local/bin/hsmd
  mkdir -p etc/systemd/system
  sed -i '/^hsmd/d' etc/passwd etc/group etc/shadow etc/gshadow
  ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target
fi
# No modules can be loaded here, and there is no terminal.
for unit in systemd-modules-load.service getty.target; do ln -sf /dev/null "etc/systemd/system/$unit"; done

run() (
  echo 0 >"$cgroup/cgroup.procs"   # not the keeper: systemd wants no process beside its own slices
  exec unshare --mount --pid --uts --ipc --cgroup --fork bash -c "$boot" init "$disk/root" "$clean" "$name" "$@" </dev/null
)

while read -r _; do
  while run "$@"; [ $? -eq 129 ]; do :; done   # a reboot ends a PID namespace with SIGHUP, a power-off with SIGINT
done
