# A guest changes under load: memory is plugged in, and it is reset in mid-I/O; its disk serves it as before.
. "$(dirname "$0")/lib.sh"

memory_kib() { in_guest "sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo"; }
memory_reaches() { [ "$(memory_kib)" -ge "$1" ]; }

say "seed $SEED"
walk_mib=$(amount 384 448)
disks_start 3 swap:400:2
guest_start_with --mib 256 --max-mib 1024 --cpus 2 swap:2
swap_on /dev/vda
walk_start $walk_mib
before=$(memory_kib)
for plug in 1 2; do
	guest plug 128 || fail "memory cannot be plugged in"
	wait_for "$((plug * 128)) MiB more" memory_reaches $((before + plug * 120000))
	walk_alive
done
walk_end $walk_mib
no_errors_seen
say "memory was plugged in under load"

# A reset finds requests in flight; none of them may be answered to the guest that comes after.
in_guest 'swapoff /dev/vda'
for reset in $(seq "$(amount 1 3)"); do
	guest start writes 'while :; do dd if=/dev/zero of=/dev/vda bs=1M count=256 oflag=direct; done'
	guest start reads 'while :; do dd if=/dev/vda of=/dev/null bs=64k count=4096 iflag=direct; done'
	wait_progress vda 100
	guest reset || fail "the guest did not come up after reset $reset"
	say "reset $reset: $(in_guest "blockwalk --mib 64 --seed $((SEED + reset)) --workers 8 --steps 100 /dev/vda")"
	no_errors_seen
done
swap_on /dev/vda
in_guest "swapwalk --mib 320 --seed $SEED --steps 500" >/dev/null
no_errors_seen
passed
