# With nothing to do, each daemon uses less than 0.5 % of a core.
. "$(dirname "$0")/lib.sh"

cpu_ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
expect_pages "$(all_ok 8192)" put p 0 8192 41
expect_pages "$(all_ok 8192)" check p 0 8192 41
wait_for "all copies are made" json_is status '.segments_underreplicated == 0'

# Ten seconds, at most six times: another program on the machine may cost a tick now and then.
hz=$(getconf CLK_TCK)
for try in 1 2 3 4 5 6; do
	b=$(cpu_ticks "$BACKEND_PID") d1=$(cpu_ticks "${DONOR_PID[1]}") d2=$(cpu_ticks "${DONOR_PID[2]}")
	sleep 10
	b=$(($(cpu_ticks "$BACKEND_PID") - b))
	d1=$(($(cpu_ticks "${DONOR_PID[1]}") - d1))
	d2=$(($(cpu_ticks "${DONOR_PID[2]}") - d2))
	echo "ticks of $((10 * hz)): fallowd $b, fallow-memserver $d1 and $d2"
	limit=$((10 * hz / 200))
	if [ $b -lt $limit ] && [ $d1 -lt $limit ] && [ $d2 -lt $limit ]; then
		passed
		exit 0
	fi
done
fail "a daemon is not idle"
