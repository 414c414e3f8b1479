# SPDX-License-Identifier: BSD-2-Clause
# Public constants and their values, one per line: enumerators (input: the preprocessed header) and macros
# with one literal as value (input: cc -dM).
/^#define QSAE_[A-Z0-9_]+ -?[0-9"(]/ {
    name = $2
    sub(/^#define [A-Z0-9_a-z]+ /, "")
    print name, $0
    next
}
{ text = text $0 " " }
END {
    while (match(text, /enum *\{[^}]*\}/)) {
        body = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        gsub(/enum *\{|\}/, "", body)
        n = split(body, part, ",")
        for (i = 1; i <= n; i++)
            if (split(part[i], side, "=") == 2) {
                gsub(/ /, "", side[1])
                gsub(/ /, "", side[2])
                print side[1], side[2]
            }
    }
}
