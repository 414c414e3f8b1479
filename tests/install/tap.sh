# SPDX-License-Identifier: BSD-2-Clause
# Shared by test scripts: one TAP line per check, and a count at the end.
tap_n=0
tap_failed=0

pass() {
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1"
}

# NAME, then lines that say what is wrong.
no() {
    tap_n=$((tap_n + 1))
    tap_failed=$((tap_failed + 1))
    echo "not ok $tap_n - $1"
    shift
    [ $# -eq 0 ] || printf '%s\n' "$@" | sed 's/^/# /'
}

skip() {
    tap_n=$((tap_n + 1))
    echo "ok $tap_n - $1 # SKIP $2"
}

# NAME COMMAND...: passes if the command does; its output is shown if it does not.
check() {
    tap_name=$1
    shift
    if tap_output=$("$@" 2>&1); then
        pass "$tap_name"
    else
        no "$tap_name" "$*" "$tap_output"
    fi
}

# NAME TEXT: passes if the text, a list of complaints, is empty.
empty() {
    if [ -z "$2" ]; then pass "$1"; else no "$1" "$2"; fi
}

finish() {
    echo "1..$tap_n"
    [ "$tap_failed" -eq 0 ]
}
