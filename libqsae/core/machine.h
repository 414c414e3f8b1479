/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_MACHINE_H
#define QSAE_CORE_MACHINE_H

#include <stdint.h>

/* Bytes of memory that this process may use: the machine's, or the limit of its control group
 * where that is less. 0 where the system does not tell. */
uint64_t qsae__machine_memory(void);

/* The least memory limit of the control groups in `list` (as /proc/self/cgroup), mounted below
 * root, version 2 or 1; 0 = none. */
uint64_t qsae__cgroup_limit(const char *list, const char *root);

#endif
