# Pages that do not fit the local tier go to two donors, every one comes back, and flushed ones are gone.
. "$(dirname "$0")/lib.sh"

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
expect_pages "$(all_ok 16384)" put p 0 16384 11
expect_pages "$(all_ok 16384)" check p 0 16384 11
expect "both donors hold segments" json_is donors '[.donors[].segments > 0] | all'
expect "gets were served by donors" json_is status '[.lanes[].gets_remote] | add > 1000'
wait_for "two copies of everything that was spilled" json_is status '.segments_underreplicated == 0'

# Overwrites are what comes back, and a second pool does not see the first one's pages.
expect_pages "$(all_ok 8192)" put p 4096 8192 12
expect_pages "$(all_ok 4096)" check p 0 4096 11
expect_pages "$(all_ok 8192)" check p 4096 8192 12
expect_pages "ok=0 refused=0 miss=64 lost=0 wrong=0 failed=0" check other 0 64 11

expect_pages "$(all_ok 4096)" flush p 0 4096
expect_pages "ok=0 refused=0 miss=4096 lost=0 wrong=0 failed=0" check p 0 4096 11
expect_pages "$(all_ok 4096)" check p 12288 4096 11
expect "nothing was corrupt" json_is status '[.lanes[].records_corrupt] | add == 0'

# A clean restart finds it all.
backend_kill TERM
backend_start
wait_for "both donors are up again" donors_up 2
expect_pages "$(all_ok 8192)" check p 4096 8192 12
passed
