# SPDX-License-Identifier: BSD-2-Clause
# Symbols of a version script with their nodes: "NODE symbol", one per line.
/^[A-Z]+_[0-9.]+ *\{/ { node = $1; sub(/\{.*/, "", node) }
/^ *qsae_[a-z0-9_]+;$/ { gsub(/[ ;]/, ""); print node, $0 }
