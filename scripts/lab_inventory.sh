#!/usr/bin/env bash
# The lab's commands on the real machines that FALLOW_LAB_INVENTORY names: lab_inventory.sh COMMAND [ARGUMENT...].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

BUILD=${FALLOW_LAB_BUILD:-$PWD/build}
BOOT_LIMIT_S=${FALLOW_LAB_BOOT_LIMIT_S:-900}
EXEC_LIMIT_S=${FALLOW_LAB_EXEC_LIMIT_S:-900}
faults="kill reboot hang resume cut delay drop reorder heal"

### The inventory

SSH="ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
SHARE="" TRANSPORT=verbs
HOSTS=() ADDRESSES=() DEVICES=() INTERFACES=()
declare -A FAULT=()

node_line() { # HOST WORD=VALUE...
	local word address="" device="" interface=""
	HOSTS+=("$1")
	shift
	for word in "$@"; do
		case $word in
		address=?*) address=${word#*=} ;;
		device=?*) device=${word#*=} ;;
		interface=?*) interface=${word#*=} ;;
		*) return 1 ;;
		esac
	done
	[ -n "$address" ] || return 1
	ADDRESSES+=("$address")
	DEVICES+=("$device")
	INTERFACES+=("$interface")
}

inventory_read() { # FILE
	local line=0 word rest name
	[ -r "$1" ] || die "lab: cannot read the inventory $1"
	while read -r word rest || [ -n "$word" ]; do
		line=$((line + 1))
		case $word in
		"" | "#"*) continue ;;
		ssh) SSH=$rest ;;
		share) SHARE=$rest ;;
		transport) TRANSPORT=$rest ;;
		node)
			# shellcheck disable=SC2086
			node_line $rest || die "lab: $1:$line: node HOST address=A [device=D] [interface=I], not '$rest'"
			;;
		fault)
			read -r name rest <<<"$rest"
			[[ " $faults " = *" $name "* ]] && [ -n "$rest" ] ||
				die "lab: $1:$line: fault NAME COMMAND with one of these names: $faults"
			FAULT[$name]=$rest
			;;
		*) die "lab: $1:$line: '$word' is none of ssh, share, transport, node, fault" ;;
		esac
	done <"$1"
	[ ${#HOSTS[@]} -gt 0 ] || die "lab: $1 names no node"
	[[ $SHARE = /?* ]] || die "lab: $1: share must be an absolute path"
	[ "$TRANSPORT" = verbs ] || [ "$TRANSPORT" = tcp ] || die "lab: $1: transport is verbs or tcp"
}

need_node() {
	[[ ${1:-} =~ ^[0-9]{1,3}$ ]] && [ "$1" -ge 1 ] && [ "$1" -le ${#HOSTS[@]} ] ||
		die "lab: a node is from 1 to ${#HOSTS[@]}, not '${1:-}'"
}

### Commands on a node

quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; } # for any shell that may be the login shell there

# Everything that a node runs for this cluster carries this in its environment, so that down finds it.
run_id() { cat "$SHARE/run" 2>/dev/null || echo none; }

# The exit code comes as the last bytes of the output: 255 of ssh itself is another thing than 255 of the command.
MARK=$'\nlab-exit '

node_exec() { # NODE LIMIT_S COMMAND: 124 no end in time, 125 the node cannot be reached or died
	local node=$1 limit_s=$2 out code command mark
	out=$(mktemp)
	command="FALLOW_LAB_RUN=${RUN:-$(run_id)} timeout -k 5 $limit_s bash -c $(quote "cd $(quote "$PWD")
$3"); printf '\\nlab-exit %03d' \$?"
	code=0
	# shellcheck disable=SC2086
	timeout -k 5 $((limit_s + 10)) $SSH "${HOSTS[node - 1]}" "$command" </dev/null >"$out" || code=$?
	mark=$(tail -c 13 "$out" && echo .)
	if [[ $mark = "$MARK"[0-9][0-9][0-9]. ]]; then
		head -c -13 "$out"
		code=$((10#${mark:10:3}))
		[ $code != 124 ] || echo "lab: node $node: no end within $limit_s s" >&2
	else
		cat "$out"
		if [ $code = 124 ] || [ $code = 137 ]; then
			echo "lab: node $node has not answered for $limit_s s" >&2
			code=124
		else
			echo "lab: node $node died or cannot be reached" >&2
			code=125
		fi
	fi
	rm -f "$out"
	return $code
}

node_answers() { node_exec "$1" "${2:-20}" true >/dev/null 2>&1; }

lab_exec() {
	local node=${1:-}
	need_node "$node"
	shift
	[ $# -gt 0 ] || die "lab: exec needs a command"
	node_exec "$node" "$EXEC_LIMIT_S" "$*"
}

lab_start() {
	local node=$1 name=$2
	shift 2
	lab_exec "$node" "setsid bash -c $(quote "$*") </dev/null >/run/lab/$(quote "$name").log 2>&1 & echo \$!"
}

### The cluster

# /run is empty after a reboot: that there is no /run/lab tells that one took place.
node_join() { # NODE
	local dir=$SHARE/node$1 sum
	sum=$(sha256sum <"$BUILD/bin/fallow-memserver") || die "lab: there is no build in $BUILD"
	node_exec "$1" 60 "[ ! -e /run/lab ] || [ -L /run/lab ] || { echo '/run/lab is something else there' >&2; exit 1; }
		[ \"\$(cat $(quote "$dir/seen"))\" = $(run_id) ] || { echo 'it does not share $SHARE' >&2; exit 1; }
		[ \"\$(sha256sum <$(quote "$BUILD/bin/fallow-memserver"))\" = '$sum' ] ||
			{ echo 'it does not have this build in $BUILD' >&2; exit 1; }
		ln -sfn $(quote "$dir") /run/lab" >/dev/null || die "lab: node $1 (${HOSTS[$1 - 1]}) cannot take part"
}

lab_up() {
	local nodes=${1:-} node begin=$SECONDS
	need_node "$nodes"
	lab_check
	lab_down
	mkdir -p "$SHARE"
	head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$SHARE/run"
	for node in $(seq "$nodes"); do
		mkdir -p "$SHARE/node$node"
		cp "$SHARE/run" "$SHARE/node$node/seen"
		node_join "$node"
	done
	echo "$nodes" >"$SHARE/nodes"
	[ -z "${FALLOW_LAB_OWNER:-}" ] || watch_owner "$FALLOW_LAB_OWNER"
	echo "lab: $nodes nodes up (inventory) after $((SECONDS - begin)) s"
}

# Whoever started the cluster may be killed without a chance to end it.
watch_owner() {
	# shellcheck disable=SC2016
	setsid bash -c 'while kill -0 "$1" 2>/dev/null; do [ "$(cat "$2/run" 2>/dev/null)" = "$3" ] || exit 0; sleep 1; done
		exec scripts/lab_inventory.sh down' lab "$1" "$SHARE" "$(run_id)" </dev/null >/dev/null 2>&1 &
}

lab_down() {
	local node nodes RUN=down # its own commands are not what it ends
	[ -f "$SHARE/run" ] || return 0
	! can heal || fault_run heal || true
	nodes=$(cat "$SHARE/nodes" 2>/dev/null || echo ${#HOSTS[@]})
	for node in $(seq "$nodes"); do
		! can resume || fault_run resume "$node" || true
		node_exec "$node" 60 "for i in \$(seq 20); do
				left=\$(grep -lzx FALLOW_LAB_RUN=$(run_id) /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
				[ -n \"\$left\" ] || break
				kill -KILL \$left 2>/dev/null
				sleep 0.1
			done
			[ ! -L /run/lab ] || rm /run/lab" >/dev/null 2>&1 ||
			echo "lab: node $node was not reached: what ran there may still run" >&2
		rm -rf "$SHARE/node$node"
	done
	rm -f "$SHARE/run" "$SHARE/nodes"
	rmdir "$SHARE" 2>/dev/null || true
}

lab_check() {
	command -v "${SSH%% *}" >/dev/null || die "lab: there is no ${SSH%% *} here"
	[ -x "$BUILD/bin/fallow-memserver" ] || build_preset release >/dev/null
}

lab_status() {
	local node
	for node in $(seq ${#HOSTS[@]}); do
		printf 'node%d %s %s\n' "$node" "${HOSTS[node - 1]}" "$(node_answers "$node" && echo answers || echo "does not answer")"
	done
}

### Faults: what the inventory has a command for

can() { [ -n "${FAULT[${1:-}]:-}" ]; }

lab_can() {
	case ${1:-} in
	verbs) [ "$TRANSPORT" = verbs ] ;;
	interface) [[ " ${INTERFACES[*]/#/=} " != *"= "* ]] ;;
	*) can "${1:-}" ;;
	esac
}

# The command sees the words after the fault's name as $1, $2, ..., and what the inventory says of the node $1.
fault_run() { # NAME [ARGUMENT...]
	local name=$1 node=${2:-}
	shift
	if ! can "$name"; then
		[ "$name" != heal ] || return 0
		echo "lab: not available: the inventory has no '$name'" >&2
		exit 3
	fi
	if [ -n "$node" ]; then
		need_node "$node"
		export HOST=${HOSTS[node - 1]} ADDRESS=${ADDRESSES[node - 1]} INTERFACE=${INTERFACES[node - 1]}
	fi
	timeout -k 5 120 bash -c "${FAULT[$name]}" "lab-$name" "$@" </dev/null
}

lab_kill() {
	local end=$((SECONDS + 120))
	need_node "${1:-}"
	fault_run kill "$1"
	while node_answers "$1" 5; do
		[ $SECONDS -lt $end ] || die "lab: node $1 still answers after kill"
		sleep 0.2
	done
}

lab_reboot() {
	local end=$((SECONDS + BOOT_LIMIT_S))
	need_node "${1:-}"
	! can kill || lab_kill "$1"
	fault_run reboot "$1"
	until node_exec "$1" 10 '[ ! -e /run/lab ]' >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || die "lab: node $1 did not start anew"
		sleep 0.2
	done
	node_join "$1"
}

inventory_read "$FALLOW_LAB_INVENTORY"
command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
up | check | exec | start | kill | reboot | status | down | can) "lab_$command" "$@" ;;
hang | resume | cut | delay | drop | reorder | heal) fault_run "$command" "$@" ;;
refresh) ;; # what a network file system caches is its own affair
transport) echo "$TRANSPORT" ;;
nodes) echo ${#HOSTS[@]} ;;
log)
	lab_exec "${1:-}" 'dmesg | tail -n 200'
	;;
address | device | interface | share)
	need_node "${1:-}"
	case $command in
	address) echo "${ADDRESSES[$1 - 1]}" ;;
	device) echo "${DEVICES[$1 - 1]}" ;;
	interface) echo "${INTERFACES[$1 - 1]}" ;;
	share) echo "$SHARE/node$1" ;;
	esac
	;;
help | -h | --help) exec env -u FALLOW_LAB_INVENTORY scripts/lab.sh help ;;
*)
	echo "lab: unknown command '$command' (lab help)" >&2
	exit 2
	;;
esac
