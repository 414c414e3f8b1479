#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The API reference: Doxygen reads the headers without a warning, and every public function has a
# comment.
# usage: reference.sh SOURCE_DIR
set -u
source=$1
. "$source/tests/install/tap.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! command -v doxygen >/dev/null; then
    skip "the API reference" "Doxygen is missing"
    finish
    exit
fi
# The option `docs` builds it so; here all warnings are wanted, and what is not documented, too.
sed -e "s|@source@|$source|g" -e "s|@build@|$work|" -e 's|@version@|0|' -e 's|@fail@|NO|' \
    -e 's|^QUIET .*|QUIET = YES|' -e 's|^GENERATE_HTML .*|GENERATE_HTML = YES|' \
    "$source/doc/Doxyfile.in" >"$work/Doxyfile"
check "doxygen runs" sh -c "cd '$work' && doxygen Doxyfile 2>warnings"
empty "without a warning" "$(head -40 "$work/warnings" | sed "s|$source/||g")"
check "it has the headers" test -s "$work/html/audit_8h.html"

# A comment right above each declaration.
bare=
for header in "$source"/include/qsae/*.h; do
    bare="$bare$(awk -v name="${header##*/}" '
        /^QSAE_API/ && before !~ /\*\/$/ { print name ":" FNR ": " $0 }
        { before = $0 }' "$header")"
done
empty "every public function has a comment" "$bare"
finish
