#!/bin/busybox sh
# First program of a test guest: modules and mounts, then whatever takes jobs; with fallow.root=ro or rw among the kernel's words
# that is the first program of the file system on /dev/vda.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/
/bin/busybox mkdir -p /bin /dev /proc /sys /jobs /tmp /mnt
/bin/busybox --install -s /bin
fail() {
	echo "guest: $*" >/dev/console
	poweroff -f
}
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
if grep -q fallow.probe /proc/cmdline; then
	echo "guest: probe passed" >/dev/console
	sleep 1
	poweroff -f
fi
while read -r module; do
	insmod "/modules/$module" || fail "insmod $module"
done </modules/order
rm -rf /modules

# What is stuck must end the guest, not the test's patience.
echo 1 >/proc/sys/kernel/hung_task_panic || fail "no hung_task_panic"
ulimit -l unlimited
# `guest tasks` asks for all that the magic key can tell.
echo 1 >/proc/sys/kernel/sysrq

# The host's programs (fio, e2fsck) under /host, read-only, for guests that have room for a page cache.
if grep -q fallow.host /proc/cmdline; then
	mkdir /host
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072,cache=loose,ro host /host || fail "no host"
	for directory in dev proc sys; do
		mount --bind "/$directory" "/host/$directory"
	done
	mount -t tmpfs -o size=25% tmp /host/tmp
	mkdir -p /dev/shm /host/tmp/mnt
	mount -t tmpfs -o size=25% shm /dev/shm
fi

if grep -q fallow.root= /proc/cmdline; then
	mount -t ext4 -o "$(sed 's/.*fallow.root=\([a-z]*\).*/\1/' /proc/cmdline)" /dev/vda /mnt || fail "no root"
	for directory in dev proc sys; do
		mount --move "/$directory" "/mnt/$directory"
	done
	for directory in tmp jobs run; do
		mount -t tmpfs "$directory" "/mnt/$directory"
	done
	exec switch_root /mnt /sbin/init
fi
exec /bin/jobs
