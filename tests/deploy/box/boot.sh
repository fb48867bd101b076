#!/bin/sh
# Becomes the first process of a throw-away machine: a real systemd on an overlay of this machine's
# root, in namespaces of its own. keeper.py starts it, as the first process of a PID namespace.
# What it can't undo it can't do either: the kernel's settings are read-only, the capabilities that
# reach past namespaces are gone, and every mount is private and ends with the last process.
#
#   boot.sh PROJECT SHARE CGROUP    PROJECT appears as /srv/echo, SHARE as /srv/share
set -eu

if [ "$#" = 3 ]; then
    echo 0 >"$3/cgroup.procs"
    # Only now, so that the namespace begins at this cgroup.
    exec unshare --cgroup sh "$0" "$1" "$2"
fi
project=$1
share=$2

# All of it lies in memory. Mounted over /mnt, which only our own mount namespace sees.
mount -t tmpfs -o mode=755,size=2g box /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root

mkdir -p srv/echo srv/share
mount --bind "$project" srv/echo
mount -o remount,bind,ro srv/echo
mount --bind "$share" srv/share

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
for each in sysrq-trigger kmsg; do
    [ ! -e "proc/$each" ] || mount --bind /dev/null "proc/$each"
done
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm
for each in null zero full random urandom tty; do
    : >"dev/$each"
    mount --bind "/dev/$each" "dev/$each"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp

# A bare machine: what this one has switched on is off, and so is what would ask for hardware.
rm -rf etc/systemd/system etc/systemd/system.conf.d opt/echo etc/echo var/log/journal
mkdir -p etc/systemd/system/multi-user.target.wants etc/systemd/journald.conf.d
for each in systemd-sysctl systemd-modules-load modprobe@ systemd-remount-fs systemd-udevd \
    systemd-udev-trigger systemd-random-seed systemd-timesyncd systemd-pstore systemd-networkd \
    systemd-resolved systemd-logind systemd-update-utmp networking getty@ console-getty \
    systemd-firstboot systemd-hwdb-update systemd-machine-id-commit systemd-binfmt polkit; do
    ln -s /dev/null "etc/systemd/system/$each.service"
done
for each in sys-kernel-debug sys-kernel-tracing sys-kernel-config sys-fs-fuse-connections \
    dev-hugepages dev-mqueue; do
    ln -s /dev/null "etc/systemd/system/$each.mount"
done
for each in systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-journald-audit.socket proc-sys-fs-binfmt_misc.automount; do
    ln -s /dev/null "etc/systemd/system/$each"
done
# As apt-get leaves it.
ln -s /lib/systemd/system/nginx.service etc/systemd/system/multi-user.target.wants/nginx.service
printf '[Journal]\nStorage=volatile\nAudit=\nReadKMsg=no\nRateLimitBurst=0\n' \
    >etc/systemd/journald.conf.d/box.conf
echo box >etc/hostname
hostname box
: >etc/fstab
: >etc/machine-id
ip link set lo up

mkdir .old
pivot_root . .old
umount -l /.old
rmdir /.old
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-audit_control,-audit_read,-mac_admin,-mac_override,-wake_alarm,-block_suspend \
    /lib/systemd/systemd --system --unit=multi-user.target --show-status=no
