# shellcheck shell=bash
# Processor time that the daemons themselves use while gets and spills go on, and while nothing does.
seconds=$([ $QUICK = 1 ] && echo 10 || echo 60)
clean_up
donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}'
backend_config "$TARGET" 'store: {size: 32MiB, max_pages: 262144}' 'pools: {copies: 1}'
backend_start
wait_for "the donor is up" donors_up 1
fallow_pages put --pool inc --pages 12288 --depth 16 --seed 1 >/dev/null || fail "cannot store"
fallow_pages put --pool last --pages 10240 --depth 16 --seed 3 >/dev/null || fail "cannot store"
wait_for "the spilling ends" json_is status '.segments_underreplicated == 0'

account() { # what both daemons used so far, as JSON
	local donor backend
	donor=$(cpu_ns $TARGET /run/donor.pid) backend=$(cpu_ns 1 /run/f.pid)
	jq -cn --arg donor "$donor" --arg backend "$backend" --argjson wire "$(json status '.traffic.wire_written_bytes')" \
		'{donor: ($donor | split(" ") | map(tonumber)), backend: ($backend | split(" ") | map(tonumber)), wire: $wire}'
}

# used NAME BEFORE AFTER [FIGURES]
used() {
	sample "$1" "$(jq -cn --argjson a "$2" --argjson b "$3" --argjson load "${4:-{\}}" '
		def percent(of): 100 * ($b[of][0] - $a[of][0]) / ($b[of][2] - $a[of][2]);
		{memserver_percent: percent("donor"), fallowd_percent: percent("backend"), window_ns: ($b.donor[2] - $a.donor[2]),
		memserver_ns: ($b.donor[0] - $a.donor[0]), fallowd_ns: ($b.backend[0] - $a.backend[0]),
		memserver_wakeups_per_s: (($b.donor[1] - $a.donor[1]) / ($b.donor[2] - $a.donor[2]) * 1e9),
		gets_per_s: ($load.per_s // 0), spilled_mib: (($b.wire - $a.wire) / 1048576)}')"
	say "$(tail -n 1 "$SAMPLES" | jq -r '"\(.name): memory server \(.memserver_percent) %, \(.memserver_wakeups_per_s) wake-ups/s; fallowd \(.fallowd_percent) %; \(.gets_per_s) gets/s, \(.spilled_mib) MiB spilled"')"
}

before=$(account)
sleep $((seconds / 3))
used cpu_idle "$before" "$(account)"

lab start 1 spills "while [ ! -e /run/spills.end ]; do $BIN/bench_pages put --socket /run/f.sock --http /run/f.http \
	--pages 12288 --depth 2 --seed 4; done" >/dev/null
before=$(account)
line=$(fallow_pages get --pool inc --pages 12288 --seed 1 --depth 16 --seconds "$seconds") || fail "load: $line"
used cpu "$before" "$(account)" "$line"
lab exec 1 'touch /run/spills.end; while pgrep -x bench_pages >/dev/null; do sleep 0.2; done; rm /run/spills.end'
