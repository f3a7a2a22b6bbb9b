# A guest migrates to another QEMU on this host while it swaps and writes: both are connected to its disks, each page it has
# arrives, and when the migration fails, early or late, the guest goes on where it is.
. "$(dirname "$0")/lib.sh"
need_fallowd "a disk that is handed over"

next=$T/guest-next

migration() { guest qmp '{"execute":"query-migrate"}' | jq -r .return.status; }
migration_is() { [ "$(migration)" = "$1" ]; }
parameter() { guest qmp "{\"execute\":\"migrate-set-parameters\",\"arguments\":{$1}}" >/dev/null || fail "cannot set $1"; }
pause_before_switchover() { # true or false
	guest qmp '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"pause-before-switchover","state":'"$1"'}]}}' >/dev/null
}
migrate_begin() { guest qmp '{"execute":"migrate","arguments":{"uri":"unix:'"$next/incoming"'"}}' >/dev/null || fail "it does not migrate"; }
disks_are() { [ "$(curl -s --unix-socket "$T/f.http" http://localhost/v1/disks | jq "[.disks[] | $1] | all")" = true ]; }
front_ends() { disks_are ".guest.front_ends == $1"; }
goes_on() {
	for disk in vda vdb; do
		wait_progress $disk 100
	done
	walk_alive
}

say "seed $SEED"
walk_mib=$(amount 384 448)
disks_start 3 swap:400:2 plain:64
# A kernel that clears pages before a disk writes to them makes them dirty itself.
guest_start_with --mib 256 --cpus 2 --append init_on_alloc=0 swap:2 plain
swap_on /dev/vda
walk_start $walk_mib
guest start blocks "blockwalk --mib 64 --seed $SEED --workers 16 --until /tmp/enough /dev/vdb"

# Early: where it goes to dies while its memory is copied.
guest_next "$next"
wait_for "two front ends" front_ends 2
parameter '"max-bandwidth":1048576'
migrate_begin
wait_for "its memory is copied" migration_is active
goes_on
FALLOW_GUEST_DIR=$next guest kill
wait_for "the end of the migration" migration_is failed
goes_on
wait_for "one front end" front_ends 1
say "where it went to died early: the guest goes on"

# Late: its processors and its rings have stopped.
guest_next "$next"
parameter '"max-bandwidth":1073741824'
pause_before_switchover true
migrate_begin
wait_for "the guest is at rest" migration_is pre-switchover
expect "no ring runs while the guest is at rest" disks_are '.guest.rings == 0'
FALLOW_GUEST_DIR=$next guest kill
guest qmp '{"execute":"migrate-continue","arguments":{"state":"pre-switchover"}}' >/dev/null
wait_for "the end of the late migration" migration_is failed
goes_on
pause_before_switchover false
say "where it went to died late: the guest goes on"

# fallowd is killed while memory is copied: what it wrote is in the dirty log, and both find the next one.
guest_next "$next"
parameter '"max-bandwidth":1048576'
migrate_begin
wait_for "its memory is copied" migration_is active
goes_on
backend_kill KILL
backend_start
wait_for "two front ends again" front_ends 2
goes_on
parameter '"max-bandwidth":1073741824'
wait_for "the migration" migration_is completed
first=$FALLOW_GUEST_DIR
FALLOW_GUEST_DIR=$next
goes_on
FALLOW_GUEST_DIR=$first guest down
wait_for "the first front end is gone" front_ends 1
say "it has migrated, with fallowd killed meanwhile"

guest_next "$T/guest-last"
figures=$(guest migrate "$T/guest-last") || fail "it has not migrated again"
FALLOW_GUEST_DIR=$T/guest-last
goes_on
say "again: ${figures#guest: }"
# What is in flight is known where the guest is now.
backend_kill KILL
backend_start
goes_on
say "fallowd was killed afterwards: the guest goes on"

walk_end $walk_mib
wait_for "the end of blocks" guest_is '[ -f /tmp/blocks.code ]'
# shellcheck disable=SC2016
say "blocks: $(in_guest 'tail -n 1 /tmp/blocks.log; exit $(cat /tmp/blocks.code)')"
no_errors_seen
expect "never two guests on one disk" disks_are '.guest.violations.busy == 0'
expect "no page was lost" json_is status '.gets_lost == 0'
passed
