#!/usr/bin/env bash
# Builds one preset: build.sh [PRESET [TARGET...]].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

preset=${1:-release}
[ $# -gt 0 ] && shift
if [ "$preset" = fuzz ]; then
	scripts/deps.sh build fuzz
else
	scripts/deps.sh build
fi
build_preset "$preset" "$@"
