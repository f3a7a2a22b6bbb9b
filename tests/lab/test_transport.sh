# The transport by itself (DESIGN: only the holder of a lease reaches its memory, and no longer than that).
verbs_check() { # [ROUNDS]
	lab start 2 verbs "$BIN/test-verbs serve 7500" >/dev/null
	wait_for "the serving end listens" lab exec 2 'ss -ltn | grep -q :7500'
	lab exec 1 "timeout 300 $BIN/test-verbs check 10.77.0.2 7500 $*" || fail "test-verbs $*: $(cat "$(share 2)/verbs.log")"
}

verbs_check
# What is lost on the way or comes in another order changes no byte and ends nothing.
for how in "drop 1 2 2" "reorder 1 2 5" "delay 1 2 10"; do
	# shellcheck disable=SC2086
	lab $how
	say "$how: $(verbs_check 21 | head -n 1)"
	lab heal
done
