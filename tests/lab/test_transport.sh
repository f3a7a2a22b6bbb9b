# The transport by itself (DESIGN, rules 3 and 4: only the holder of a lease reaches its memory, and no longer than that).
needs verbs
verbs_check() { # [ROUNDS]
	lab exec 2 "setsid $BIN/test-verbs serve 7500 </dev/null >/run/lab/verbs.log 2>&1 & echo \$! >/run/fallow-lab/verbs.pid"
	wait_for "the serving end listens" lab exec 2 'ss -ltn | grep -q :7500'
	lab exec 1 "timeout 300 $BIN/test-verbs check $(lab address 2) 7500 $*" || fail "test-verbs $*: $(cat "$(share 2)/verbs.log")"
}

verbs_check
# What is lost on the way or comes in another order changes no byte and ends nothing.
for how in "drop 1 2 2" "reorder 1 2 5" "delay 1 2 10"; do
	lab can "${how%% *}" || continue
	# shellcheck disable=SC2086
	lab $how
	say "$how: $(verbs_check 21 | head -n 1)"
	lab heal
done
