# Harness of the process-level tests: starts daemons on free ports in a directory of their own, ends them always.
# A test sources this with the directory of the programs as its first argument, and sets nothing else.
set -u
BIN=$1
T=$(mktemp -d "${TMPDIR:-/tmp}/fallow-test.XXXXXX")
NAME=$(basename "$0" .sh)
LIMIT_S=${FALLOW_TEST_LIMIT_S:-120} # for any single wait; only a broken program needs it
# A test that is killed has no chance to end its daemons, and they hold memory that the next test needs.
DAEMON=(setpriv --pdeathsig KILL)
declare -A DONOR_PID=() DONOR_PORT=() DONOR_TCP=()
BACKEND_PID=
FAILED=1

finish() {
	local code=$?
	for p in $BACKEND_PID ${DONOR_PID[@]+"${DONOR_PID[@]}"}; do
		kill -CONT "$p" 2>/dev/null
		kill -KILL "$p" 2>/dev/null
		wait "$p" 2>/dev/null
	done
	# A report of a sanitizer fails the test, whatever else it found.
	if grep -lE "(Thread|Address|Leak)Sanitizer|runtime error:" "$T"/*.log* >"$T/sanitizer" 2>/dev/null; then
		FAILED=1
		cat $(cat "$T/sanitizer")
	fi
	if [ "$FAILED" = 1 ] || [ $code != 0 ]; then
		echo "FAILED: $NAME; logs:"
		tail -n 30 "$T"/*.log "$T"/*.log.new 2>/dev/null
		code=1
	else
		echo "ok: $NAME"
	fi
	rm -rf "$T"
	exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM

fail() {
	echo "$NAME: $*" >&2
	exit 1
}

# expect "what" command...: the command must succeed
expect() {
	local what=$1
	shift
	"$@" || fail "$what"
}

# wait_for "what" command...: until it succeeds
wait_for() {
	local what=$1 end=$((SECONDS + LIMIT_S))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited $LIMIT_S s for: $what"
		sleep 0.05
	done
}

# field of a log line "... key=value ..."; empty when it is not there
log_field() { sed -n "s/.*msg=\"ready\".* $2=\([^ ]*\).*/\1/p" "$1" | tail -n 1; }

# donor_start N [YAML lines]: a memory server dN; on the same ports again when it ran before
donor_start() {
	local i=$1
	shift
	cat >"$T/d$i.yaml" <<-EOF
		name: d$i
		listen: {port: ${DONOR_PORT[$i]:-0}}
		tcp: {port: ${DONOR_TCP[$i]:-0}, threads: 1}
		http: {port: 0, socket: $T/d$i.http}
	EOF
	[ $# -gt 0 ] && printf '%s\n' "$@" >>"$T/d$i.yaml"
	grep -q '^region:' "$T/d$i.yaml" || echo 'region: {size: 2MiB}' >>"$T/d$i.yaml"
	grep -q '^memory:' "$T/d$i.yaml" || echo 'memory: {min: 256MiB, max: 256MiB, floor: 1%}' >>"$T/d$i.yaml"
	: >"$T/d$i.log"
	"${DAEMON[@]}" "$BIN/fallow-memserver" --config "$T/d$i.yaml" 2>>"$T/d$i.log" &
	DONOR_PID[$i]=$!
	wait_for "donor d$i is ready" grep -q 'msg="ready"' "$T/d$i.log"
	DONOR_PORT[$i]=$(log_field "$T/d$i.log" control | sed 's/.*://')
	DONOR_TCP[$i]=$(log_field "$T/d$i.log" tcp_port)
}

donor_kill() { # N [SIGNAL]
	kill -"${2:-KILL}" "${DONOR_PID[$1]}"
	wait "${DONOR_PID[$1]}" 2>/dev/null
	unset "DONOR_PID[$1]"
}

# backend_config [YAML lines]: for all donors started so far
backend_config() {
	local i
	{
		cat <<-EOF
			name: host
			runtime_dir: $T/run
			state_dir: $T/state
			socket: {path: $T/f.sock}
			http: {port: 0, socket: $T/f.http}
		EOF
		[ $# -gt 0 ] && printf '%s\n' "$@"
		if [ ${#DONOR_PORT[@]} -gt 0 ]; then
			echo "donors:"
			for i in $(printf '%s\n' "${!DONOR_PORT[@]}" | sort); do
				echo "  - {name: d$i, host: 127.0.0.1, port: ${DONOR_PORT[$i]}}"
			done
		fi
	} >"$T/f.yaml"
	grep -q '^store:' "$T/f.yaml" ||
		echo 'store: {size: 8MiB, segment: 256KiB, max_pages: 131072}' >>"$T/f.yaml"
	grep -q '^lanes:' "$T/f.yaml" || echo 'lanes: {count: 2}' >>"$T/f.yaml"
	# A loaded machine may be slow: no wait of a request decides a test.
	grep -q "^timing:" "$T/f.yaml" ||
		echo "timing: {put_wait: 20s, get_timeout: 30s, io_timeout: 20s}" >>"$T/f.yaml"
	grep -q '^pools:' "$T/f.yaml" || echo 'pools: {copies: 2}' >>"$T/f.yaml"
	grep -q '^remote:' "$T/f.yaml" ||
		echo 'remote: {max_lease: 1GiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}' \
			>>"$T/f.yaml"
}

# backend_start [OPTION...]: and waits until it serves
backend_start() {
	: >"$T/f.log.new"
	"${DAEMON[@]}" "$BIN/fallowd" --config "$T/f.yaml" "$@" >"$T/f.out" 2>"$T/f.log.new" &
	BACKEND_PID=$!
	wait_for "fallowd is ready" backend_ready_or_gone
	kill -0 "$BACKEND_PID" 2>/dev/null || { mv "$T/f.log.new" "$T/f.log"; fail "fallowd did not start"; }
}

backend_ready_or_gone() {
	grep -q 'msg="ready"' "$T/f.log.new" || ! kill -0 "$BACKEND_PID" 2>/dev/null
}

backend_kill() { # [SIGNAL]; BACKEND_CODE is the exit code
	kill -"${1:-KILL}" "$BACKEND_PID"
	wait "$BACKEND_PID" 2>/dev/null
	BACKEND_CODE=$?
	BACKEND_PID=
	cat "$T/f.log.new" >>"$T/f.log"
}

fallow() { "$BIN/fallow" --http "$T/f.http" "$@"; }

# json COMMAND FILTER: a value of the daemon's JSON
json() { fallow --json "$1" | jq -r "$2"; }

# json_is COMMAND FILTER: the filter yields true
json_is() { [ "$(json "$1" "$2")" = true ]; }

# In service, and every lane connected to its memory.
donors_up() {
	local lanes
	lanes=$(json status ".lanes | length")
	json_is donors "[.donors[] | select(.phase == \"up\" and .lanes_connected == $lanes)] | length == $1"
}

# pages put|check|flush POOL FIRST COUNT [SEED [COPIES]]: prints the tally
pages() {
	local what=$1
	shift
	"$BIN/test-pages" "$what" "$T/f.sock" "$@"
}

# expect_pages "ok=N ..." what...: the tally must be exactly this
expect_pages() {
	local want=$1 got
	shift
	got=$(pages "$@") || fail "pages $*: exit code $?"
	[ "$got" = "$want" ] || fail "pages $*: got \"$got\", not \"$want\""
}

all_ok() { echo "ok=$1 refused=0 miss=0 lost=0 wrong=0 failed=0"; }

passed() { FAILED=0; }
