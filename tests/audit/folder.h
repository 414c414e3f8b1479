/* SPDX-License-Identifier: BSD-2-Clause */
/* A folder for the files of one program, made before its tests and removed after them. */
#ifndef TESTS_AUDIT_FOLDER_H
#define TESTS_AUDIT_FOLDER_H

#include <stdio.h>
#include <stdlib.h>

static char folder[] = "/tmp/qsae-audit-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

#endif
