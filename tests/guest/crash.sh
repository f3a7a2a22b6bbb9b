# fallowd is killed with SIGKILL and started again under a guest that swaps, has a file system and uses a bare disk:
# it sees a pause, no error and no wrong page.
. "$(dirname "$0")/lib.sh"
need_fallowd "kills of the back end"

say "seed $SEED"
disks_start 2 swap:512:2 plain:64 files:64
guest_start_with --host --mib 320 --cpus 2 swap:2 plain files
swap_on /dev/vda
in_guest 'chroot /host mkfs.ext4 -q -F /dev/vdc && mount -t ext4 /dev/vdc /mnt'
walk_start 640

guest start blocks "blockwalk --mib 64 --seed $SEED --workers 16 --until /tmp/enough /dev/vdb"
# shellcheck disable=SC2016
guest start files 'n=0; while [ ! -f /tmp/enough ]; do n=$((n + 1))
	tar cf /mnt/a.new -C /host/usr sbin && sync && mv /mnt/a.new /mnt/a && echo 1 >/proc/sys/vm/drop_caches &&
	sha256sum </mnt/a >/tmp/sum.$((n % 2)) || exit 1
	[ $n = 1 ] || cmp /tmp/sum.0 /tmp/sum.1 || exit 1; done; echo rounds $n'

for round in 1 2 3 4 5 6; do
	for disk in vda vdb vdc; do
		wait_progress $disk 200
	done
	backend_kill KILL
	# Some kills find the front end still connecting to the back end before.
	[ $((round % 3)) = 0 ] || sleep 0.$((RANDOM % 9))
	backend_start
	walk_alive
	say "kill $round: the guest goes on"
done
walk_end 640
for job in blocks files; do
	wait_for "the end of $job" guest_is "[ -f /tmp/$job.code ]"
	say "$job: $(in_guest "tail -n 1 /tmp/$job.log; exit \$(cat /tmp/$job.code)")"
done
in_guest 'umount /mnt && chroot /host e2fsck -f -n /dev/vdc' >/dev/null
no_errors_seen
passed
