# shellcheck shell=bash
# Processor time that the daemons themselves use while gets and spills go on.
seconds=$([ $QUICK = 1 ] && echo 10 || echo 60)
clean_up
donor_start $TARGET 'region: {size: 16MiB}' 'memory: {min: 512MiB, max: 512MiB, floor: 1%}'
backend_config "$TARGET" 'store: {size: 32MiB, max_pages: 262144}' 'pools: {copies: 1}'
backend_start
wait_for "the donor is up" donors_up 1
fallow_pages put --pool inc --pages 12288 --depth 16 --seed 1 >/dev/null || fail "cannot store"
fallow_pages put --pool last --pages 10240 --depth 16 --seed 3 >/dev/null || fail "cannot store"
read -r donor_0 at_0 <<<"$(cpu_ns $TARGET /run/donor.pid | paste -sd' ')"
read -r backend_0 host_0 <<<"$(cpu_ns 1 /run/f.pid | paste -sd' ')"
wire_0=$(json status '.traffic.wire_written_bytes')
lab start 1 spills "while [ ! -e /run/spills.end ]; do $BIN/bench_pages put --socket /run/f.sock --http /run/f.http \
	--pages 12288 --depth 2 --seed 4; done" >/dev/null
line=$(fallow_pages get --pool inc --pages 12288 --seed 1 --depth 16 --seconds "$seconds") || fail "load: $line"
read -r donor_1 at_1 <<<"$(cpu_ns $TARGET /run/donor.pid | paste -sd' ')"
read -r backend_1 host_1 <<<"$(cpu_ns 1 /run/f.pid | paste -sd' ')"
wire_1=$(json status '.traffic.wire_written_bytes')
lab exec 1 'touch /run/spills.end; while pgrep -x bench_pages >/dev/null; do sleep 0.2; done; rm /run/spills.end'
sample cpu "$(jq -c --argjson donor $((donor_1 - donor_0)) --argjson window $((at_1 - at_0)) --argjson backend $((backend_1 - backend_0)) \
	--argjson host $((host_1 - host_0)) --argjson wire $((wire_1 - wire_0)) \
	'{memserver_ns: $donor, window_ns: $window, memserver_percent: (100 * $donor / $window), fallowd_percent: (100 * $backend / $host),
	gets_per_s: .per_s, spilled_mib: ($wire / 1048576)}' <<<"$line")"
say "$(tail -n 1 "$SAMPLES" | jq -r '"memory server \(.memserver_percent) %, fallowd \(.fallowd_percent) % of the time; \(.gets_per_s) gets/s, \(.spilled_mib) MiB spilled"')"
