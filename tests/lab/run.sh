#!/bin/bash
# Runs the lab's tests on a cluster: run.sh BUILD_DIRECTORY [TEST...] on one of its own, or in steps that share one:
#   run.sh --up BUILD      starts it; it goes down by itself when the caller of this script is gone
#   run.sh --on BUILD TEST...
#   run.sh --down BUILD
# Exit code 77: no cluster can be had here, or it lacks what the test needs.
set -u
step=all
case $1 in
--up | --on | --down)
	step=${1#--}
	shift
	;;
esac
BUILD=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.." || exit 1
BIN=$BUILD/bin NODES=4 TEST=start
NOTE=$BUILD/lab-test # names the directory of the cluster that is up
export FALLOW_LAB_BUILD=$BUILD FALLOW_LAB_OWNER=$$
[ $step = all ] || FALLOW_LAB_OWNER=$PPID
# Limits are for what is broken. A test itself has the one of ctest.
export FALLOW_LAB_EXEC_LIMIT_S=${FALLOW_LAB_EXEC_LIMIT_S:-300}

lab() { scripts/lab.sh "$@"; }

cluster_up() {
	local why begin
	[ ! -f "$NOTE" ] || cluster_down
	FALLOW_LAB_DIR=$(mktemp -d "${TMPDIR:-/tmp}/fallow-lab-test.XXXXXX")
	export FALLOW_LAB_DIR
	if ! why=$(lab check 2>&1); then
		rmdir "$FALLOW_LAB_DIR"
		echo "lab: left out, no cluster can be started here: $(tail -n 1 <<<"$why")"
		exit 77
	fi
	[ "$(lab nodes)" -ge $NODES ] || NODES=$(lab nodes)
	echo "$FALLOW_LAB_DIR $NODES" >"$NOTE"
	begin=$SECONDS
	lab up $NODES || {
		cluster_down
		exit 1
	}
	echo "   up $NODES: $((SECONDS - begin)) s (target for 4: under 60)"
}

cluster_find() {
	if ! read -r FALLOW_LAB_DIR NODES <"$NOTE"; then
		echo "lab: left out, no cluster is up (test lab-up)"
		exit 77
	fi 2>/dev/null
	export FALLOW_LAB_DIR
}

cluster_down() {
	read -r FALLOW_LAB_DIR NODES <"$NOTE" || return 0
	export FALLOW_LAB_DIR
	lab down
	rm -rf "$FALLOW_LAB_DIR" "$NOTE"
}

# One test in a shell of its own. Its exit code: 0 passed, 77 left out.
test_run() { # FILE
	local begin=$SECONDS code=0
	echo "== $TEST"
	(
		clean_up || fail "what the last test left cannot be cleaned up"
		# shellcheck disable=SC1090
		. "$1"
		exit 0
	) || code=$?
	case $code in
	0) echo "   ok, $((SECONDS - begin)) s" ;;
	77) ;;
	*) show_logs ;;
	esac
	return $code
}

tests_run() { # [TEST...]
	local file worst=0
	. tests/lab/lib.sh
	for file in tests/lab/test_*.sh; do
		TEST=$(basename "$file" .sh)
		TEST=${TEST#test_}
		[ $# = 0 ] || [[ " $* " = *" $TEST "* ]] || continue
		test_run "$file" || worst=$?
		[ $worst = 0 ] || [ $worst = 77 ] || break
	done
	[ $# = 1 ] || [ $worst != 77 ] || worst=0
	return $worst
}

trap 'exit 1' INT TERM
case $step in
up) cluster_up ;;
on)
	cluster_find
	tests_run "$@"
	;;
down)
	cluster_find
	cluster_down
	;;
all)
	NOTE=$(mktemp) && rm "$NOTE"
	trap 'code=$?; [ ! -f "$NOTE" ] || cluster_down; exit $code' EXIT
	cluster_up
	tests_run "$@"
	;;
esac
