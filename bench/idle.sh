# CPU time of a backend and two donors that have data and nothing to do: under 0.5 % of a core each.
. "$(dirname "$0")/../tests/integration/lib.sh"

ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
"$BIN/fallow" --socket "$T/f.sock" bench --size 64MiB --pool p --keep >"$T/bench.log" 2>&1 ||
	fail "cannot store: $(tail -n 1 "$T/bench.log")"
wait_for "all copies are made" json_is status '.segments_underreplicated == 0'
seconds=30 hz=$(getconf CLK_TCK)
b=$(ticks "$BACKEND_PID") d1=$(ticks "${DONOR_PID[1]}") d2=$(ticks "${DONOR_PID[2]}")
sleep $seconds
awk -v b=$(($(ticks "$BACKEND_PID") - b)) -v d1=$(($(ticks "${DONOR_PID[1]}") - d1)) \
	-v d2=$(($(ticks "${DONOR_PID[2]}") - d2)) -v all=$((seconds * hz)) 'BEGIN {
	worst = b > d1 ? b : d1
	worst = worst > d2 ? worst : d2
	printf "{\"bench\":\"idle CPU\",\"seconds\":%d,\"fallowd_percent\":%.2f,\"memserver_percent\":[%.2f,%.2f]," \
		"\"target\":\"< 0.5\",\"met\":%s}\n", all / '"$hz"', 100 * b / all, 100 * d1 / all,
		100 * d2 / all, worst / all < 0.005 ? "true" : "false"
	exit worst / all >= 0.005
}' || fail "a daemon is not idle"
passed
