# SPDX-License-Identifier: BSD-2-Clause
# The marked blocks of a manual page as files in the folder `out`, and a plan of one line each on
# standard output:
#   run LANGUAGE FILE          after <!-- run --> or <!-- run: WORD -->
#   save FILE NAME             after <!-- run: save NAME -->
#   expect FILE REGEX          <!-- expect FILE REGEX --> (- = the output of the block before)
/^<!-- run/ {
    line = $0
    sub(/^<!-- run:? */, "", line)
    sub(/ *-->$/, "", line)
    marked = 1
    next
}
/^<!-- expect / {
    text = $0
    sub(/^<!-- expect /, "", text)
    sub(/ -->$/, "", text)
    print "expect " text
    next
}
/^```/ && inside {
    inside = 0
    close(file)
    next
}
/^```/ && marked {
    language = substr($0, 4)
    file = out "/block" ++n
    printf "" >file
    if (line ~ /^save /)
        print "save " file " " substr(line, 6)
    else
        print "run " language " " file
    marked = 0
    inside = 1
    next
}
/^```/ {
    other = !other
}
inside {
    print >file
}
marked && !inside && $0 != "" {
    print "wrong a mark without a block"
    marked = 0
}
