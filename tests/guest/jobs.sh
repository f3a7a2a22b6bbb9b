#!/bin/busybox sh
# Takes jobs for as long as a test guest runs, as its first process.
# A job comes as a line "ID COMMAND" (base64) on the second serial port; "ID CODE OUTPUT ." (base64) leaves by the third.
fail() {
	echo "guest: $*" >/dev/console
	busybox poweroff -f
}

stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
mkfifo /jobs/todo /jobs/done
exec 3</dev/ttyS1 4>/dev/ttyS2 5<>/jobs/done 6<>/jobs/todo

# A shell's read begins its line anew, without what it had of it, when a child of that shell ends meanwhile. A line comes
# by the port byte for byte: whoever reads it has no children. By a pipe it comes at once.
receive() {
	trap 'fail "no jobs are taken any more"' EXIT
	while :; do
		read -r id command <&3 || {
			sleep 0.1
			continue
		}
		[ -z "$command" ] || { echo "$command" >"/jobs/$id.job" && echo "$id" >&6; }
	done
}

# Whatever the kernel ends for want of memory, the job's end is told.
job_run() { # ID
	{
		echo 'echo 0 >/proc/self/oom_score_adj'
		base64 -d <"/jobs/$1.job"
	} >"/jobs/$1.sh"
	sh "/jobs/$1.sh" >"/jobs/$1.out" 2>&1 </dev/null 5>&-
	echo "$1 $?" >&5
}

# One process writes answers, so that they do not mix.
answer() {
	trap 'fail "no answers are given any more"' EXIT
	while read -r id code <&5; do
		echo "$id $code $(base64 -w 0 <"/jobs/$id.out") ." >&4
		rm -f "/jobs/$id.job" "/jobs/$id.sh" "/jobs/$id.out"
	done
}

echo -1000 >/proc/self/oom_score_adj
echo "up $(cat /proc/sys/kernel/random/boot_id) ." >&4
receive 4>&- 5>&- &
answer 3<&- 6>&- &
while :; do
	if read -r id <&6; then
		job_run "$id" 3<&- 4>&- 6>&- &
	fi
done
