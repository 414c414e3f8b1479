# SPDX-License-Identifier: BSD-2-Clause
# Counts the cases in meson test logs: cmocka's lines up to its summary, and TAP lines. Shows what
# failed and why something was skipped.
/^\[==========\].*Running/ { inside = 1; next }
/^\[==========\].*run\./ { inside = 0; next }
inside && /^\[       OK \]/ { passed++; reason = ""; next }
inside && /^\[  SKIPPED \]/ { skipped++; print "skipped: " $4 " (" reason ")"; reason = ""; next }
inside && /^\[  FAILED  \]/ { failed++; print "failed: " $4; next }
inside && /^\[  (ERROR   |LINE   ) ?\]/ { print; next }
/^skipped: / { reason = substr($0, 10); if (!inside) { skipped++; print } next }
/^not ok/ { failed++; print "failed: " substr($0, 8); next }
/^ok .*# *SKIP/ { skipped++; sub(/^ok [0-9]* *-? */, ""); print "skipped: " $0; next }
/^ok / { passed++; next }
END {
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0
}
