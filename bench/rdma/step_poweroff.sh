# shellcheck shell=bash
# A donor loses its power at R=2 under a running load: the longest get, and how long copies are missing.
mib=$([ $QUICK = 1 ] && echo 64 || echo 1024)
devices_down
DEVICE=()
clean_up
room=$((mib * 9 / 8 + 64))
for node in 2 3 4; do
	donor_start $node 'region: {size: 16MiB}' "memory: {min: ${room}MiB, max: ${room}MiB, floor: 1%}"
done
backend_config "2 3 4" 'store: {size: 32MiB, max_pages: 524288}' 'pools: {copies: 2}' \
	'remote: {verbs: on, max_lease: 4GiB, heartbeat: 500ms, suspect: 2s, dead: 5s, reconnect_max: 1s}'
backend_start
wait_for "three donors are up" donors_up 3
LIMIT_S=900
measure poweroff_fill fallow_pages put --pool held --pages $((mib * 256)) --depth 16 --seed 7
wait_for "two copies of everything" json_is status '.segments_underreplicated == 0'
PERF_NODE=3 measure poweroff_ib_write_bw perftest bandwidth ib_write_bw 1048576 -n 64

load="$BIN/bench_pages get --socket /run/f.sock --http /run/f.http --pool held --pages $((mib * 256)) --seed 7"
lab start 1 load "until [ -e /run/load.end ]; do $load --seconds 10 || echo failed; done; echo end" >/dev/null
wait_for "the load runs" lab exec 1 'grep -q per_s /run/lab/load.log'
segments=$(json donors '.donors[0].segments')
written_0=$(json status '.traffic.wire_written_bytes')
now_ms() { echo $(($(date +%s%N) / 1000000)); }
off=$(now_ms)
lab kill 2
missing() { json_is status '.segments_underreplicated > 0'; }
wait_for "the loss is known" missing
known=$(now_ms)
wait_for "two copies of everything again" json_is status '.segments_underreplicated == 0'
whole=$(now_ms)
written_1=$(json status '.traffic.wire_written_bytes')
lab exec 1 'touch /run/load.end'
wait_for "the load ends" lab exec 1 'grep -q "^end" /run/lab/load.log'
lab exec 1 'rm /run/load.end'
log=$(lab exec 1 'cat /run/lab/load.log')
! grep -q -e failed -e '"bad":[1-9]' <<<"$log" || fail "gets failed under load: $log"
sample poweroff "$(grep '^{' <<<"$log" | jq -cs --argjson known $((known - off)) --argjson whole $((whole - off)) \
	--argjson written $((written_1 - written_0)) --argjson held "$mib" --argjson segments "$segments" \
	'{longest_get_ms: (map(.max_us) | max / 1000), gets: (map(.samples) | add), known_after_s: ($known / 1000), two_holders_after_s: ($whole / 1000),
	held_mib: $held, segments_lost: $segments, repaired_mib: ($written / 1048576), repair_mib_s: ($written / 1048576 / (($whole - $known) / 1000))}')"
say "$(tail -n 1 "$SAMPLES")"
