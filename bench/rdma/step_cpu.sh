# shellcheck shell=bash
# Processor time that the daemons themselves use while gets and spills go on, and while nothing does.
seconds=$([ $QUICK = 1 ] && echo 10 || echo 60)
clean_up
donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}'
# Heartbeats and all other times as they are by default; the tests' are shorter.
backend_config "$TARGET" 'store: {size: 32MiB, max_pages: 262144}' 'pools: {copies: 1}' 'remote: {max_lease: 512MiB}'
backend_start
wait_for "the donor is up" donors_up 1
fallow_pages put --pool inc --pages 12288 --depth 16 --seed 1 >/dev/null || fail "cannot store"
fallow_pages put --pool last --pages 10240 --depth 16 --seed 3 >/dev/null || fail "cannot store"
wait_for "the spilling ends" json_is status '.segments_underreplicated == 0'

# A second memory server that serves nobody: what it is charged with is not of its doing.
sed -e 's/^name: .*/name: twin/' -e 's/7400/7410/; s/7401/7411/; s/donor.http/twin.http/' -e 's/^memory: .*/memory: {min: 16MiB, max: 16MiB, floor: 1%}/' \
	"$(share $TARGET)/donor.yaml" >"$(share $TARGET)/twin.yaml"
: >"$(share $TARGET)/twin.log"
lab exec $TARGET "setsid $BIN/fallow-memserver --config /run/lab/twin.yaml </dev/null >/dev/null 2>>/run/lab/twin.log &
	echo \$! >/run/fallow-lab/twin.pid"
wait_for "the second memory server is ready" grep -q 'msg="ready"' "$(share $TARGET)/twin.log"

account() { # what the daemons used so far, as JSON
	local donor backend twin
	donor=$(cpu_ns $TARGET /run/fallow-lab/donor.pid) backend=$(cpu_ns 1 /run/fallow-lab/f.pid) twin=$(cpu_ns $TARGET /run/fallow-lab/twin.pid)
	jq -cn --arg donor "$donor" --arg backend "$backend" --arg twin "$twin" --argjson wire "$(json status '.traffic.wire_written_bytes')" \
		'{donor: ($donor | split(" ") | map(tonumber)), backend: ($backend | split(" ") | map(tonumber)),
		twin: ($twin | split(" ") | map(tonumber)), wire: $wire}'
}

# used NAME BEFORE AFTER [FIGURES]
used() {
	sample "$1" "$(jq -cn --argjson a "$2" --argjson b "$3" --argjson load "${4:-{\}}" '
		def percent(of): 100 * ($b[of][0] - $a[of][0]) / ($b[of][2] - $a[of][2]);
		{memserver_percent: percent("donor"), fallowd_percent: percent("backend"), twin_percent: percent("twin"), window_ns: ($b.donor[2] - $a.donor[2]),
		memserver_ns: ($b.donor[0] - $a.donor[0]), fallowd_ns: ($b.backend[0] - $a.backend[0]),
		memserver_wakeups_per_s: (($b.donor[1] - $a.donor[1]) / ($b.donor[2] - $a.donor[2]) * 1e9),
		gets_per_s: ($load.per_s // 0), spilled_mib: (($b.wire - $a.wire) / 1048576)}')"
	say "$(tail -n 1 "$SAMPLES" | jq -r '"\(.name): memory server \(.memserver_percent) %, \(.memserver_wakeups_per_s) wake-ups/s (one that serves nobody \(.twin_percent) %); fallowd \(.fallowd_percent) %; \(.gets_per_s) gets/s, \(.spilled_mib) MiB spilled"')"
}

leases_granted() {
	lab exec $TARGET "curl -s --unix-socket /run/fallow-lab/donor.http http://f/metrics" | sed -n 's/^fallow_memserver_leases_granted_total \([0-9]*\).*/\1/p'
}

before=$(account)
sleep $((seconds / 3))
used cpu_idle "$before" "$(account)"

# The same pages over and over: a pool that is destroyed gives its regions back, and wiping them is another matter.
lab start 1 spills "while [ ! -e /run/fallow-lab/spills.end ]; do $BIN/bench_pages put --socket /run/fallow-lab/f.sock --http /run/fallow-lab/f.http \
	--pool again --pages 12288 --depth 2 --seed 4; done" >/dev/null
# A region that is leased is registered and was wiped, once: what is measured is the load after the first rounds of it.
granted=-1
quiet_leases() { local now; now=$(leases_granted) && [ "$now" = "$granted" ] || { granted=$now; sleep 15; return 1; }; }
wait_for "no lease is granted for 15 s" quiet_leases
before=$(account)
line=$(fallow_pages get --pool inc --pages 12288 --seed 1 --depth 16 --seconds "$seconds") || fail "load: $line"
used cpu "$before" "$(account)" "$line"
say "leases granted meanwhile, each region wiped: $(($(leases_granted) - granted))"
lab exec 1 'touch /run/fallow-lab/spills.end; while pgrep -x bench_pages >/dev/null; do sleep 0.2; done; rm /run/fallow-lab/spills.end'
