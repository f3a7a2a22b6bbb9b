# shellcheck shell=bash
# Harness of the lab's tests: memory servers and a backend on lab nodes, over verbs. Sourced by run.sh, which has the
# cluster up; node 1 is the backend's, the others are donors'. NODES is how many there are. On a node the
# tests keep in /run/fallow-lab what a reboot may take; the rest of its /run is not theirs.
LIMIT_S=${FALLOW_TEST_LIMIT_S:-120} # for any single wait; only a broken program needs it
TRANSPORT=$(lab transport)
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

# needs WHAT...: nodes:COUNT, or what "lab can" knows. Leaves the test out where there is no such thing.
needs() {
	local what
	for what in "$@"; do
		if [[ $what = nodes:* ]] && [ "$NODES" -lt "${what#nodes:}" ]; then
			echo "   left out: it needs ${what#nodes:} nodes, there are $NODES"
			exit 77
		elif [[ $what != nodes:* ]] && ! lab can "$what"; then
			echo "   left out: '$what' cannot be had here"
			exit 77
		fi
	done
}

# For a test whose disk is node 1's /dev/nbd0: left out where there is none, or somebody has it. disk_end: what the test had there.
needs_disk() {
	lab exec 1 'modprobe nbd nbds_max=2 && [ -e /sys/block/nbd0 ] && [ ! -e /sys/block/nbd0/pid ]' >/dev/null 2>&1 || {
		echo "   left out: node 1 has no /dev/nbd0, or somebody uses it"
		exit 77
	}
	trap disk_end EXIT
}

disk_end() {
	lab exec 1 'pkill -KILL -x swapwalk; swapoff /dev/nbd0; rmdir /sys/fs/cgroup/walk
		pkill -KILL -x test-vhost-nbd || nbd-client -d /dev/nbd0
		for i in $(seq 100); do [ -e /sys/block/nbd0/pid ] || exit 0; sleep 0.1; done' >/dev/null 2>&1
}

# disk_swap MIB: the kernel swaps there before anywhere else; what is in the group "walk" may use so much memory.
disk_swap() {
	lab exec 1 "set -e
		mkswap /dev/nbd0 >/dev/null
		swapon -d -p 32767 /dev/nbd0
		mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/walk; echo $1M >/sys/fs/cgroup/walk/memory.max" ||
		fail "no swap"
}

share() { lab share "$1"; }

now_ms() { echo $(($(date +%s%N) / 1000000)); }

verbs_mode() { [ "$TRANSPORT" = verbs ] && echo on || echo off; }

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
		verbs: {mode: $(verbs_mode), device: "$(lab device "$node")"}
		http: {port: 0, socket: /run/fallow-lab/donor.http}
	YAML
	[ $# -eq 0 ] || printf '%s\n' "$@" >>"$dir/donor.yaml"
	grep -q '^region:' "$dir/donor.yaml" || echo 'region: {size: 2MiB}' >>"$dir/donor.yaml"
	grep -q '^memory:' "$dir/donor.yaml" || echo 'memory: {min: 192MiB, max: 192MiB, floor: 1%}' >>"$dir/donor.yaml"
	[ ! -f "$dir/donor.log" ] || cat "$dir/donor.log" >>"$dir/donor.log.old"
	: >"$dir/donor.log"
	lab exec "$node" "mkdir -p /run/fallow-lab && rm -f /run/fallow-lab/donor.http
		setsid $BIN/fallow-memserver --config /run/lab/donor.yaml </dev/null >/dev/null 2>>/run/lab/donor.log &
		echo \$! >/run/fallow-lab/donor.pid"
	wait_for "donor d$node is ready" grep -q 'msg="ready"' "$dir/donor.log"
}

donor_kill() { # NODE [SIGNAL]: and waits until it is gone
	lab exec "$1" "pid=\$(</run/fallow-lab/donor.pid); kill -${2:-KILL} \$pid; while [ -d /proc/\$pid ]; do sleep 0.05; done"
}

# Processor time that the memory server itself used so far, in hundredths of a second.
donor_cpu() { lab exec "$1" "cut -d' ' -f14,15 /proc/\$(</run/fallow-lab/donor.pid)/stat" | tr ' ' '+' | bc_int; }
bc_int() { local sum; read -r sum; echo $((sum)); }

# backend_config NODES [YAML lines]; STATE_DIR may be changed before
STATE_DIR=/run/fallow-lab/state
backend_config() {
	local nodes=$1 node file=$BACKEND_SHARE/f.yaml
	shift
	{
		cat <<-YAML
			name: host
			runtime_dir: /dev/shm/fallow
			state_dir: $STATE_DIR
			socket: {path: /run/fallow-lab/f.sock}
			http: {port: 0, socket: /run/fallow-lab/f.http}
		YAML
		[ $# -eq 0 ] || printf '%s\n' "$@"
		echo "donors:"
		for node in $nodes; do
			echo "  - {name: d$node, host: $(lab address "$node"), port: 7400, transport: $TRANSPORT, failure_domain: f$node}"
		done
	} >"$file"
	# A round trip takes half a millisecond here.
	grep -q '^lanes:' "$file" || echo 'lanes: {count: 1, get_poll: 2ms}' >>"$file"
	grep -q '^store:' "$file" || echo 'store: {size: 8MiB, segment: 256KiB, max_pages: 131072}' >>"$file"
	grep -q '^timing:' "$file" || echo 'timing: {put_wait: 60s, get_timeout: 60s, io_timeout: 20s}' >>"$file"
	grep -q '^pools:' "$file" || echo 'pools: {copies: 2}' >>"$file"
	grep -q '^remote:' "$file" ||
		echo 'remote: {max_lease: 512MiB, heartbeat: 500ms, suspect: 3s, dead: 8s, reconnect_max: 1s}' >>"$file"
	sed -i "s/^remote: {/&verbs: $(verbs_mode), verbs_device: \"$(lab device 1)\", /" "$file"
}

backend_start() { # [OPTION...]
	local log=$BACKEND_SHARE/f.log
	[ ! -f "$log" ] || cat "$log" >>"$log.old"
	: >"$log"
	lab exec 1 "mkdir -p /run/fallow-lab
		setsid $BIN/fallowd --config /run/lab/f.yaml $* </dev/null >/dev/null 2>>/run/lab/f.log &
		echo \$! >/run/fallow-lab/f.pid"
	wait_for "fallowd is ready" backend_ready_or_gone
	lab exec 1 'kill -0 $(</run/fallow-lab/f.pid)' || fail "fallowd did not start"
}

backend_ready_or_gone() {
	grep -q 'msg="ready"' "$BACKEND_SHARE/f.log" || ! lab exec 1 'kill -0 $(</run/fallow-lab/f.pid)'
}

backend_kill() { # [SIGNAL]
	lab exec 1 "pid=\$(</run/fallow-lab/f.pid); kill -${1:-KILL} \$pid; while [ -d /proc/\$pid ]; do sleep 0.05; done"
}

json() { lab exec 1 "$BIN/fallow --http /run/fallow-lab/f.http --json $1" | jq -r "$2"; }
json_is() { [ "$(json "$1" "$2")" = true ]; }

donors_up() { # COUNT: in service, over verbs, with every lane connected
	json_is donors "[.donors[] | select(.phase == \"up\" and .lanes_connected == 1)] | length == $1"
}

# pages put|check|flush POOL FIRST COUNT [SEED [COPIES]]: prints the tally
pages() {
	local what=$1
	shift
	lab exec 1 "$BIN/test-pages $what /run/fallow-lab/f.sock $*"
}

expect_pages() { # TALLY what...
	local want=$1 got
	shift
	got=$(pages "$@") || fail "pages $*: exit code $?"
	[ "$got" = "$want" ] || fail "pages $*: got \"$got\", not \"$want\""
}

all_ok() { echo "ok=$1 refused=0 miss=0 lost=0 wrong=0 failed=0"; }

# A load on node 1 that runs until load_end NAME: load_start NAME watch|churn POOL FIRST COUNT SEED [COPIES].
# watch reads pages that are there, churn puts and reads pages of its own.
load_start() {
	local name=$1 what=$2
	shift 2
	lab exec 1 "setsid $BIN/test-pages $what /run/fallow-lab/f.sock $* </dev/null >/run/lab/$name.load 2>&1 & echo \$! >/run/fallow-lab/$name.load.pid"
	wait_for "load $name runs" grep -q '^started' "$BACKEND_SHARE/$name.load"
}

# The tally is in LOAD_TALLY, the longest batch's milliseconds in LOAD_MS, the number of pages in LOAD_PAGES.
load_end() { # NAME
	local file=$BACKEND_SHARE/$1.load
	lab exec 1 "kill -TERM \$(</run/fallow-lab/$1.load.pid)" || fail "load $1 ended by itself: $(tail -n 3 "$file")"
	wait_for "load $1 ends" grep -q '^longest_ms=' "$file"
	LOAD_TALLY=$(grep '^ok=' "$file")
	LOAD_MS=$(sed -n 's/^longest_ms=//p' "$file")
	LOAD_PAGES=$(sed 's/^ok=\([0-9]*\) .*/\1/' <<<"$LOAD_TALLY")
}

# load_goes_on NAME: waits until it has done something that began after now.
load_goes_on() {
	local lines
	lines=$(($(wc -l <"$BACKEND_SHARE/$1.load") + 2))
	wait_for "load $1 goes on" sh -c "[ \$(wc -l <'$BACKEND_SHARE/$1.load') -ge $lines ]"
}

# expect_load NAME [WHAT...]: it ended with every answer right; WHAT (refused, miss, lost, failed) may have happened.
expect_load() {
	local name=$1 what tally
	shift
	load_end "$name"
	tally=$LOAD_TALLY
	for what in "$@"; do
		tally=$(sed "s/$what=[0-9]*/$what=0/" <<<"$tally")
	done
	[ "$tally" = "$(all_ok "$LOAD_PAGES")" ] && [ "$LOAD_PAGES" -gt 0 ] || fail "load $name: $LOAD_TALLY"
}

# metric NODE NAME [LABEL]: the sum of a daemon's samples of that name that have the label
metric() {
	local socket=/run/fallow-lab/donor.http
	[ "$1" != 1 ] || socket=/run/fallow-lab/f.http
	lab exec "$1" "curl -s --max-time 20 --unix-socket $socket http://localhost/metrics" |
		awk -v name="$2" -v label="${3:-}" '{ split($1, word, "{") }
			word[1] == name && (label == "" || index($1, label)) { sum += $NF } END { printf "%d\n", sum }'
}
metric_at_least() { [ "$(metric "$1" "$2")" -ge "$3" ]; }
metric_is() { [ "$(metric "$1" "$2")" = "$3" ]; }

all_copies() { json_is status '.segments_underreplicated == 0'; }

# Everything of the last test ends, dead nodes come back; no fault, no page and no lease of it is left.
clean_up() {
	local node
	lab heal
	for node in $(seq "$NODES"); do
		! lab can resume || lab resume "$node" 2>/dev/null || true
		FALLOW_LAB_EXEC_LIMIT_S=60 lab exec "$node" true >/dev/null 2>&1 || lab reboot "$node" || return 1
		lab exec "$node" "for file in /run/fallow-lab/*.pid; do
				pid=\$(<\$file) && [[ \$(readlink /proc/\$pid/exe) = \$(realpath $BIN)/* ]] && kill -KILL \$pid && tail --pid=\$pid -f /dev/null
			done 2>/dev/null
			rm -rf /run/fallow-lab /dev/shm/fallow && mkdir /run/fallow-lab" >/dev/null || return 1
		rm -rf "$(share "$node")"/*.{log,log.old,yaml,load} "$(share "$node")/fallow-state"
	done
}

show_logs() {
	local file node
	for node in $(seq "$NODES"); do
		for file in "$(share "$node")"/*.log; do
			[ -s "$file" ] || continue
			echo "== node $node: ${file##*/}"
			tail -n 25 "$file"
		done
		echo "== node $node: kernel"
		lab log "$node" 2>&1 | tail -n 15
	done
}
