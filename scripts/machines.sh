# shellcheck shell=bash
# What lab.sh and guest.sh share: Debian's kernel for QEMU machines, the choice of an accelerator, processes by recorded id.
# Sourced after lib.sh. MACHINE_NAME: the prefix of its messages; MACHINE_DIR: what stands in every process's command line.

KERNEL_CACHE=${FALLOW_KERNEL_CACHE:-$PWD/build/kernel}
KERNEL_COMMAND_LINE="console=ttyS0 loglevel=5 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on"
KERNEL_COMMAND_LINE="$KERNEL_COMMAND_LINE oops=panic panic=-1 net.ifnames=0 quiet"

number() { # VALUE MIN MAX WHAT
	[[ $1 =~ ^[0-9]+$ ]] && [ "$1" -ge "$2" ] && [ "$1" -le "$3" ] ||
		die "$MACHINE_NAME: $4 is from $2 to $3, not '$1'"
}

### Processes

is_ours() { # PID: of this directory; the id may be another process's by now
	[ -n "$1" ] && { tr "\\0" " " <"/proc/$1/cmdline"; } 2>/dev/null | grep -qF "$MACHINE_DIR/"
}

# A process is known by its command line, and that is this shell's, then setsid's and nice's, with none at all for moments
# between, before it is QEMU's: whoever asks is_ours too early takes a machine that starts for one that is dead.
process_began() { # PID: true once it is QEMU; false: it ended
	local line end=$((SECONDS + 30))
	until line=$({ tr "\\0" " " <"/proc/$1/cmdline"; } 2>/dev/null) && [[ $line == *" -name "* && $line != setsid* && $line != nice* ]]; do
		kill -0 "$1" 2>/dev/null && [ $SECONDS -lt $end ] || return 1
		sleep 0.02
	done
}

end_process() { # PID [SIGNAL]: and waits until it is gone
	local pid=$1
	is_ours "$pid" || return 0
	kill -"${2:-KILL}" "$pid" 2>/dev/null || true
	for _ in $(seq 200); do
		is_ours "$pid" || return 0
		sleep 0.02
	done
	die "$MACHINE_NAME: process $pid does not end"
}

# Whoever started the machines may be killed without a chance to end them.
watch_owner() { # PID COMMAND...: runs the command when that process is gone
	# shellcheck disable=SC2016
	setsid bash -c 'owner=$1; shift; while kill -0 "$owner" 2>/dev/null; do sleep 1; done; exec "$@"' \
		"$MACHINE_DIR/watch" "$@" </dev/null >/dev/null 2>&1 &
	echo $! >"$MACHINE_DIR/watch.pid"
}

### Kernel

# Debian's kernel package unpacked into DIR, never installed; prints the kernel's release.
kernel_unpack() { # DIR
	local package
	mkdir -p "$KERNEL_CACHE"
	if ! ls "$KERNEL_CACHE"/linux-image-*.deb >/dev/null 2>&1; then
		package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-6[^ ]*\).*/\1/p' | head -n 1)
		[ -n "$package" ] || die "$MACHINE_NAME: no Debian kernel package is known here (apt-get update)"
		rm -rf "$KERNEL_CACHE/partial" && mkdir "$KERNEL_CACHE/partial"
		(cd "$KERNEL_CACHE/partial" && apt-get -o APT::Sandbox::User= download "$package" >/dev/null) ||
			die "$MACHINE_NAME: cannot fetch $package"
		mv "$KERNEL_CACHE"/partial/*.deb "$KERNEL_CACHE/"
		rm -rf "$KERNEL_CACHE/partial" "$KERNEL_CACHE/accel"
	fi
	rm -rf "$1"
	dpkg -x "$KERNEL_CACHE"/linux-image-*.deb "$1"
	ls "$1/lib/modules"
}

# Files of the modules and of all that they need, in the order of loading.
kernel_module_files() { # BASE RELEASE MODULE...
	local base=$1 release=$2 module
	shift 2
	for module in "$@"; do
		modprobe -d "$base" -S "$release" --show-depends "$module" || exit 1
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'
}

# Modules without signatures and debug data (it saves boot time), as a tree for modprobe under DIR/RELEASE.
kernel_modules() { # UNPACKED RELEASE DIR MODULE...
	local work=$1 release=$2 dir=$3 path short
	shift 3
	depmod -b "$work" "$release"
	kernel_module_files "$work" "$release" "$@" | while read -r path; do
		short=${path#"$work/lib/modules/$release/"}
		mkdir -p "$dir/$release/$(dirname "$short")"
		strip --strip-debug -o "$dir/$release/$short" "$path"
	done
	cp "$work/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$dir/$release/"
	# depmod and modprobe want BASE/lib/modules.
	mkdir -p "$dir.base/lib"
	ln -sfn "$(realpath "$dir")" "$dir.base/lib/modules"
	depmod -b "$dir.base" "$release"
}

# A first file system's modules: their files in ROOT/modules, and ROOT/modules/order.
kernel_first_modules() { # DIR RELEASE ROOT MODULE...
	local dir=$1 release=$2 root=$3 path
	shift 3
	mkdir -p "$root/modules"
	kernel_module_files "$dir.base" "$release" "$@" | while read -r path; do
		cp "$path" "$root/modules/"
		basename "$path"
	done >"$root/modules/order"
}

pack_initrd() { # ROOT: on standard output
	(cd "$1" && find . | cpio --quiet -o -H newc -R 0:0)
}

### Accelerator

# Some machines have a kvm device that no stock kernel comes up on. The first program answers fallow.probe.
kvm_boots() ( # VMLINUZ INITRD
	timeout -k 1 20 qemu-system-x86_64 -M q35 -accel kvm -cpu max -m 256 -nodefaults -no-user-config -display none \
		-no-reboot -kernel "$1" -initrd "$2" -append "$KERNEL_COMMAND_LINE fallow.probe" \
		-serial stdio </dev/null >"$KERNEL_CACHE/probe" 2>&1
	grep -q 'probe passed' "$KERNEL_CACHE/probe"
)

choose_accel() { # VMLINUZ INITRD WANTED: sets ACCEL
	ACCEL=$3
	[ -z "$ACCEL" ] || return 0
	if [ ! -f "$KERNEL_CACHE/accel" ]; then
		ACCEL=tcg
		if [ -w /dev/kvm ] && kvm_boots "$1" "$2" 2>/dev/null; then
			ACCEL=kvm
		fi
		echo "$ACCEL" >"$KERNEL_CACHE/accel"
	fi
	ACCEL=$(cat "$KERNEL_CACHE/accel")
}
