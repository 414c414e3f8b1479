/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AMX on CPUs without it: a handler of SIGILL that carries out the tile instructions of compiled
 * code on a tile file of the thread, as Intel's manual (SDM volume 2) describes them, and goes on
 * behind them. An instruction that a CPU with AMX would refuse ends the program with SIGILL.
 */
#ifndef TESTS_KERNELS_AMX_EMULATE_H
#define TESTS_KERNELS_AMX_EMULATE_H

#include <stdint.h>

/* What carries out AMX instructions from now on: "cpu", "emulator", or NULL if nothing does: the
 * CPU lacks the AVX-512 that surrounds them, or the system does not permit its AMX. */
const char *amx_start(void);
/* The handler from before again. */
void amx_stop(void);
/* Instructions emulated so far in all threads. */
int64_t amx_count(void);

#endif
