# shellcheck shell=bash
# What the scripts of ./run share; sourced, with the repository root as the working directory.

export LC_ALL=C.UTF-8
# Debian's tools, whatever else stands first in the caller's PATH.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH

die() {
	echo "run: $*" >&2
	exit 1
}

# Builds a preset's tree: configures it when needed, then everything in it, or the targets named.
build_preset() {
	local preset=$1 jobs
	shift
	jobs=${FALLOW_JOBS:-$(nproc)}
	case $preset in
	release) BUILD_DIR=build ;;
	debug | asan | tsan | fuzz) BUILD_DIR=build-$preset ;;
	*) die "no preset '$preset' (there are release, debug, asan, tsan and fuzz)" ;;
	esac
	# A tree that was configured elsewhere (a moved or copied checkout) is of no use here.
	if [ -f "$BUILD_DIR/CMakeCache.txt" ] &&
		! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$BUILD_DIR/CMakeCache.txt"; then
		rm -rf "$BUILD_DIR"
	fi
	cmake --preset "$preset" >"/tmp/fallow-cmake.$$" 2>&1 || {
		cat "/tmp/fallow-cmake.$$"
		rm -f "/tmp/fallow-cmake.$$"
		die "cannot configure $BUILD_DIR"
	}
	rm -f "/tmp/fallow-cmake.$$"
	ninja -C "$BUILD_DIR" -j "$jobs" "$@"
}
