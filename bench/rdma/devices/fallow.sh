# shellcheck shell=bash
# A swap disk of fallowd's by NBD, its pages on the target by verbs but for a local tier of 8 MiB: the node's kernel connects to
# fallowd's unix socket, as often as there are lanes. Everything takes some thirty times as long here as on a real machine, so the
# lane polls that much longer, too, before it sleeps (the default is 50 us).
LANES=1
device_up() {
	[ "$STEP" = swap ] || { echo "gets and puts are measured by themselves"; return 1; }
	donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}' || return 1
	backend_config "$TARGET" 'store: {size: 8MiB, segment: 256KiB, max_pages: 262144}' 'pools: {copies: 1}' \
		"lanes: {count: $LANES, get_poll: 2ms, idle_poll: 2ms}" 'remote: {max_lease: 512MiB}' \
		'disks:' "  - {name: bench, size: ${DEVICE_MIB}MiB, frontend: nbd, socket: /run/fallow-lab/bench.sock}" &&
		backend_start && wait_for "the donor is up" donors_up 1 &&
		wait_for "the disk is served" lab exec 1 'test -S /run/fallow-lab/bench.sock' || return 1
	lab exec 1 "modprobe nbd nbds_max=2
		nbd-client -unix /run/fallow-lab/bench.sock /dev/nbd1 -name bench -connections $LANES -block-size 4096 >/run/fallow-lab/nbd-bench.log 2>&1 &&
			{ echo /dev/nbd1; exit; }
		cat /run/fallow-lab/nbd-bench.log; exit 1"
}
device_down() {
	lab exec 1 'nbd-client -d /dev/nbd1; kill $(</run/fallow-lab/f.pid)'
	donor_kill $TARGET TERM
}
