/* SPDX-License-Identifier: BSD-2-Clause */
/* Operations of neural networks beyond ops.h, at one level; LEVEL is its suffix. */
#include "kernels/lanes.h"
