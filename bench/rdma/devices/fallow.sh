# shellcheck shell=bash
# A swap disk of fallowd's by vhost-user, its pages on the target by verbs but for a local tier of 8 MiB. QEMU cannot run on an
# emulated node in any useful time: test-vhost-nbd hands the node's kernel the disk, and its detour through NBD is counted.
device_up() {
	[ "$STEP" = swap ] || { echo "gets and puts are measured by themselves"; return 1; }
	donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}' || return 1
	backend_config "$TARGET" 'store: {size: 8MiB, segment: 256KiB, max_pages: 262144}' 'pools: {copies: 1}' \
		'remote: {max_lease: 512MiB}' 'disks:' "  - {name: bench, kind: swap, size: ${DEVICE_MIB}MiB, socket: /run/bench.sock}" &&
		backend_start && wait_for "the donor is up" donors_up 1 &&
		wait_for "the disk is served" lab exec 1 'test -S /run/bench.sock' || return 1
	lab exec 1 "modprobe nbd nbds_max=2
		setsid $BIN/test-vhost-nbd /run/bench.sock /dev/nbd1 $DEVICE_MIB </dev/null >/run/lab/bench-nbd.log 2>&1 &
		for i in \$(seq 100); do
			grep -q ready /run/lab/bench-nbd.log && { echo /dev/nbd1; exit; }
			sleep 0.1
		done
		cat /run/lab/bench-nbd.log; exit 1"
}
device_down() {
	lab exec 1 'pkill -KILL -x test-vhost-nbd; kill $(</run/f.pid)'
	donor_kill $TARGET TERM
}
