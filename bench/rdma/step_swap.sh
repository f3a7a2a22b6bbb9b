# shellcheck shell=bash
# Each device as the swap that is used first, for a program that needs twice the memory that it may use.
need_mib=$([ $QUICK = 1 ] && echo 32 || echo 64)
accesses=$([ $QUICK = 1 ] && echo 500 || echo 3000)
clean_up
devices_up

# with_swap PATH COMMAND: the command in a group that may use half of what it needs, swapping on PATH; no read-ahead, so that
# one fault is one page. $g is the group's directory.
with_swap() {
	lab exec 1 "mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		g=/sys/fs/cgroup/fallow-bench
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p \$g
		cluster=\$(cat /proc/sys/vm/page-cluster)
		mkswap $1 >/dev/null 2>&1 && swapon -p 32767 $1 || exit 1
		echo 0 >/proc/sys/vm/page-cluster
		echo $((need_mib / 2))M >\$g/memory.max
		$2
		code=\$?
		echo \$cluster >/proc/sys/vm/page-cluster
		swapoff $1
		while ! rmdir \$g 2>/dev/null; do sleep 0.1; done
		exit \$code" 2>&1
}

walk() { # PATH SEED
	with_swap "$1" "(echo \$BASHPID >\$g/cgroup.procs; exec timeout 300 $BIN/bench_swap $need_mib $accesses 50 $2)"
}

# A real program with real data: Redis full of this system's text, read at random. What its client sees.
redis() { # PATH
	local out
	out=$(with_swap "$1" "s=/run/fallow-lab/redis.sock
		(echo \$BASHPID >\$g/cgroup.procs; exec redis-server --port 0 --unixsocket \$s --save '' --appendonly no --daemonize no) >/run/lab/redis.log 2>&1 &
		server=\$!
		for i in \$(seq 300); do redis-cli -s \$s ping >/dev/null 2>&1 && break; sleep 0.1; done
		values=\$(python3 $PWD/bench/rdma/redis_load.py \$s $((need_mib * 15 / 16)) /usr/include /usr/share/perl /usr/lib/python3 /usr/share/doc /usr/share/qemu /usr/lib/x86_64-linux-gnu) &&
			timeout 300 redis-benchmark -s \$s -c 1 -n $accesses -r \$values --csv GET key:__rand_int__
		code=\$?
		kill -KILL \$server; wait \$server 2>/dev/null
		(exit \$code)") || { echo "$out"; return 1; }
	# "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
	tail -n 1 <<<"$out" | tr -d '"' | awk -F, 'NF == 8 {
		printf "{\"per_s\":%s,\"p50_us\":%s,\"p99_us\":%s,\"mean_us\":%s}\n", $2, $5 * 1000, $7 * 1000, $3 * 1000; ok = 1 }
		END { exit !ok }' || { echo "$out"; return 1; }
}

for ROUND in $(seq "$ROUNDS"); do
	say "-- round $ROUND"
	for name in $(device_names); do
		measure "swap.$name" walk "${DEVICE[$name]}" "$ROUND"
	done
	for name in $(device_names); do
		measure "redis.$name" redis "${DEVICE[$name]}"
	done
done
