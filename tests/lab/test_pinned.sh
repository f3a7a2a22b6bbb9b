# A Debian kernel swaps on a disk of fallowd's whose pages are read by verbs straight into its memory, which is pinned: every
# page is right (DESIGN, rules 1 to 3), through kills of fallowd with reads under way, through a link that is cut, so that
# such reads are abandoned, and through a memory server's power-off. What is told of the guest test holds here, too.
needs cut
if [ "$TRANSPORT" != verbs ]; then
	echo "   left out: pages are read so by verbs only"
	exit 77
fi
DISK="guest_memory: pinned, codec: none" MEANWHILE=link_fails
direct() { metric 1 fallow_gets_direct_total; }
abandoned() { [ "$(metric 1 fallow_direct_fallbacks_total 'why="late"')" -gt 0 ]; }

link_fails() {
	goes_on "after the kills"
	[ "$(direct)" -gt 0 ] || fail "no page was read straight into the guest's memory"
	lab cut 1 3
	wait_for "a read into the guest's memory is abandoned" abandoned
	goes_on "past a cut link"
	lab heal
	wait_for "three donors are up after the cut" donors_up 3
	goes_on "after the cut"
	say "$(direct) gets went straight into the guest's memory by then"
}

# shellcheck source=tests/lab/test_guest.sh
. tests/lab/test_guest.sh
expect "a donor was blamed for nothing" metric_is 1 fallow_records_corrupt_total 0
pinned=$(lab exec 1 'curl -s --unix-socket /run/f.http http://f/v1/disks' | jq '.disks[0].guest | [.pinned_bytes, .memory_bytes]' -c)
expect "all of its memory is registered: $pinned" jq -e '.[0] == .[1] and .[0] > 0' <<<"$pinned"
say "$(direct) at the end, $(metric 1 fallow_direct_fallbacks_total) meant so that passed through a buffer"
