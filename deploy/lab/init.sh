#!/bin/busybox sh
# First program of a lab node: puts a writable overlay over the host's root and goes on there.
export PATH=/bin
fail() {
	echo "lab: $*" >/dev/console
	poweroff -f
}
mount -t devtmpfs dev /dev
mount -t proc proc /proc
if grep -q fallow.probe /proc/cmdline; then
	echo "lab: probe passed" >/dev/console
	sleep 1
	poweroff -f
fi
while read -r module; do
	insmod "/modules/$module" || fail "insmod $module"
done </modules/order
mkdir -p /lower /upper /root
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower || fail "no root"
mount -t tmpfs -o size=60% upper /upper
mkdir /upper/up /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/up,workdir=/upper/work,redirect_dir=off,index=off \
	root /root || fail "no overlay"
for word in $(cat /proc/cmdline); do
	case $word in
	lab.guest=*) guest=${word#*=} ;;
	esac
done
umount /proc
mount --move /dev /root/dev
exec switch_root /root /bin/bash "$guest"
