# A guest that migrates finds its memory as it was left last: pages that a disk wrote to, and pages that it wrote to itself,
# after they had been copied already. Of the disk's only its dirty log tells; of the others QEMU, if it does (docs/GUESTS.md).
. "$(dirname "$0")/lib.sh"
need_fallowd "a disk that is handed over"

migration() { guest qmp '{"execute":"query-migrate"}'; }
migration_is() { [ "$(migration | jq -r .return.status)" = "$1" ]; }
passes_are() { migration | jq -e '.return.ram["dirty-sync-count"] >= '"$1"; }
parameters() { guest qmp "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":$1,\"downtime-limit\":$2}}" >/dev/null; }
# All of it, so that nothing is read ahead later.
disk_sum() { in_guest 'dd if=/dev/vda bs=1M 2>/dev/null | md5sum'; }

# It has next to no time at rest, so it goes on in passes over what was written to meanwhile.
migration_begin() { # BYTES_PER_SECOND PASSES
	guest_next "$next"
	parameters "$1" 1
	guest qmp '{"execute":"migrate","arguments":{"uri":"unix:'"$next/incoming"'"}}' >/dev/null || fail "it does not migrate"
	wait_for "all memory has been copied" passes_are "$2"
}

migration_end() {
	parameters 1073741824 300
	wait_for "the end of the migration" migration_is completed
	guest down
	FALLOW_GUEST_DIR=$next
}

say "seed $SEED"
disks_start 2 plain:16
# A kernel that clears pages before a disk writes to them makes them dirty itself. There is room to spare: a page that was
# reclaimed would be read once more.
guest_start_with --mib 192 --cpus 2 --append init_on_alloc=0 plain
in_guest "blockwalk --mib 16 --seed $SEED --workers 8 --steps 2000 /dev/vda" >/dev/null

# What was read stays in memory as long as somebody has the disk open.
guest start reader 'while [ ! -f /tmp/read ]; do sleep 0.5; done </dev/vda'
guest start dirt 'while [ ! -f /tmp/read ]; do dd if=/dev/urandom of=/tmp/dirt bs=1M count=16 conv=notrunc; done'
next=$T/guest-next
migration_begin 16777216 3
before=$(requests_done vda)
sum=$(disk_sum)
requests=$(requests_done vda)
expect "nothing has been reclaimed" in_guest 'grep -qx "pgsteal_kswapd 0" /proc/vmstat'
expect "the disk has written to the guest's memory" [ "$requests" -gt "$before" ]
expect "it has not migrated yet" migration_is active
migration_end
arrived=$(disk_sum)
expect "16 MiB are still in the guest's memory" [ "$(requests_done vda)" = "$requests" ]
expect "what the disk wrote to memory that was copied already arrives" [ "$arrived" = "$sum" ]
in_guest 'touch /tmp/read'
say "what the disk wrote to memory that was copied already has arrived"

# One for each processor, and nothing else to do.
for n in 1 2; do
	guest start memory$n 'memwalk /tmp/enough'
done
next=$T/guest-last
migration_begin 67108864 4
migration_end
in_guest 'touch /tmp/enough'
for n in 1 2; do
	wait_for "the end of memory$n" guest_is "[ -f /tmp/memory$n.code ]"
	say "memory: $(in_guest "cat /tmp/memory$n.log; exit \$(cat /tmp/memory$n.code)")"
done
no_errors_seen
say "what the guest wrote to memory that was copied already has arrived"
passed
