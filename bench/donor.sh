# A memory server's own memory beside what it leases: at most 1 %.
. "$(dirname "$0")/../tests/integration/lib.sh"

donor_start 1 'region: {size: 64MiB}' 'memory: {min: 2GiB, max: 2GiB, floor: 0}'
backend_config 'store: {size: 64MiB, max_pages: 1Mi}' 'pools: {copies: 1}' 'remote: {max_lease: 2GiB}'
backend_start
wait_for "the donor is up" donors_up 1
"$BIN/fallow" --socket "$T/f.sock" bench --size 1700MiB --compressible 0 --gets 1 --pool fill --keep \
	>"$T/bench.log" 2>&1 || fail "cannot fill the donor: $(tail -n 1 "$T/bench.log")"
leased=$(curl -s --unix-socket "$T/d1.http" http://localhost/v1/status | jq ".memory.leased_bytes")
rss=$(($(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/${DONOR_PID[1]}/status") * 1024))
own=$((rss - leased)) # a region is resident from the moment it is leased
[ $own -gt 0 ] || fail "leased memory is not resident: $rss of $leased bytes"
awk -v own="$own" -v leased="$leased" -v rss="$rss" 'BEGIN {
	share = own / leased
	printf "{\"bench\":\"donor overhead\",\"leased_bytes\":%d,\"resident_bytes\":%d,\"own_bytes\":%d," \
		"\"share\":%.4f,\"target\":\"<= 0.01\",\"met\":%s}\n", leased, rss, own, share,
		share <= 0.01 ? "true" : "false"
	exit share > 0.01
}' || fail "more than 1 %"
passed
