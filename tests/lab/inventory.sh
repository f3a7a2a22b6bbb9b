#!/bin/bash
# The lab's commands and tests on an inventory: inventory.sh BUILD_DIRECTORY [TEST...]. The machines are namespaces of this one, with a
# network of their own that leads nowhere; what stands for ssh enters them. With FALLOW_TEST_SSHD=PATH of an sshd it is
# ssh and sshd themselves. Exit code 77: no namespaces here.
set -u
BUILD=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.." || exit 1
D=$(mktemp -d "${TMPDIR:-/tmp}/fallow-lab-inventory.XXXXXX")
export FALLOW_LAB_BUILD=$BUILD FALLOW_LAB_INVENTORY=$D/inventory
unset FALLOW_LAB_OWNER FALLOW_LAB_DIR
NODES=4 CODE=1

lab() { scripts/lab.sh "$@"; }

fail() {
	echo "inventory: $*" >&2
	exit 1
}

# A namespace's first process: it takes in what is left without a parent, and all end with it.
machine_start() { # NAME
	unshare --mount --pid --net --fork --kill-child --mount-proc bash -c "mount -t tmpfs run /run &&
		mount -t tmpfs shm /dev/shm && mkdir -p /run/sshd && ip link set lo up && echo >$D/$1.up && while :; do sleep 1; done" \
		</dev/null >"$D/$1.log" 2>&1 &
	echo $! >"$D/$1.holder"
	disown
	for _ in $(seq 200); do
		[ ! -e "$D/$1.up" ] || break
		kill -0 $! 2>/dev/null || return 1
		sleep 0.05
	done
	pgrep -P $! >"$D/$1.pid"
}

machine_kill() { # NAME
	[ -e "$D/$1.pid" ] || return 0
	kill -KILL "$(<"$D/$1.holder")" 2>/dev/null
	tail --pid="$(<"$D/$1.pid")" -f /dev/null
	rm -f "$D/$1.up" "$D/$1.pid"
}

node_start() { # NUMBER
	machine_start "node$1" || return 1
	ip link add eth0 netns "$(<"$D/node$1.pid")" address "52:54:00:78:00:0$1" type veth peer name "port$1" netns "$(<"$D/lan.pid")" &&
		nsenter -t "$(<"$D/node$1.pid")" -n bash -c "ip addr add 10.78.0.$1/24 dev eth0; ip link set eth0 up" &&
		nsenter -t "$(<"$D/lan.pid")" -n ip link set "port$1" master lan up
}

finish() {
	local file
	rm -f "$D"/*.hung
	lab down >/dev/null 2>&1
	for file in "$D"/*.pid; do
		[ ! -e "$file" ] || machine_kill "$(basename "$file" .pid)"
	done
	rm -rf "$D"
	exit $CODE
}

# The faults' command is this script again: it needs the functions above.
if [ "${2:-}" = fault ]; then
	rmdir "$D"
	D=$3
	case $4 in
	kill) machine_kill "node$5" ;;
	reboot) node_start "$5" ;;
	hang)
		touch "$D/node$5.hung"
		nsenter -t "$(<"$D/node$5.pid")" -m -p bash -c 'kill -STOP -1'
		;;
	resume)
		rm -f "$D/node$5.hung"
		nsenter -t "$(<"$D/node$5.pid")" -m -p bash -c 'kill -CONT -1'
		;;
	esac
	exit
fi
trap finish EXIT
trap 'exit 1' INT TERM

machine_start lan && nsenter -t "$(<"$D/lan.pid")" -n ip link add lan up type bridge forward_delay 0 2>>"$D/lan.log" || {
	echo "lab-inventory: left out, no namespaces can be had here: $(tail -n 1 "$D/lan.log")"
	CODE=77
	exit
}
for node in $(seq $NODES); do
	node_start "$node" || fail "node $node: $(cat "$D/node$node.log")"
done

cat >"$D/enter" <<-END
	#!/bin/bash
	# HOST COMMAND: runs it on that machine, as a shell that was logged in to would.
	[ ! -e "$D/\$1.hung" ] || sleep infinity
	pid=\$(cat "$D/\$1.pid" 2>/dev/null) || { echo "\$1 does not answer" >&2; exit 255; }
	nsenter -t \$pid -m -p -n sh -c "\$2"
	code=\$?
	[ \$code -lt 128 ] || code=255 # the machine is gone
	exit \$code
END
chmod +x "$D/enter"
ssh_line="ssh $D/enter"
if [ -n "${FALLOW_TEST_SSHD:-}" ]; then
	ssh-keygen -q -t ed25519 -N '' -f "$D/key" && ssh-keygen -q -t ed25519 -N '' -f "$D/host" || fail "no keys"
	cp "$D/key.pub" "$D/allowed"
	printf '%s\n' "HostKey $D/host" "AuthorizedKeysFile $D/allowed" "StrictModes no" "PermitRootLogin yes" "UsePAM no" \
		"PidFile none" >"$D/sshd_config"
	ssh_line="ssh ssh -F none -i $D/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
	ssh_line="$ssh_line -o LogLevel=ERROR -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
	ssh_line="$ssh_line -o ProxyCommand=$D/proxy\\ %h"
	printf '#!/bin/bash\nexec %s "$1" "exec %s -i -f %s"\n' "$D/enter" "$FALLOW_TEST_SSHD" "$D/sshd_config" >"$D/proxy"
	chmod +x "$D/proxy"
	printf '#!/bin/bash\nexec %s "$@"\n' "${ssh_line#ssh }" >"$D/ssh"
	chmod +x "$D/ssh"
	ssh_line="ssh $D/ssh"
fi
{
	echo "# a comment"
	echo "$ssh_line"
	echo "share $D/share"
	echo "transport tcp"
	for node in $(seq $NODES); do
		echo "node node$node address=10.78.0.$node interface=eth0"
	done
	for fault in kill reboot hang resume; do
		echo "fault $fault bash $PWD/tests/lab/inventory.sh $BUILD fault $D $fault \"\$1\""
	done
} >"$D/inventory"

expect_exec() { # CODE OUTPUT COMMAND...
	local want=$1 output=$2 got code=0
	shift 2
	got=$(lab exec 2 "$*" 2>"$D/errors" | od -An -c; exit "${PIPESTATUS[0]}") || code=$?
	[ $code = "$want" ] || fail "exec $*: exit code $code, not $want: $(cat "$D/errors")"
	[ "$got" = "$(printf '%b' "$output" | od -An -c)" ] || fail "exec $*: got $got, not $output"
}

### Commands
lab check || fail "check"
lab up $NODES || fail "up"
expect_exec 0 'one\ntwo\n' 'echo one; echo two'
expect_exec 0 "a'b \$c" "printf \"a'b \\\$c\""
expect_exec 0 'x\000y' 'printf "x\0y"'
expect_exec 3 'out' 'printf out; echo err >&2; exit 3'
[ "$(cat "$D/errors")" = err ] || fail "errors: $(cat "$D/errors")"
expect_exec 255 '' 'exit 255'
expect_exec 137 '' 'kill -KILL $$'
expect_exec 0 '10.78.0.2\n' "ip -4 -o addr show eth0 | grep -o '10[0-9.]*' | head -n 1"
lab exec 1 'ping -c 1 -W 5 10.78.0.3 >/dev/null 2>&1 || timeout 5 bash -c "echo >/dev/tcp/10.78.0.3/9" 2>&1 | grep -q refused' ||
	fail "nodes do not reach each other"
[ "$(lab address 3) $(lab interface 3) $(lab device 3)" = "10.78.0.3 eth0 " ] || fail "address and interface"

echo here >"$(lab share 3)/from_here"
[ "$(lab exec 3 'cat /run/lab/from_here; echo there >/run/lab/from_there')" = here ] || fail "share"
[ "$(cat "$(lab share 3)/from_there")" = there ] || fail "share"
pid=$(lab start 3 job 'echo begin; sleep 1000')
lab exec 3 "kill -0 $pid" || fail "start"
for _ in $(seq 100); do
	[ "$(cat "$(lab share 3)/job.log")" = begin ] && break
	sleep 0.1
done
[ "$(cat "$(lab share 3)/job.log")" = begin ] || fail "start's log"

### No end in time, a machine that hangs, that dies under a command, that is dead, that comes back
code=0
FALLOW_LAB_EXEC_LIMIT_S=1 lab exec 2 'echo partial; sleep 1000' >"$D/output" 2>/dev/null || code=$?
[ "$code $(cat "$D/output")" = "124 partial" ] || fail "a command without end: $code $(cat "$D/output")"
lab hang 2
FALLOW_LAB_EXEC_LIMIT_S=1 lab exec 2 true 2>/dev/null
code=$?
[ $code = 124 ] || fail "a machine that hangs: $code"
lab resume 2
expect_exec 0 '' true
lab exec 4 'echo begun; sleep 1000' >"$D/output" 2>/dev/null &
job=$!
for _ in $(seq 100); do
	lab exec 4 'pgrep -fx "sleep 1000"' >/dev/null && break
	sleep 0.1
done
lab kill 4 || fail "kill"
wait $job
code=$?
[ "$code $(cat "$D/output")" = "125 begun" ] || fail "a machine that dies: $code $(cat "$D/output")"
lab exec 4 true 2>/dev/null
code=$?
[ $code = 125 ] || fail "a dead machine: $code"
lab reboot 4 || fail "reboot"
[ "$(lab exec 4 'readlink /run/lab')" = "$D/share/node4" ] || fail "no share after reboot"

### What the inventory lacks
lab cut 1 2 2>"$D/errors"
code=$?
[ $code = 3 ] && grep -q "not available" "$D/errors" || fail "cut: $code $(cat "$D/errors")"
lab heal || fail "nothing to heal"
lab can kill && ! lab can cut && ! lab can verbs && lab can interface || fail "can"
for line in "nod x" "node x" "node x address=" "node x address=1 color=red" "fault explode boom" "transport smoke"; do
	{ cat "$D/inventory"; echo "$line"; } >"$D/bad"
	! FALLOW_LAB_INVENTORY=$D/bad lab status >/dev/null 2>"$D/errors" || fail "taken: $line"
	grep -q "$D/bad" "$D/errors" || fail "no word of what is wrong with '$line': $(cat "$D/errors")"
done

lab down
left=$(lab exec 3 "kill -0 $pid 2>/dev/null && echo process $pid; ls -d /run/lab 2>/dev/null")
[ -z "$left" ] || fail "left after down: $left"
[ ! -e "$D/share" ] || fail "the share is left after down"

### The tests themselves, on a machine that has a service of its own
nsenter -t "$(<"$D/node2.pid")" -m -p bash -c 'sleep 100000 & echo $! >/run/other.pid'
tests=("${@:2}")
[ $# -gt 1 ] || tests=(donor_loss transport)
bash tests/lab/run.sh "$BUILD" "${tests[@]}" 2>&1 | tee "$D/tests"
code=${PIPESTATUS[0]}
[ $code = 0 ] || fail "the lab's tests on an inventory: exit code $code"
nsenter -t "$(<"$D/node2.pid")" -m -p bash -c 'kill -0 "$(</run/other.pid)"' || fail "the tests ended a service that is not theirs"
[ $# -gt 1 ] || [ "$(grep -c '^   ok' "$D/tests") $(grep -c "left out: 'verbs'" "$D/tests")" = "1 1" ] || fail "not all were run"
CODE=0
echo "passed"
