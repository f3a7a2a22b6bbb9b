# A donor stops answering, is killed, is drained under a guest that swaps: no error and no wrong page.
. "$(dirname "$0")/lib.sh"
need_fallowd "donors"

say "seed $SEED"
disks_start 3 swap:512:2
guest_start_with --mib 192 --cpus 2 swap:2
swap_on /dev/vda
walk_start 512

# Cut off: nothing is answered and nothing is refused.
kill -STOP "${DONOR_PID[1]}"
wait_progress vda 2000
kill -CONT "${DONOR_PID[1]}"
wait_for "the donors are up after the cut" donors_up 3
walk_alive
say "donor 1 was cut off"

donor_kill 2 KILL
wait_progress vda 2000
donor_start 2 "memory: {min: 2GiB, max: 2GiB, floor: 1%}" 'region: {size: 16MiB}'
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

walk_end 512
no_errors_seen
expect "no page was lost" json_is status '.gets_lost == 0'
passed
