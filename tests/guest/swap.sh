# A swap storm: a guest of 256 MiB walks three times its memory on a swap disk of ours, and every page comes back right.
. "$(dirname "$0")/lib.sh"

# As fallowd counts them; the stand-in does not.
used_pages() { curl -s --unix-socket "$T/f.http" http://localhost/v1/disks | jq '.disks[0].used_pages'; }
used_at_most() { [ "$BACKEND" != fallowd ] || [ "$(used_pages)" -le "$1" ]; }

say "seed $SEED"
disks_start 3 swap:800:2
guest_start_with --mib 256 --cpus 2 swap:2
swap_on /dev/vda
walk_figures 768 "$(in_guest "swapwalk --mib 768 --seed $SEED --steps $(amount 4000 20000)")"
no_errors_seen
# The walk's pages were freed: what is left are clusters of which the guest still uses a page.
wait_for "discards of freed pages" used_at_most $((768 * 256 / 4))
in_guest 'swapoff /dev/vda'
# Swap of a new life is discarded whole.
swap_on /dev/vda once
wait_for "the discard of everything" used_at_most 256
no_errors_seen
passed
