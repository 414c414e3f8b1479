# SPDX-License-Identifier: BSD-2-Clause
# One line per include that the table does not allow. Paths are relative to the source folder.
BEGIN {
    below["core"] = "core"
    below["kernels"] = "kernels core"
    below["formats"] = "formats core kernels/half.h"
    below["codecs"] = "codecs formats kernels core"
    below["model"] = "model codecs formats kernels core"
    below["sae"] = "sae codecs formats kernels core"
    below["text"] = "text formats kernels core"
    below["metrics"] = "metrics formats kernels core"
    below["audit"] = "audit model sae text metrics codecs formats core"
    # Public headers are open to all, but not those of neighbours to one another.
    owner["text.h"] = "text"
    owner["model.h"] = "model"
    owner["sae.h"] = "sae"
    owner["metrics.h"] = "metrics"
    generated["core"] = "vcs_version.h"
}

function complain(why) {
    print FILENAME ":" FNR ": " $0 ": " why
}

function allowed(folder, target, slash) {
    slash = index(target, "/")
    return index(" " below[folder] " ", " " substr(target, 1, slash - 1) " ") ||
           index(" " below[folder] " ", " " target " ")
}

/^[ \t]*#[ \t]*include/ {
    n = split(FILENAME, part, "/")
    folder = part[1] == "libqsae" ? part[2] : part[1]
    if (!match($0, /[<"][^>"]*[>"]/)) {
        complain("not readable")
        next
    }
    quoted = substr($0, RSTART, 1) == "\""
    target = substr($0, RSTART + 1, RLENGTH - 2)
    public = target ~ /^qsae\//
    if (target ~ /\.\./)
        complain("a path with ..")
    else if (folder == "include") {
        if (quoted || (!public && target != "stddef.h" && target != "stdint.h"))
            complain("public headers include public headers, stddef.h and stdint.h only")
    } else if (folder == "examples") {
        if (quoted && target ~ /\//)
            complain("examples include <qsae/...> only")
    } else if (!(folder in below))
        complain("unknown folder")
    else if (public) {
        name = substr(target, 6)
        if (name == "qsae.h" || (name == "audit.h" || name == "probe.h") && folder != "audit")
            complain("public header of the top")
        else if ((folder ".h") in owner && name in owner && owner[name] != folder)
            complain("public header of a neighbour")
    } else if (quoted && target != generated[folder] && !allowed(folder, target))
        complain("not below " folder "/")
}
