#!/bin/bash
# A lab node after its root is there: network, Soft-RoCE, then jobs for as long as it runs.
# Every job is a directory in the share: "command" goes in; "output", "errors" and "code" come out.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sys /sys
for word in $(</proc/cmdline); do
	case $word in
	lab.node=*) node=${word#*=} ;;
	lab.modules=*) modules=${word#*=} ;;
	lab.nodes=*) nodes=${word#*=} ;;
	esac
done
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777,size=80% shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mkdir -p /run/lab /lib/modules
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /run/lab
# The kernel looks for modules itself: Soft-RoCE wants its checksum that way.
mount --bind "$modules" /lib/modules
hostname "node$node"

ip link set lo up
ip link set eth0 mtu 4200 up
ip addr add "10.77.0.$node/24" dev eth0
# What is about the link under test does not depend on resolving addresses over it.
for other in $(seq "$nodes"); do
	[ "$other" = "$node" ] || ip neigh replace "10.77.0.$other" dev eth0 nud permanent \
		lladdr "52:54:00:77:00:$(printf %02x "$other")"
done
modprobe -a rdma_rxe ib_uverbs rdma_ucm
rdma link add rxe0 type rxe netdev eth0
ulimit -l unlimited
ulimit -n 65536
echo 1 >/proc/sys/kernel/panic_on_oops

job_run() {
	local dir=/run/lab/jobs/$1
	bash "$dir/command" >"$dir/output" 2>"$dir/errors" </dev/null
	echo $? >"$dir/code.new"
	mv "$dir/code.new" "$dir/code"
}

stty -F /dev/ttyS1 raw -echo
exec 3</dev/ttyS1
echo up >/run/lab/up
while :; do
	read -r -u 3 id || {
		sleep 0.1
		continue
	}
	[ -d "/run/lab/jobs/$id" ] && job_run "$id" 3<&- &
done
