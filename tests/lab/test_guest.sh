# The whole of it at once: a guest in QEMU on node 1 swaps on a disk of fallowd's, its pages go to memory servers by verbs,
# and come back right; also after fallowd was killed and after a memory server lost its power (DESIGN, rules 2 and 3).
# Where nodes are emulated the guest is emulated twice, and so is small; all else is as on real machines.
needs nodes:4 kill
RAM=${FALLOW_LAB_GUEST_MIB:-80} SET=${FALLOW_LAB_GUEST_SET_MIB:-96}
accel=$([ "$(lab exec 1 'test -w /dev/kvm && echo kvm')" = kvm ] || echo FALLOW_GUEST_ACCEL=tcg)

if ! why=$(scripts/guest.sh check 2>&1); then
	say "left out: no guest can be started here: $(tail -n 1 <<<"$why")"
	exit 77
fi
guest() {
	lab exec 1 "cd '$PWD' && $accel FALLOW_GUEST_DIR=/run/guest FALLOW_GUEST_BOOT_LIMIT_S=280 scripts/guest.sh $(printf '%q ' "$@")"
}
in_guest() { guest exec "$@" || fail "in the guest: exit code $?: $*"; }
guest_is() { guest exec "$@" >/dev/null; }
end_guest() { guest down >/dev/null 2>&1 || true; }
trap end_guest EXIT

for node in 2 3 4; do donor_start $node; done
backend_config "2 3 4" "disks:" "  - {name: vm, kind: swap, size: $((SET + 64))MiB, socket: /run/vm.sock}" \
	'store: {size: 8MiB, segment: 256KiB, max_pages: 131072}'
backend_start
wait_for "three donors are up" donors_up 3
wait_for "the disk" lab exec 1 'test -S /run/vm.sock'
begin=$SECONDS
guest up --mib "$RAM" --disk vhost:/run/vm.sock --program "$BIN/swapwalk" --append "hung_task_timeout_secs=300" || fail "no guest"
say "the guest was up after $((SECONDS - begin)) s"
in_guest 'echo 0 >/sys/block/vda/queue/rotational; mkswap /dev/vda >/dev/null && swapon -dpages /dev/vda'
guest start walk "swapwalk --mib $SET --seed 11 --steps 200 --until /tmp/enough"
LIMIT_S=400
wait_for "the working set is filled" guest_is 'grep -q filled /tmp/walk.log || [ -f /tmp/walk.code ]'
say "filled after $((SECONDS - begin)) s"
guest_is '[ ! -f /tmp/walk.code ]' || fail "the walk ended: $(guest exec 'cat /tmp/walk.log')"
gets=$(json status '[.lanes[].gets_remote] | add')
backend_kill KILL
backend_start
wait_for "three donors are up after the kill" donors_up 3
lab kill 4
wait_for "two copies of everything on the donors left" all_copies
in_guest 'touch /tmp/enough'
wait_for "the walk's last check" guest_is '[ -f /tmp/walk.code ]'
figures=$(in_guest 'cat /tmp/walk.log; exit $(cat /tmp/walk.code)' | grep '^{')
say "$figures"
expect "every page was right" jq -e ".wrong == 0 and .checked == $((SET * 256)) and .major_faults > 0" <<<"$figures" >/dev/null
expect "pages came from other machines" json_is status "[.lanes[].gets_remote] | add > 0"
expect "no page was lost" json_is status '.gets_lost == 0'
say "all of it took $((SECONDS - begin)) s; $gets gets from donors before the kill"
