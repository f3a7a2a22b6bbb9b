# A backend that is killed finds its regions again: same leases, same pages, over new queue pairs (DESIGN, rule 2).
needs nodes:3
donor_start 2
donor_start 3
backend_config "2 3"
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 8192)" put p 0 8192 21
for round in 1 2; do
	lab start 1 load "$BIN/test-pages check /run/fallow-lab/f.sock p 0 8192 21; $BIN/test-pages put /run/fallow-lab/f.sock busy 0 4096 $round" >/dev/null
	sleep 1
	backend_kill KILL
	backend_start
	wait_for "two donors are up after kill $round" donors_up 2
	expect_pages "$(all_ok 8192)" check p 0 8192 21
done
expect "no region was lost" json_is donors '[.donors[].lost_regions] | add == 0'
expect "no page was lost" json_is status '.gets_lost == 0'
