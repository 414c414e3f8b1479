/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Calls that open and close handles of their own, which no caller ever had: between these two, on
 * the same thread, closed handles are freed at once instead of taking the places of the caller's in
 * the list of his context. They nest.
 */
#ifndef QSAE_CORE_INNER_H
#define QSAE_CORE_INNER_H

void qsae__inner_begin(void);
void qsae__inner_end(void);

#endif
