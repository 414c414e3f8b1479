/* SPDX-License-Identifier: BSD-2-Clause */
#include <qsae/version.h>

#include "vcs_version.h"

const char *qsae_version(void)
{
    return QSAE_RELEASE "-" QSAE_VCS_VERSION;
}

uint32_t qsae_version_api(void)
{
    return (uint32_t)QSAE_API_VERSION_MAJOR << 16 | (uint32_t)QSAE_API_VERSION_MINOR << 8 |
           (uint32_t)QSAE_API_VERSION_PATCH;
}
