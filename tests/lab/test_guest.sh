# The whole of it at once: a Debian kernel swaps on a disk of fallowd's by vhost-user, and the pages lie on other machines,
# by verbs; they come back right, also after fallowd was killed and after a memory server lost its power (DESIGN, rules 2, 3).
# The kernel is node 1's own, with test-vhost-nbd in QEMU's place: where nodes are emulated, QEMU on a node is emulation of
# emulation, and its guest's kernel had not printed a line after five minutes. Guests in QEMU are tests/guest's.
# test_pinned.sh is the same with DISK, settings of the disk, and with more that happens meanwhile.
needs nodes:4 kill
RAM=20 SET=64 SEED=${FALLOW_LAB_SEED:-$RANDOM}
say "seed $SEED"
end_disk() { lab exec 1 'swapoff /dev/nbd0; pkill -KILL -x swapwalk; pkill -KILL -x test-vhost-nbd; true' >/dev/null 2>&1; }
trap end_disk EXIT

for node in 2 3 4; do
	donor_start $node 'region: {size: 16MiB}' 'memory: {min: 384MiB, max: 384MiB, floor: 1%}'
done
backend_config "2 3 4" "disks:" "  - {name: vm, kind: swap, size: $((SET * 3 / 2))MiB, socket: /run/vm.sock${DISK:+, $DISK}}" \
	"store: {size: 16MiB, segment: 256KiB, max_pages: 131072${STORE:+, $STORE}}" \
	'remote: {max_lease: 1GiB, heartbeat: 500ms, suspect: 3s, dead: 8s, reconnect_max: 1s}'
backend_start
wait_for "three donors are up" donors_up 3
wait_for "the disk" lab exec 1 'test -S /run/vm.sock'
lab exec 1 "modprobe nbd && { setsid $BIN/test-vhost-nbd /run/vm.sock /dev/nbd0 $((SET * 3 / 2)) </dev/null >/run/lab/nbd.log 2>&1 & }"
wait_for "the disk is there" grep -q ready "$BACKEND_SHARE/nbd.log"
lab exec 1 "mkswap /dev/nbd0 >/dev/null && swapon -d /dev/nbd0
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/walk; echo ${RAM}M >/sys/fs/cgroup/walk/memory.max" ||
	fail "no swap"

lab exec 1 'rm -f /run/enough'
lab start 1 walk "echo \$BASHPID >/sys/fs/cgroup/walk/cgroup.procs; exec $BIN/swapwalk --mib $SET --seed $SEED --steps 500 --until /run/enough" >/dev/null
walked() { lab exec 1 'cat /run/lab/walk.log'; }
walk_said() { walked | grep -q "$1"; }
swap_reads() { lab exec 1 "awk '{print \$1}' /sys/block/nbd0/stat"; }
reads_reach() { [ "$(swap_reads)" -ge "$1" ]; }
goes_on() { wait_for "swapping goes on $1" reads_reach $(($(swap_reads) + 500)); }

LIMIT_S=300
wait_for "the working set is filled" walk_said filled
goes_on "at first"
remote=$(metric 1 fallow_get_remote_seconds_count)
[ "$remote" -gt 0 ] || fail "no page came from another machine"
[ -z "${MEANWHILE:-}" ] || $MEANWHILE
for round in 1 2; do
	backend_kill KILL
	backend_start
	goes_on "after fallowd was killed, $round"
done
wait_for "three donors are up after the kills" donors_up 3
lab kill 4
goes_on "without node 4"
wait_for "two copies of everything on the donors left" all_copies
lab exec 1 'touch /run/enough'
wait_for "the walk's last check" walk_said '^{'
figures=$(walked | grep '^{')
say "$figures"
jq -e ".wrong == 0 and .checked == $((SET * 256)) and .major_faults > 0" <<<"$figures" >/dev/null || fail "pages were wrong: $(walked)"
expect "no page was lost" json_is status '.gets_lost == 0'
expect "no request failed" jq -e '[.disks[] | .requests.errors, .pages.lost] | add == 0' >/dev/null <<<"$(lab exec 1 'curl -s --unix-socket /run/f.http http://f/v1/disks')"
say "$remote gets came from other machines before the first kill"
