# SPDX-License-Identifier: BSD-2-Clause
# A library of empty functions: for each function that headers declare with QSAE_API, a definition of the
# same type. Input: the public headers; output: C text that includes <qsae/qsae.h>.
{ text = text $0 "\n" }
END {
    while (match(text, /\/\*([^*]|\*+[^*\/])*\*+\//))
        text = substr(text, 1, RSTART - 1) " " substr(text, RSTART + RLENGTH)
    print "#include <qsae/qsae.h>"
    n = split(text, part, "QSAE_API")
    for (i = 2; i <= n; i++) {
        head = part[i]
        if (!match(head, /^[^;{]*\(.*/) || index(head, ";") == 0)
            continue
        sub(/;.*/, "", head)
        if (head !~ /qsae_[a-z0-9_]+[ \n\t]*\(/)
            continue
        gsub(/[ \n\t]+/, " ", head)
        print "QSAE_API" head (head ~ /^ *void [a-z]/ ? " { }" : " { return 0; }")
    }
}
