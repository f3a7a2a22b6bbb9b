# What `migrate_memory` is worth: with a fallowd whose dirty log goes nowhere it must find what is missing. Part of the long
# tests.
[ "${FALLOW_GUEST_LONG:-0}" = 1 ] || {
	echo "left out: the control of migrate_memory is part of run test --long"
	exit 77
}
. "$(dirname "$0")/lib.sh"
need_fallowd "a disk that is handed over"

BIN=$(realpath "$BIN")
mkdir "$T/bin"
ln -s "$BIN"/* "$T/bin/"
rm "$T/bin/fallowd"
cat >"$T/bin/fallowd" <<-END
	#!/bin/sh
	BLIND_NOTE=$T/blind LD_PRELOAD=$BIN/../lib/libblind-log.so exec $BIN/fallowd "\$@"
END
chmod +x "$T/bin/fallowd"
code=0
# A guest whose rings lack what was not logged hangs: it is not waited for as long as for one that is slow.
FALLOW_GUEST_LONG=0 FALLOW_TEST_LIMIT_S=60 FALLOW_GUEST_EXEC_LIMIT_S=120 bash "$ROOT/tests/guest/migrate_memory.sh" "$T/bin" \
	>"$T/migrate.out" 2>&1 || code=$?
cat "$T/migrate.out"
expect "the log went nowhere" [ -f "$T/blind" ]
expect "it fails without a dirty log, not with $code" [ "$code" = 1 ]
why='^migrate_memory: what the disk wrote to memory that was copied already arrives$'
expect "it says why" grep -q "$why" "$T/migrate.out"
passed
