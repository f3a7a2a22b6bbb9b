# A Debian kernel swaps on a disk of fallowd's whose pages are read by verbs straight into its memory, which is pinned: every
# page is right (DESIGN, rules 1 to 3), through kills of fallowd with reads under way, through a link that is cut, so that
# such reads are abandoned, and through a memory server's power-off. What is told of the guest test holds here, too.
needs cut
if [ "$TRANSPORT" != verbs ]; then
	echo "   left out: pages are read so by verbs only"
	exit 77
fi
DISK="guest_memory: pinned, codec: none" STORE="checksum_percent: 100" MEANWHILE=link_fails
direct() { metric 1 fallow_gets_direct_total; }
abandoned() { [ "$(metric 1 fallow_direct_fallbacks_total 'why="late"')" -gt 0 ]; }

# Before the kills, for the checksums in DRAM end with fallowd.
link_fails() {
	local try
	[ "$(direct)" -gt 0 ] || fail "no page was read straight into the guest's memory"
	for try in 1 2 3 4 5; do
		lab cut 1 3
		goes_on "past a cut link, $try"
		lab heal
		wait_for "three donors are up after the cut" donors_up 3
		goes_on "after the cut, $try"
		! abandoned || break
	done
	abandoned || fail "no read into the guest's memory was abandoned"
	pinned=$(lab exec 1 'curl -s --unix-socket /run/fallow-lab/f.http http://f/v1/disks' | jq '.disks[0].guest | [.pinned_bytes, .memory_bytes]' -c)
	expect "all of its memory is registered: $pinned" jq -e '.[0] == .[1] and .[0] > 0' >/dev/null <<<"$pinned"
	expect "a donor was blamed for nothing" metric_is 1 fallow_records_corrupt_total 0
	say "$(direct) of $(metric 1 fallow_get_remote_seconds_count) pages from other machines were read straight into its memory; cut $try times"
}

# shellcheck source=tests/lab/test_guest.sh
. tests/lab/test_guest.sh
expect "a donor was blamed for nothing after the kills" metric_is 1 fallow_records_corrupt_total 0
say "$(direct) after the kills, $(metric 1 fallow_direct_fallbacks_total) meant so that passed through a buffer"
