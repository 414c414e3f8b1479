#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# sh tests/same/aarch64.sh FOLDER [TEST...]: the library for 64-bit ARM, built with Debian's cross
# compiler and run by qemu-user. What it needs of that architecture is taken from Debian's packages
# into FOLDER/root, without touching this machine's; FOLDER/build is the build folder. Tests: names
# as meson has them; by default the unit tests beneath models, and test_same.
# Needs gcc-aarch64-linux-gnu, qemu-user, meson, and Debian's archive the first time.
set -eu
[ $# -ge 1 ] || { echo "usage: sh tests/same/aarch64.sh FOLDER [TEST...]" >&2; exit 2; }
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
for tool in aarch64-linux-gnu-gcc qemu-aarch64 meson dpkg-deb; do
    command -v $tool > /dev/null || { echo "1..0 # SKIP no $tool"; exit 0; }
done
triple=aarch64-linux-gnu
root=$folder/root
libs=$root/usr/lib/$triple

# Lists and packages of the other architecture, in folders of their own.
get_packages()
{
    apt=$folder/apt
    sources=/etc/apt/sources.list
    new=/etc/apt/sources.list.d/debian.sources
    [ ! -e $new ] || sources=$new
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/deb"
    : > "$apt/status"
    set -- -q -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::sourcelist="$sources"
    apt-get "$@" update > "$folder/apt.log" 2>&1
    (cd "$apt/deb" && apt-get "$@" download libc6 libc6-dev linux-libc-dev libgcc-s1 libgomp1 \
        libjansson-dev libjansson4 libzip-dev libzip4 zlib1g-dev zlib1g libbz2-1.0 liblzma5 \
        libssl3 libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 libxxhash-dev libxxhash0 \
        libzstd-dev libzstd1 libblis-pthread-dev libblis4-pthread libcmocka-dev libcmocka0 \
        >> "$folder/apt.log" 2>&1) || { tail -5 "$folder/apt.log" >&2; return 1; }
    rm -rf "$root.part"
    for deb in "$apt"/deb/*.deb; do
        dpkg-deb -x "$deb" "$root.part"
    done
    # Links to places of a whole system, and BLIS, which alternatives would put there.
    find "$root.part" -type l -lname '/*' | while read -r link; do
        ln -sfn "$root$(readlink "$link")" "$link"
    done
    ln -sf blis-pthread/libblis.so.4 "$root.part/usr/lib/$triple/libblis.so.4"
    ln -sf blis-pthread/libblis.so "$root.part/usr/lib/$triple/libblis.so"
    ln -sf blis-pthread/blis.h "$root.part/usr/include/$triple/blis.h"
    mv "$root.part" "$root"
}
[ -d "$root" ] || get_packages || { echo "1..0 # SKIP no packages of arm64"; exit 0; }

cat > "$folder/cross.ini" << END
[binaries]
c = ['$triple-gcc', '--sysroot=$root']
ar = '$triple-ar'
strip = '$triple-strip'
pkg-config = 'pkg-config'
exe_wrapper = ['qemu-aarch64', '-L', '$root']
[properties]
sys_root = '$root'
pkg_config_libdir = ['$libs/pkgconfig', '$root/usr/share/pkgconfig']
[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'armv8-a'
endian = 'little'
END
build=$folder/build
[ -f "$build/build.ninja" ] || meson setup "$build" "$source_dir" \
    --cross-file "$folder/cross.ini" -Dexamples=false -Dpython=disabled -Doptimization=2 \
    -Ddebug=false > "$folder/setup.log" 2>&1 || { tail -20 "$folder/setup.log" >&2; exit 1; }
[ $# -gt 0 ] || set -- core kernels accuracy codecs formats metrics same
targets=
for t in "$@"; do
    case $t in
    accuracy) targets="$targets tests/kernels/test_$t" ;;
    *) targets="$targets tests/$t/test_$t" ;;
    esac
done
# shellcheck disable=SC2086
ninja -C "$build" $targets > "$folder/build.log" 2>&1 ||
    { tail -40 "$folder/build.log" >&2; exit 1; }
meson test -C "$build" --no-rebuild --timeout-multiplier 20 --print-errorlogs "$@"
