#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Builds what is beneath the library with clang's MemorySanitizer, to which memory that other code
# has written is not set: the sources of this release of Debian (apt-get source, by lists of its own,
# as any user) in FOLDER/src, installed in FOLDER/prefix. libzip without encryption and with zlib
# alone, PCRE2 without its compiler to machine code, zstd without threads. BLIS stays as it is.
# What is there already is not built again.
# usage: msan.sh FOLDER
# QSAE_JOBS: processes at a time (CPUs); QSAE_DEBIAN: another mirror
set -u
[ $# = 1 ] || { sed -n 's/^# usage: //p' "$0"; exit 2; }
mkdir -p "$1/src/lists/partial" "$1/prefix/lib/pkgconfig" "$1/prefix/include" || exit 2
folder=$(cd "$1" && pwd)
prefix=$folder/prefix
jobs=${QSAE_JOBS:-$(nproc)}
flags="-fsanitize=memory -fsanitize-memory-track-origins -fno-omit-frame-pointer -gline-tables-only -O1"
cd "$folder/src" || exit 2
for program in clang-14 cmake ninja make dpkg-source apt-get; do
    command -v $program >/dev/null || { echo "$program is not installed"; exit 1; }
done

fetch() {
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
${QSAE_DEBIAN:-http://deb.debian.org/debian} $release main" >sources.list
    set -- -q -o Dir::Etc::sourcelist="$folder/src/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$folder/src/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    apt-get "$@" update && apt-get "$@" source zlib jansson xxhash libzstd libzip pcre2 utf8proc cmocka
}

# LIBRARY, folder of its CMakeLists.txt, options...
by_cmake() {
    [ ! -e "$prefix/lib/lib$1.so" ] || return 0
    build=$folder/build-$1 from=$2
    shift 2
    cmake -S "$from" -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang-14 -DCMAKE_BUILD_TYPE=None \
        -DCMAKE_C_FLAGS="$flags" -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib \
        -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_INSTALL_RPATH="$prefix/lib" -DBUILD_SHARED_LIBS=ON \
        -DCMAKE_POLICY_VERSION_MINIMUM=3.5 "$@" >"$build.log" 2>&1 &&
        ninja -j "$jobs" -C "$build" install >>"$build.log" 2>&1 || { tail -n 20 "$build.log"; exit 1; }
}

# Its CMakeLists.txt names a file that Debian leaves out.
zlib() {
    [ ! -e "$prefix/lib/libz.so" ] || return 0
    cd zlib-*/ && CC=clang-14 CFLAGS=$flags LDFLAGS=$flags ./configure --prefix="$prefix" >../zlib.log 2>&1 &&
        make -j "$jobs" "$(sed -n 's/^SHAREDLIBV=//p' Makefile)" >>../zlib.log 2>&1 &&
        cp -P libz.so* "$prefix/lib" && cp zlib.h zconf.h "$prefix/include" && cp zlib.pc "$prefix/lib/pkgconfig" ||
        { tail -n 20 "$folder/src/zlib.log"; exit 1; }
    cd ..
}

ls -d cmocka-*/ >/dev/null 2>&1 || fetch >fetch.log 2>&1 || { tail -n 5 fetch.log; exit 1; }
zlib
by_cmake jansson jansson-*/ -DJANSSON_BUILD_SHARED_LIBS=ON -DJANSSON_BUILD_DOCS=OFF -DJANSSON_WITHOUT_TESTS=ON \
    -DJANSSON_EXAMPLES=OFF
by_cmake xxhash xxhash-*/cmake_unofficial -DXXHASH_BUILD_XXHSUM=OFF
sed -i "s|^prefix=.*|prefix=$prefix|" "$prefix/lib/pkgconfig/libxxhash.pc" || exit 1 # it has /usr
by_cmake utf8proc utf8proc-*/
by_cmake cmocka cmocka-*/ -DWITH_EXAMPLES=OFF -DUNIT_TESTING=OFF
by_cmake zip libzip-*/ -DENABLE_COMMONCRYPTO=OFF -DENABLE_GNUTLS=OFF -DENABLE_MBEDTLS=OFF -DENABLE_OPENSSL=OFF \
    -DENABLE_BZIP2=OFF -DENABLE_LZMA=OFF -DENABLE_ZSTD=OFF -DBUILD_TOOLS=OFF -DBUILD_REGRESS=OFF \
    -DBUILD_EXAMPLES=OFF -DBUILD_DOC=OFF
by_cmake pcre2-8 pcre2-*/ -DPCRE2_BUILD_PCRE2GREP=OFF -DPCRE2_BUILD_TESTS=OFF -DPCRE2_SUPPORT_JIT=OFF
by_cmake zstd libzstd-*/build/cmake -DZSTD_BUILD_PROGRAMS=OFF -DZSTD_BUILD_TESTS=OFF -DZSTD_BUILD_STATIC=OFF \
    -DZSTD_LEGACY_SUPPORT=OFF -DZSTD_MULTITHREAD_SUPPORT=OFF
