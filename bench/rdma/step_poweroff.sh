# shellcheck shell=bash
# A donor loses its power at R=2 under a running load: the longest get, and how long copies are missing.
mib=$([ $QUICK = 1 ] && echo 64 || echo 1024)
if [ -n "${FALLOW_LAB_INVENTORY:-}" ] && ! lab can kill; then
	say "left out: the inventory names no way to end a machine"
	sample left_out.poweroff '{"device": "poweroff", "why": "the inventory names no way to end a machine"}'
	return
fi
devices_down
DEVICE=()
clean_up
room=$((mib * 9 / 8 + 64))
for node in 2 3 4; do
	donor_start $node 'region: {size: 16MiB}' "memory: {min: ${room}MiB, max: ${room}MiB, floor: 1%}"
done
backend_config "2 3 4" 'store: {size: 32MiB, max_pages: 524288}' 'pools: {copies: 2}' \
	'remote: {max_lease: 4GiB, heartbeat: 500ms, suspect: 2s, dead: 5s, reconnect_max: 1s}'
backend_start
wait_for "three donors are up" donors_up 3
LIMIT_S=900
measure poweroff_fill fallow_pages put --pool held --pages $((mib * 256)) --depth 16 --seed 7
wait_for "two copies of everything" json_is status '.segments_underreplicated == 0'
PERF_NODE=3 measure poweroff_ib_write_bw perftest bandwidth ib_write_bw 1048576 -n 64
# A repaired byte comes in from the holder that is left and goes out to the new one: what raw verbs carry both ways at once.
both_ways() {
	local in out
	in=$(mktemp)
	PERF_NODE=3 perftest bandwidth ib_read_bw 1048576 -D 10 >"$in" &
	out=$(PERF_NODE=4 perftest bandwidth ib_write_bw 1048576 -D 10) && wait $! || { cat "$in"; echo "$out"; rm "$in"; return 1; }
	jq -cn --slurpfile in "$in" --argjson out "$out" \
		'{in_mib_s: $in[0].mib_s, out_mib_s: $out.mib_s, mib_s: ($in[0].mib_s + $out.mib_s)}'
	rm "$in"
}
measure poweroff_both_ways both_ways

load="$BIN/bench_pages get --socket /run/fallow-lab/f.sock --http /run/fallow-lab/f.http --pool held --pages $((mib * 256)) --seed 7"
lab start 1 load "until [ -e /run/fallow-lab/load.end ]; do $load --seconds 10 || echo failed; done; echo end" >/dev/null
wait_for "the load runs" lab exec 1 'grep -q per_s /run/lab/load.log'
lab start 1 watch "exec $BIN/bench_pages watch --http /run/fallow-lab/f.http --seconds 1800" >/dev/null
watched() { lab exec 1 'cat /run/lab/watch.log' | jq -s "$1"; }
wait_for "the watch runs" lab exec 1 'grep -q missing /run/lab/watch.log'
segments=$(json donors '.donors[0].segments')
off=$(lab exec 1 'date +%s%3N')
lab kill 2 || fail "node 2 cannot be killed"
wait_for "the loss is known" lab exec 1 'grep -q "\"missing\":[1-9]" /run/lab/watch.log'
wait_for "two copies of everything again" lab exec 1 'tail -n 1 /run/lab/watch.log | grep -q "\"missing\":0"'
lab exec 1 'touch /run/fallow-lab/load.end'
wait_for "the load ends" lab exec 1 'grep -q "^end" /run/lab/load.log'
lab exec 1 'rm /run/fallow-lab/load.end'
log=$(lab exec 1 'cat /run/lab/load.log')
! grep -q -e failed -e '"bad":[1-9]' <<<"$log" || fail "gets failed under load: $log"
# Repair lasts from the first look that found copies missing to the first that found none; five looks a second.
sample poweroff "$(grep '^{' <<<"$log" | jq -cs --argjson off "$off" --argjson held "$mib" --argjson segments "$segments" \
	--argjson watch "$(watched 'map(select(.at_ms)) | [.[] | select(.missing > 0)][0] as $known | .[-1] as $whole |
		{known: $known.at_ms, whole: $whole.at_ms, bytes: ($whole.written_bytes - $known.written_bytes)}')" \
	'{longest_get_ms: (map(.max_us) | max / 1000), gets: (map(.samples) | add), held_mib: $held, segments_lost: $segments,
	known_after_s: (($watch.known - $off) / 1000), two_holders_after_s: (($watch.whole - $off) / 1000),
	repaired_mib: ($watch.bytes / 1048576), repair_mib_s: ($watch.bytes / 1048576 / (($watch.whole - $watch.known) / 1000))}
	| .repair_moved_mib_s = 2 * .repair_mib_s')"
say "$(tail -n 1 "$SAMPLES")"
