# A node's kernel has a disk of fallowd's by NBD, its pages on other machines by verbs: it swaps there and its pages come back
# right; what was written is there again after fallowd was killed and the kernel connected anew (DESIGN, rules 1, 2).
needs nodes:3
RAM=16 SET=32 SEED=${FALLOW_LAB_SEED:-$RANDOM}
say "seed $SEED"
needs_disk

if ! lab exec 1 'command -v nbd-client' >/dev/null; then
	echo "   left out: node 1 has no nbd-client"
	exit 77
fi
disk_connect() { lab exec 1 'nbd-client -unix /run/fallow-lab/vm.sock /dev/nbd0 -name vm -connections 2 -block-size 4096' >"$BACKEND_SHARE/nbd.log" 2>&1; }
connections() { lab exec 1 'curl -s --unix-socket /run/fallow-lab/f.http http://f/v1/disks' | jq '.disks[0].guest.connections | length'; }
connected() { [ "$(connections)" = "$1" ]; }

for node in 2 3; do
	donor_start $node 'region: {size: 16MiB}' 'memory: {min: 256MiB, max: 256MiB, floor: 1%}'
done
backend_config "2 3" "disks:" "  - {name: vm, size: $((SET * 3 / 2))MiB, frontend: nbd, socket: /run/fallow-lab/vm.sock}"
backend_start
wait_for "two donors are up" donors_up 2
wait_for "the disk" lab exec 1 'test -S /run/fallow-lab/vm.sock'
expect "the kernel connects: $(cat "$BACKEND_SHARE/nbd.log" 2>/dev/null)" disk_connect
wait_for "both connections are served" connected 2
[ "$(lab exec 1 'blockdev --getsize64 /dev/nbd0')" = $((SET * 3 / 2 << 20)) ] || fail "a disk of another size"

disk_swap $RAM
figures=$(lab exec 1 "echo \$BASHPID >/sys/fs/cgroup/walk/cgroup.procs; exec timeout 250 $BIN/swapwalk --mib $SET --seed $SEED --steps 500" | grep '^{')
say "$figures"
jq -e ".wrong == 0 and .checked == $((SET * 256)) and .major_faults > 0" <<<"$figures" >/dev/null || fail "pages were wrong"
remote=$(metric 1 fallow_get_remote_seconds_count)
[ "$remote" -gt 0 ] || fail "no page came from another machine"
lab exec 1 'swapoff /dev/nbd0' || fail "swapoff"

lab exec 1 'head -c 16777216 /dev/urandom >/run/fallow-lab/data && dd if=/run/fallow-lab/data of=/dev/nbd0 bs=64k oflag=direct conv=fsync status=none' || fail "cannot write"
lab exec 1 'nbd-client -d /dev/nbd0' >/dev/null 2>&1
wait_for "the kernel has let go" connected 0
backend_kill KILL
backend_start
wait_for "the disk is served again" lab exec 1 'test -S /run/fallow-lab/vm.sock'
wait_for "the kernel connects again" disk_connect
lab exec 1 'dd if=/dev/nbd0 bs=64k count=256 iflag=direct status=none | cmp - /run/fallow-lab/data' || fail "other bytes than those written"
expect "no request failed" jq -e '[.disks[] | .requests.errors, .pages.lost, (.guest.violations | add)] | add == 0' >/dev/null \
	<<<"$(lab exec 1 'curl -s --unix-socket /run/fallow-lab/f.http http://f/v1/disks')"
say "$remote gets came from other machines"
