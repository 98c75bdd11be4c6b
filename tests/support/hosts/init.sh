# Turns the namespaces in which it runs, as their PID 1, into a host and becomes its systemd. Run by keeper.sh.
#
#   init ROOT CLEAN NAME [SOURCE=TARGET[:rw]...]
set -euo pipefail
root=$1 clean=$2 name=$3
shift 3
mount --make-rprivate /
cd "$root"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys   # the kernel is the machine's
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
# A boot of its own, by whose number systemd and journalctl know what an earlier one has left.
cat proc/sys/kernel/random/uuid >run/boot-id
mount --bind run/boot-id proc/sys/kernel/random/boot_id
mount -o remount,bind,ro proc/sys/kernel/random/boot_id
rm run/boot-id
if [ "$clean" = yes ]; then   # a machine's own may be large: systemd-tmpfiles would take long to clear it
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount -t tmpfs -o mode=1777 tmpfs var/tmp
fi
for device in null zero full random urandom tty; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

for bind in "$@"; do
  target=.${bind#*=}
  mkdir -p "${target%:rw}"
  mount --bind "${bind%%=*}" "${target%:rw}"
  [[ "$target" = *:rw ]] || mount -o remount,bind,ro "$target"
done

hostname "$name"
pivot_root . .
umount -l .
mount --make-rshared /   # without this LoadCredential= finds nothing
cd /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=0
