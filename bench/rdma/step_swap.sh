# shellcheck shell=bash
# Each device as the only swap, for a program that needs twice the memory that it may use.
need_mib=$([ $QUICK = 1 ] && echo 32 || echo 64)
accesses=$([ $QUICK = 1 ] && echo 500 || echo 3000)
clean_up
devices_up

# swap_run PATH SEED: no read-ahead, so that one fault is one page
swap_run() {
	lab exec 1 "mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		g=/sys/fs/cgroup/fallow-bench
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p \$g
		cluster=\$(cat /proc/sys/vm/page-cluster)
		mkswap $1 >/dev/null 2>&1 && swapon $1 || exit 1
		echo 0 >/proc/sys/vm/page-cluster
		echo $((need_mib / 2))M >\$g/memory.max
		(echo \$BASHPID >\$g/cgroup.procs; exec timeout 300 $BIN/bench_swap $need_mib $accesses 50 $2)
		code=\$?
		echo \$cluster >/proc/sys/vm/page-cluster
		swapoff $1
		while ! rmdir \$g 2>/dev/null; do sleep 0.1; done
		exit \$code" 2>&1
}

for ROUND in $(seq "$ROUNDS"); do
	say "-- round $ROUND"
	for name in $(device_names); do
		measure "swap.$name" swap_run "${DEVICE[$name]}" "$ROUND"
	done
done
