# The commands of `fallow` against live daemons: tables, JSON, the benchmark, and errors that say what is wrong.
. "$(dirname "$0")/lib.sh"

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
expect_pages "$(all_ok 8192)" put mypool 0 8192 31

has() { # COMMAND PATTERN
	fallow "$1" >"$T/c.out" || fail "fallow $1: exit code $?"
	grep -Eq "$2" "$T/c.out" || fail "fallow $1 does not show \"$2\": $(cat "$T/c.out")"
	fallow --json "$1" | jq -e . >/dev/null || fail "fallow --json $1 is not JSON"
}
has status 'donors 2 of 2 up'
has status '^lane +pages'
has capacity '^local +[0-9.]+ MiB'
has capacity '^pages +8192 of'
has pools 'mypool +uid:[0-9]+ .*persistent +private'
has clients '^uid-[0-9]+ '
has donors '^d1 +127.0.0.1:[0-9]+ +up +tcp'

"$BIN/fallow" bench --socket "$T/f.sock" --size 32MiB --threads 2 --json >"$T/bench.json" 2>"$T/bench.err" ||
	fail "bench: $(cat "$T/bench.err")"
jq -e '.phases.put.pages == 8192 and .phases.get.p99_ns > 0 and .wrong == 0 and .verified' \
	"$T/bench.json" >/dev/null || fail "bench said $(cat "$T/bench.json")"
grep -q 'pages/s' "$T/bench.err" || fail "bench shows no progress"
"$BIN/fallow" bench --socket "$T/f.sock" --size 8MiB --ephemeral --compressible 0 >"$T/c.out" 2>/dev/null ||
	fail "bench of an ephemeral pool"
grep -q 'every page compared' "$T/c.out" || fail "bench's table"

# Errors: one line, and an exit code of its own for wrong arguments.
wrong() { # CODE PATTERN ARGUMENTS...
	local code=$1 pattern=$2
	shift 2
	"$BIN/fallow" "$@" >"$T/c.out" 2>"$T/c.err"
	[ $? = "$code" ] || fail "fallow $*: not exit code $code"
	grep -q -- "$pattern" "$T/c.err" || fail "fallow $*: \"$(cat "$T/c.err")\""
}
wrong 2 'Usage'
wrong 2 "no command 'nonsense'" nonsense
wrong 2 'needs a value' --http
wrong 1 'is it running' --http "$T/nobody" status
wrong 1 'is it running' --http http://127.0.0.1:1 status
wrong 1 'unix socket or http' --http nonsense status
wrong 1 'cannot connect' bench --socket "$T/nobody"
wrong 2 'size' bench --size x
wrong 2 'threads' bench --threads 0
wrong 2 'needs --pool' bench --keep
wrong 2 'codec' bench --codec gzip

# Metrics, over the unix socket.
printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - "UNIX-CONNECT:$T/f.http,shut-none" >"$T/metrics"
for m in 'fallow_puts_total{lane="0"}' 'fallow_donor_up{donor="d1"} 1' 'fallow_pools ' \
	'fallow_get_remote_seconds_bucket' 'fallow_account_pages'; do
	grep -qF "$m" "$T/metrics" || fail "/metrics has no $m"
done
passed
