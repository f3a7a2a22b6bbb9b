#!/bin/busybox sh
# First and only program of a test guest: modules, mounts, then jobs for as long as it runs.
# A job comes as a line "ID COMMAND" (base64) on the second serial port; "ID CODE OUTPUT ." (base64) leaves by the third.
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

stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
mkfifo /jobs/todo /jobs/done
exec 3</dev/ttyS1 4>/dev/ttyS2 5<>/jobs/done 6<>/jobs/todo

# A shell's read begins its line anew, without what it had of it, when a child of that shell ends meanwhile. A line comes
# by the port byte for byte: whoever reads it has no children. By a pipe it comes at once.
receive() {
	trap 'fail "no jobs are taken any more"' EXIT
	while :; do
		read -r id command <&3 || {
			sleep 0.1
			continue
		}
		[ -z "$command" ] || { echo "$command" >"/jobs/$id.job" && echo "$id" >&6; }
	done
}

# Whatever the kernel ends for want of memory, the job's end is told.
job_run() { # ID
	{
		echo 'echo 0 >/proc/self/oom_score_adj'
		base64 -d <"/jobs/$1.job"
	} >"/jobs/$1.sh"
	sh "/jobs/$1.sh" >"/jobs/$1.out" 2>&1 </dev/null 5>&-
	echo "$1 $?" >&5
}

# One process writes answers, so that they do not mix.
answer() {
	trap 'fail "no answers are given any more"' EXIT
	while read -r id code <&5; do
		echo "$id $code $(base64 -w 0 <"/jobs/$id.out") ." >&4
		rm -f "/jobs/$id.job" "/jobs/$id.sh" "/jobs/$id.out"
	done
}

echo -1000 >/proc/self/oom_score_adj
echo "up $(cat /proc/sys/kernel/random/boot_id) ." >&4
receive 4>&- 5>&- &
answer 3<&- 6>&- &
while :; do
	if read -r id <&6; then
		job_run "$id" 3<&- 4>&- 6>&- &
	fi
done
