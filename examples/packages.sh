#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Installs what libqsae is built from, on Debian 12 or later. Arguments are added to the list.
set -eu
packages="gcc libc6-dev pkg-config meson ninja-build git libblis-pthread-dev libxxhash-dev
    libjansson-dev libzip-dev libpcre2-dev libutf8proc-dev libcmocka-dev libzstd-dev $*"
missing=
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' ||
        missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing \
    >/dev/null
