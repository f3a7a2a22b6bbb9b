# shellcheck shell=bash
# Harness of the lab's tests: memory servers and a backend on lab nodes, over verbs. Sourced by run.sh, which has the
# cluster up; node 1 is the backend's, the others are donors'.
LIMIT_S=${FALLOW_TEST_LIMIT_S:-120} # for any single wait; only a broken program needs it
BACKEND_SHARE=$(lab share 1)

fail() {
	echo "lab: $TEST: $*" >&2
	exit 1
}

expect() { # WHAT COMMAND...
	local what=$1
	shift
	"$@" || fail "$what"
}

wait_for() { # WHAT COMMAND...
	local what=$1 end=$((SECONDS + LIMIT_S))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited $LIMIT_S s for: $what"
		sleep 0.2
	done
}

say() { printf '   %s\n' "$*"; }

share() { lab share "$1"; }

donor_log() { echo "$(share "$1")/donor.log"; }

# donor_start NODE [YAML lines]: waits until it is ready
donor_start() {
	local node=$1 dir
	shift
	dir=$(share "$node")
	cat >"$dir/donor.yaml" <<-YAML
		name: d$node
		failure_domain: f$node
		listen: {address: "0.0.0.0", port: 7400}
		tcp: {port: 7401, threads: 1}
		verbs: {mode: on}
		http: {port: 0, socket: /run/donor.http}
	YAML
	[ $# -eq 0 ] || printf '%s\n' "$@" >>"$dir/donor.yaml"
	grep -q '^region:' "$dir/donor.yaml" || echo 'region: {size: 2MiB}' >>"$dir/donor.yaml"
	grep -q '^memory:' "$dir/donor.yaml" || echo 'memory: {min: 192MiB, max: 192MiB, floor: 1%}' >>"$dir/donor.yaml"
	[ ! -f "$dir/donor.log" ] || cat "$dir/donor.log" >>"$dir/donor.log.old"
	: >"$dir/donor.log"
	lab exec "$node" "rm -f /run/donor.http
		setsid $BIN/fallow-memserver --config /run/lab/donor.yaml </dev/null >/dev/null 2>>/run/lab/donor.log &
		echo \$! >/run/donor.pid"
	wait_for "donor d$node is ready" grep -q 'msg="ready"' "$dir/donor.log"
}

donor_kill() { # NODE [SIGNAL]: and waits until it is gone
	lab exec "$1" "pid=\$(</run/donor.pid); kill -${2:-KILL} \$pid; while [ -d /proc/\$pid ]; do sleep 0.05; done"
}

# Processor time that the memory server itself used so far, in hundredths of a second.
donor_cpu() { lab exec "$1" "cut -d' ' -f14,15 /proc/\$(</run/donor.pid)/stat" | tr ' ' '+' | bc_int; }
bc_int() { local sum; read -r sum; echo $((sum)); }

# backend_config NODES [YAML lines]
backend_config() {
	local nodes=$1 node file=$BACKEND_SHARE/f.yaml
	shift
	{
		cat <<-YAML
			name: host
			runtime_dir: /dev/shm/fallow
			state_dir: /run/fallow-state
			socket: {path: /run/f.sock}
			http: {port: 0, socket: /run/f.http}
			timing: {put_wait: 60s, get_timeout: 60s, io_timeout: 20s}
		YAML
		[ $# -eq 0 ] || printf '%s\n' "$@"
		echo "donors:"
		for node in $nodes; do
			echo "  - {name: d$node, host: 10.77.0.$node, port: 7400, transport: verbs, failure_domain: f$node}"
		done
	} >"$file"
	# A round trip takes half a millisecond here.
	grep -q '^lanes:' "$file" || echo 'lanes: {count: 1, get_poll: 2ms}' >>"$file"
	grep -q '^store:' "$file" || echo 'store: {size: 8MiB, segment: 256KiB, max_pages: 131072}' >>"$file"
	grep -q '^pools:' "$file" || echo 'pools: {copies: 2}' >>"$file"
	grep -q '^remote:' "$file" ||
		echo 'remote: {verbs: on, max_lease: 512MiB, heartbeat: 500ms, suspect: 3s, dead: 8s, reconnect_max: 1s}' \
			>>"$file"
}

backend_start() { # [OPTION...]
	local log=$BACKEND_SHARE/f.log
	[ ! -f "$log" ] || cat "$log" >>"$log.old"
	: >"$log"
	lab exec 1 "setsid $BIN/fallowd --config /run/lab/f.yaml $* </dev/null >/dev/null 2>>/run/lab/f.log &
		echo \$! >/run/f.pid"
	wait_for "fallowd is ready" backend_ready_or_gone
	lab exec 1 'kill -0 $(</run/f.pid)' || fail "fallowd did not start"
}

backend_ready_or_gone() {
	grep -q 'msg="ready"' "$BACKEND_SHARE/f.log" || ! lab exec 1 'kill -0 $(</run/f.pid)'
}

backend_kill() { # [SIGNAL]
	lab exec 1 "pid=\$(</run/f.pid); kill -${1:-KILL} \$pid; while [ -d /proc/\$pid ]; do sleep 0.05; done"
}

json() { lab exec 1 "$BIN/fallow --http /run/f.http --json $1" | jq -r "$2"; }
json_is() { [ "$(json "$1" "$2")" = true ]; }

donors_up() { # COUNT: in service, over verbs, with every lane connected
	json_is donors "[.donors[] | select(.phase == \"up\" and .lanes_connected == 1)] | length == $1"
}

# pages put|check|flush POOL FIRST COUNT [SEED [COPIES]]: prints the tally
pages() {
	local what=$1
	shift
	lab exec 1 "$BIN/test-pages $what /run/f.sock $*"
}

expect_pages() { # TALLY what...
	local want=$1 got
	shift
	got=$(pages "$@") || fail "pages $*: exit code $?"
	[ "$got" = "$want" ] || fail "pages $*: got \"$got\", not \"$want\""
}

all_ok() { echo "ok=$1 refused=0 miss=0 lost=0 wrong=0 failed=0"; }

# Everything of the last test ends; no page and no lease of it is left.
clean_up() {
	local node
	for node in $(seq "$NODES"); do
		lab exec "$node" 'for f in /run/f.pid /run/donor.pid; do [ ! -f $f ] || kill -KILL $(<$f) 2>/dev/null; done
			rm -rf /run/f.pid /run/donor.pid /dev/shm/fallow /run/fallow-state /run/f.sock /run/f.http
			pkill -KILL -x test-verbs; while pgrep -x fallowd || pgrep -x fallow-memserve; do sleep 0.05; done' >/dev/null || true
		rm -f "$(share "$node")"/{donor,f}.{log,log.old,yaml}
	done
}

show_logs() {
	local file
	for file in "$LAB_DIR"/node*/share/*.log "$LAB_DIR"/node*/console; do
		[ -s "$file" ] || continue
		echo "== $file"
		tail -n 25 "$file"
	done
}
