#!/bin/bash
# A cluster of the lab as real machines: inventory_lab.sh BUILD_DIRECTORY [COMMAND...] runs the command with an inventory
# of four lab nodes (kernels, Soft-RoCE and power of their own) that are reached by ssh over a second network, which ends at
# this machine's loopback. Without a command it runs the lab's test donor_loss.
# Exit code 77: there is no cluster, or no dropbear or ssh, to be had here.
set -u
BUILD=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.." || exit 1
unset FALLOW_LAB_INVENTORY
NODES=4 LIMIT_S=120
D=$(mktemp -d "${TMPDIR:-/tmp}/fallow-lab-inventory.XXXXXX")

left_out() {
	echo "lab-inventory-verbs: left out, $*"
	exit 77
}

fail() {
	echo "lab-inventory-verbs: $*" >&2
	exit 1
}

finish() {
	local code=$? node
	trap - EXIT
	[ ! -s "$D/inventory" ] || "$D/lab" down >/dev/null 2>&1
	for node in $(seq $NODES); do
		ssh -F "$D/ssh_config" -O exit "node$node" 2>/dev/null
	done
	rm -rf "$D"
	exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM

why=$(FALLOW_LAB_BUILD=$BUILD scripts/lab.sh check 2>&1) || left_out "no cluster can be started here: $(tail -n 1 <<<"$why")"
why=$(scripts/deps.sh inventory 2>&1) || left_out "no dropbear or no ssh can be had: $(tail -n 1 <<<"$why")"

### The machines: lab nodes with a network card more, and a directory that all of them share with this machine
mkdir "$D/cluster" "$D/shared"
ssh-keygen -q -t ed25519 -N '' -f "$D/key" && dropbearkey -t ed25519 -f "$D/host" >/dev/null 2>&1 || fail "no keys"
# Below those that outgoing connections take, or one of these could have a node's while it is rebooted.
read -ra ports < <(python3 -c '
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    try:
        held.append(socket.create_server(("127.0.0.1", random.randrange(20000, 32000))))
    except OSError:
        pass
print(*(s.getsockname()[1] for s in held))' $NODES)
{
	echo "unset FALLOW_LAB_INVENTORY"
	echo "export FALLOW_LAB_DIR=$D/cluster FALLOW_LAB_BUILD=$BUILD FALLOW_LAB_OWNER=$$ FALLOW_LAB_EXEC_LIMIT_S=60"
	for node in $(seq $NODES); do
		echo "export FALLOW_LAB_QEMU_ARGS_$node='-netdev user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:${ports[node - 1]}-:22" \
			"-device virtio-net-pci,netdev=ssh,mac=52:54:00:79:00:0$node" \
			"-virtfs local,path=$D/shared,mount_tag=shared,security_model=none'"
	done
} >"$D/environment"

# Run on a node after it started: what makes it a machine that answers to ssh, and to nothing of the lab's any more.
cat >"$D/settle" <<END
set -e
ip link set eth1 up
ip addr add 10.0.2.15/24 dev eth1
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none shared $D/shared
mkdir -p /root/.ssh
chmod 700 /root /root/.ssh
cp $D/key.pub /root/.ssh/authorized_keys
: >/root/.bashrc # the one seen there is this machine's
dropbear -s -r $D/host -P /run/dropbear.pid
setsid bash -c 'while [ -n "\$(ls /run/lab/jobs)" ]; do sleep 0.1; done; umount -l /run/lab; rmdir /run/lab' </dev/null >/dev/null 2>&1 &
END

# The lab's own commands on those machines; a node that started is settled.
cat >"$D/lab" <<END
#!/bin/bash
. $D/environment
cd $PWD || exit
scripts/lab.sh "\$@" || exit
case \$1 in
up) nodes=\$(seq "\$2") ;;
reboot) nodes=\$2 ;;
esac
for node in \${nodes:-}; do
	scripts/lab.sh exec "\$node" 'bash $D/settle' || exit
done
END
chmod +x "$D/lab"

for node in $(seq $NODES); do
	printf '%s\n' "Host node$node" "  HostName 127.0.0.1" "  Port ${ports[node - 1]}"
done >"$D/ssh_config"
printf '%s\n' "Host *" "  User root" "  IdentityFile $D/key" "  IdentitiesOnly yes" "  BatchMode yes" "  StrictHostKeyChecking no" \
	"  UserKnownHostsFile /dev/null" "  LogLevel ERROR" "  ConnectTimeout 10" "  ServerAliveInterval 5" "  ServerAliveCountMax 3" \
	"  ControlMaster auto" "  ControlPath $D/%n" "  ControlPersist 600" >>"$D/ssh_config"

{
	echo "ssh ssh -F $D/ssh_config"
	echo "share $D/shared/lab"
	for node in $(seq $NODES); do
		echo "node node$node address=10.77.0.$node device=rxe0 interface=eth0"
	done
	for fault in kill reboot hang resume cut delay drop reorder heal; do
		echo "fault $fault $D/lab $fault \"\$@\""
	done
} >"$D/inventory"

"$D/lab" up $NODES || fail "the machines did not start"
export FALLOW_LAB_INVENTORY=$D/inventory FALLOW_LAB_BUILD=$BUILD
for node in $(seq $NODES); do
	end=$((SECONDS + LIMIT_S))
	until ssh -F "$D/ssh_config" "node$node" '[ ! -e /run/lab ]' 2>"$D/errors"; do
		[ $SECONDS -lt $end ] || fail "node $node does not answer: $(cat "$D/errors")"
		sleep 0.5
	done
done
[ $# -gt 0 ] || set -- bash tests/lab/run.sh "$BUILD" donor_loss
"$@"
