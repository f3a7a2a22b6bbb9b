# The whole of it at once: a Debian kernel swaps on a disk of fallowd's by vhost-user, and the pages lie on other machines,
# by verbs; they come back right, also after fallowd was killed and after a memory server lost its power (DESIGN, rules 2, 3).
# The kernel is node 1's own, with test-vhost-nbd in QEMU's place: where nodes are emulated, QEMU on a node is emulation of
# emulation, and its guest's kernel had not printed a line after five minutes. Guests in QEMU are tests/guest's.
# test_pinned.sh is the same with DISK, settings of the disk, and with more that happens meanwhile.
needs nodes:4 kill
RAM=20 SET=64 SEED=${FALLOW_LAB_SEED:-$RANDOM}
say "seed $SEED"
needs_disk

for node in 2 3 4; do
	donor_start $node 'region: {size: 16MiB}' 'memory: {min: 384MiB, max: 384MiB, floor: 1%}'
done
backend_config "2 3 4" "disks:" "  - {name: vm, kind: swap, size: $((SET * 3 / 2))MiB, socket: /run/fallow-lab/vm.sock${DISK:+, $DISK}}" \
	"store: {size: 16MiB, segment: 256KiB, max_pages: 131072${STORE:+, $STORE}}" \
	'remote: {max_lease: 1GiB, heartbeat: 500ms, suspect: 3s, dead: 8s, reconnect_max: 1s}'
backend_start
wait_for "three donors are up" donors_up 3
wait_for "the disk" lab exec 1 'test -S /run/fallow-lab/vm.sock'
lab exec 1 "setsid $BIN/test-vhost-nbd /run/fallow-lab/vm.sock /dev/nbd0 $((SET * 3 / 2)) </dev/null >/run/lab/nbd.log 2>&1 &"
wait_for "the disk is there" grep -q ready "$BACKEND_SHARE/nbd.log"
disk_swap $RAM

lab exec 1 'rm -f /run/fallow-lab/enough'
lab start 1 walk "echo \$BASHPID >/sys/fs/cgroup/walk/cgroup.procs; exec $BIN/swapwalk --mib $SET --seed $SEED --steps 500 --until /run/fallow-lab/enough" >/dev/null
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
lab exec 1 'touch /run/fallow-lab/enough'
wait_for "the walk's last check" walk_said '^{'
figures=$(walked | grep '^{')
say "$figures"
jq -e ".wrong == 0 and .checked == $((SET * 256)) and .major_faults > 0" <<<"$figures" >/dev/null || fail "pages were wrong: $(walked)"
expect "no page was lost" json_is status '.gets_lost == 0'
expect "no request failed" jq -e '[.disks[] | .requests.errors, .pages.lost] | add == 0' >/dev/null <<<"$(lab exec 1 'curl -s --unix-socket /run/fallow-lab/f.http http://f/v1/disks')"
say "$remote gets came from other machines before the first kill"
