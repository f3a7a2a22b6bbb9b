# fallowd is killed and started again, donors are cut off, killed and drained, all under one guest that swaps, has a file
# system and uses a bare disk: it sees pauses, no error and no wrong page.
. "$(dirname "$0")/lib.sh"
need_fallowd "faults of the back end and of donors"

say "seed $SEED"
walk_mib=$(amount 320 448)
disks_start 3 swap:400:2 plain:64 files:96
guest_start_with --host --mib 256 --cpus 2 swap:2 plain files
swap_on /dev/vda
in_guest 'chroot /host mkfs.ext4 -q -F /dev/vdc && mount -t ext4 /dev/vdc /mnt'
walk_start $walk_mib
guest start blocks "blockwalk --mib 64 --seed $SEED --workers 16 --until /tmp/enough /dev/vdb"
# shellcheck disable=SC2016
guest start files 'n=0; while [ ! -f /tmp/enough ]; do n=$((n + 1))
	tar cf /mnt/a.new -C /host/usr sbin && sync && mv /mnt/a.new /mnt/a && echo 1 >/proc/sys/vm/drop_caches &&
	sha256sum </mnt/a >/tmp/sum.$((n % 2)) || exit 1
	[ $n = 1 ] || cmp /tmp/sum.0 /tmp/sum.1 || exit 1; done; echo rounds $n'

for round in 1 2 3 4 5; do
	for disk in vda vdb vdc; do
		wait_progress $disk 100
	done
	backend_kill KILL
	# Some restarts find the front end still connecting, some find it waiting for long.
	[ $((round % 3)) = 0 ] || sleep 0.$((RANDOM % 9))
	backend_start
	walk_alive
	say "fallowd killed, $round: the guest goes on"
done
wait_for "the donors are up after the kills" donors_up 3

# Cut off: nothing is answered and nothing is refused.
kill -STOP "${DONOR_PID[1]}"
wait_progress vda 1000
kill -CONT "${DONOR_PID[1]}"
wait_for "the donors are up after the cut" donors_up 3
walk_alive
say "donor 1 was cut off"

donor_kill 2 KILL
wait_progress vda 1000
donor_start 2 "${DONOR_SETTINGS[@]}"
wait_for "the donors are up after the kill" donors_up 3
wait_for "two copies of everything" json_is status '.segments_underreplicated == 0'
walk_alive
say "donor 2 was killed"

# SIGTERM is a donor's drain: it goes when its regions have been moved.
kill -TERM "${DONOR_PID[3]}"
wait_for "donor 3 was drained" donor_gone 3
wait_progress vda 1000
walk_alive
say "donor 3 was drained"

walk_end $walk_mib
for job in blocks files; do
	wait_for "the end of $job" guest_is "[ -f /tmp/$job.code ]"
	say "$job: $(in_guest "tail -n 1 /tmp/$job.log; exit \$(cat /tmp/$job.code)")"
done
in_guest 'umount /mnt && chroot /host e2fsck -f -n /dev/vdc' >/dev/null
no_errors_seen
expect "no page was lost" json_is status '.gets_lost == 0'
passed
