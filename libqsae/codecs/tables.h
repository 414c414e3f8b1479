/* SPDX-License-Identifier: BSD-2-Clause */
/* Constants of the 4-bit codecs, as bitsandbytes has them, bit for bit. */
#ifndef QSAE_CODECS_TABLES_H
#define QSAE_CODECS_TABLES_H

#include <stdint.h>

/* Values of the codes; fp4: sign in bit 3, code 8 is -0. */
extern const float qsae__nf4_codes[16], qsae__fp4_codes[16];

/* The fp4 values as files hold them: code 8 is +0. */
extern const float qsae__fp4_map[16];

/* An input above k of them, scaled to [-1, 1], has nf4 code k: the f32 midpoints of the codes. */
extern const float qsae__nf4_thresholds[15];

/* The GPU kernel's, typed with few digits, between magnitudes; and the f32 midpoints of the signed
 * values, which the CPU build uses. */
extern const float qsae__fp4_thresholds_cuda[7], qsae__fp4_thresholds_torch[15];

/* Codes in ascending order of magnitude, and of signed value. */
extern const uint8_t qsae__fp4_magnitudes[8], qsae__fp4_order[16];

/* Ascending values of the 8-bit codes of nested block maxima (dynamic map, signed). */
extern const float qsae__dynamic_map[256];

#endif
