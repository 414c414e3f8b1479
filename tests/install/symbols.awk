# SPDX-License-Identifier: BSD-2-Clause
# Names of the functions that headers declare with QSAE_API, one per line.
{ text = text $0 "\n" }
END {
    while (match(text, /\/\*([^*]|\*+[^*\/])*\*+\//))
        text = substr(text, 1, RSTART - 1) " " substr(text, RSTART + RLENGTH)
    n = split(text, part, "QSAE_API")
    for (i = 2; i <= n; i++) {
        head = part[i]
        sub(/\(.*/, "", head)
        if (match(head, /qsae_[a-z0-9_]+[ \n\t]*$/)) {
            name = substr(head, RSTART, RLENGTH)
            gsub(/[ \n\t]/, "", name)
            print name
        }
    }
}
