# A guest changes under load: memory is plugged in, and it is reset in mid-I/O; its disk serves it as before.
. "$(dirname "$0")/lib.sh"

say "seed $SEED"
disks_start 2 swap:640:2
guest_start_with --mib 256 --max-mib 1024 --cpus 2 swap:2
swap_on /dev/vda
walk_start 640
before=$(in_guest "sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo")
for plug in 1 2; do
	guest plug 128 || fail "memory cannot be plugged in"
	wait_for "$((plug * 128)) MiB more" guest_is "[ \$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) -ge $((before + plug * 120000)) ]"
	wait_progress vda 500
done
walk_end 640
no_errors_seen
say "memory was plugged in under load"

# A reset finds requests in flight; none of them may be answered to the guest that comes after.
for reset in 1 2 3; do
	in_guest 'swapoff /dev/vda' || true
	guest start load 'while :; do dd if=/dev/zero of=/dev/vda bs=1M count=256 oflag=direct; done'
	guest start load2 'while :; do dd if=/dev/vda of=/dev/null bs=64k count=4096 iflag=direct; done'
	wait_progress vda 100
	guest reset || fail "the guest did not come up after reset $reset"
	swap_on /dev/vda
	walk_figures 320 "$(in_guest "swapwalk --mib 320 --seed $((SEED + reset)) --steps 500")"
	no_errors_seen
	say "reset $reset"
done
passed
