# SPDX-License-Identifier: BSD-2-Clause
# Reads the public headers, writes the C table behind qsae_layout_get: every struct with its members,
# every constant. The compiler fills in sizes, offsets and values.
{ text = text $0 "\n" }

function trim(s) {
    gsub(/[ \n\t]+/, " ", s)
    sub(/^ /, "", s)
    sub(/ $/, "", s)
    return s
}

# One declaration, "const char *name", "int64_t a, b" or "int64_t shape[8]", of a struct.
function members(struct, declaration, n, i, part, type, name, array) {
    n = split(declaration, part, ",")
    for (i = 1; i <= n; i++) {
        name = trim(part[i])
        array = ""
        if (match(name, /\[[0-9]+\]$/)) {
            array = substr(name, RSTART)
            name = trim(substr(name, 1, RSTART - 1))
        }
        match(name, /[A-Za-z0-9_]+$/)
        if (i == 1)
            type = trim(substr(name, 1, RSTART - 1))
        name = substr(name, RSTART)
        printf "    MEMBER(%s, %s, \"%s%s\"),\n", struct, name, type, array
    }
}

function struct(name, body, n, i, declaration) {
    printf "    { \"%s\", \"\", 0, sizeof(%s), QSAE_LAYOUT_STRUCT },\n", name, name
    n = split(body, declaration, ";")
    for (i = 1; i <= n; i++)
        if (trim(declaration[i]) != "")
            members(name, declaration[i])
}

END {
    while (match(text, /\/\*([^*]|\*+[^*\/])*\*+\//))
        text = substr(text, 1, RSTART - 1) " " substr(text, RSTART + RLENGTH)
    print "/* Generated from the public headers by libqsae/layout.awk. */"
    print "#include \"core/layout.h\"\n\n#include <qsae/qsae.h>\n"
    print "#define MEMBER(s, m, type) \\"
    print "    { #s \".\" #m, type, offsetof(s, m), sizeof(((s *)0)->m), QSAE_LAYOUT_MEMBER }"
    print "#define CONSTANT(name) { #name, \"\", name, 0, QSAE_LAYOUT_CONSTANT }"
    print "#define NUMBERED3(name, number, text) CONSTANT(QSAE_##name),"
    print "#define NUMBERED4(name, number, text, bits) CONSTANT(QSAE_##name),"
    print "#define NUMBERED5(name, number, text, elements, bytes) CONSTANT(QSAE_##name),\n"
    print "const qsae__layout_row qsae__layout_rows[] = {"
    rest = text
    while (match(rest, /typedef struct qsae_[a-z0-9_]+ \{[^}]*\}/)) {
        found = substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH)
        name = found
        sub(/^typedef struct /, "", name)
        sub(/ \{.*/, "", name)
        sub(/^[^{]*\{/, "", found)
        sub(/\}$/, "", found)
        struct(name, found)
    }
    n = split(text, line, "\n")
    for (i = 1; i <= n; i++)
        if (line[i] ~ /^#define QSAE_[A-Z0-9_]+ +[0-9]/) {
            split(line[i], word, " ")
            printf "    CONSTANT(%s),\n", word[2]
        }
    print "    QSAE_STATUS_MAP(NUMBERED3)"
    print "    QSAE_DTYPE_MAP(NUMBERED4)"
    print "    QSAE_BLOCK_DTYPE_MAP(NUMBERED5)"
    print "};\n"
    print "const int64_t qsae__layout_n ="
    print "    (int64_t)(sizeof qsae__layout_rows / sizeof *qsae__layout_rows);"
}
