# shellcheck shell=bash
# Raw verbs, Fallow and the peers in turn, round by round; what is compared stands side by side in time.
pages=$([ $QUICK = 1 ] && echo 10240 || echo 12288)
reads=$([ $QUICK = 1 ] && echo 500 || echo 1500)
burst=$([ $QUICK = 1 ] && echo 1024 || echo 4096)
spill=$([ $QUICK = 1 ] && echo 12288 || echo 20480)

clean_up
donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}'
backend_config "$TARGET" 'store: {size: 32MiB, max_pages: 262144, checksum_percent: 100}' 'pools: {copies: 1}'
backend_start
wait_for "the donor is up" donors_up 1
read_server_start
devices_up
for name in $(device_names); do device_fill "${DEVICE[$name]}"; done

# By default checksums are kept for 6 % of max_pages; more of the pages here are incompressible.
# The last pool is larger than the local tier: what was put before it is on the donor alone.
fallow_pages put --pool inc --pages "$pages" --depth 16 --seed 1 >/dev/null || fail "cannot store"
fallow_pages put --pool half --pages "$pages" --depth 16 --seed 2 --compressible 50 >/dev/null || fail "cannot store"
fallow_pages put --pool last --pages 10240 --depth 16 --seed 3 >/dev/null || fail "cannot store"
wait_for "the spilling ends" json_is status '.segments_underreplicated == 0'

# get NAME POOL SEED COMPRESSIBLE DEPTH COUNT [OPTION...]; raw verbs' tools poll, block devices' users sleep
get() {
	measure "$1" fallow_pages get --pool "$2" --pages "$pages" --seed "$3" --compressible "$4" --depth "$5" --count "${@:6}"
	tail -n 1 "$SAMPLES" | jq -e '.gets_remote >= 0.99 * .samples and .bad == 0' >/dev/null ||
		fail "$1: not every get went to the donor: $(tail -n 1 "$SAMPLES")"
}

# A transfer's time drifts by a tenth within seconds: what is held against the READ loop takes turns with it, often.
for ROUND in $(seq $((3 * ROUNDS))); do
	say "-- turn $ROUND"
	measure read_loop_1 read_loop 1 "$reads"
	get get_incompressible_1 inc 1 0 1 "$reads" --poll 5000
	measure read_loop_beside read_loop 1 "$reads" 4096 beside
	get get_half_1 half 2 50 1 "$reads" --poll 5000
	measure ib_read_lat perftest latency ib_read_lat 4096 -n "$reads"
done
for ROUND in $(seq "$ROUNDS"); do
	say "-- round $ROUND"
	measure read_loop_record read_loop 1 "$reads" 4152
	get get_sleeping_1 inc 1 0 1 "$reads"
	[ "$ROUND" != 1 ] || sample daemon_get "$(json status '.latency.get_remote | @json')"
	measure read_loop_half read_loop 1 "$reads" 2112
	get get_half_sleeping_1 half 2 50 1 "$reads"
	[ -z "${DEVICE[nvme_rdma]:-}" ] || fio_device nvme_rdma "${DEVICE[nvme_rdma]}"
	measure put_1 fallow_pages put --pages "$burst" --seed "$((10 + ROUND))"
	measure put_half_1 fallow_pages put --pages "$burst" --seed "$((10 + ROUND))" --compressible 50

	measure ib_read_bw_1 perftest bandwidth ib_read_bw 4096 -t 1 -n "$reads"
	measure ib_read_bw_16 perftest bandwidth ib_read_bw 4096 -t 16 -o 16 -n "$((reads * 2))"
	measure read_loop_16 read_loop 16 "$((reads * 2))"
	get get_incompressible_16 inc 1 0 16 "$((reads * 2))"
	get get_half_16 half 2 50 16 "$((reads * 2))"

	measure ib_write_bw perftest bandwidth ib_write_bw 1048576 -n "$([ $QUICK = 1 ] && echo 32 || echo 96)"
	measure spill fallow_pages put --pages "$spill" --depth 16 --seed "$((20 + ROUND))" --mark 50
	for name in $(device_names); do
		[ "$name" = nvme_rdma ] || fio_device "$name" "${DEVICE[$name]}"
	done
done
expect "nothing was corrupt" json_is status '[.lanes[].records_corrupt] | add == 0'
read_server_end
