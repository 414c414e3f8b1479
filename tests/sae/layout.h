/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SAE_LAYOUT_H
#define TESTS_SAE_LAYOUT_H

#include "sae_test.h"

/* What the files of an SAE of some layout hold. Tensors are "NAME=DTYPE[2,3] NAME=DTYPE[]:VALUE":
 * all elements are VALUE, or small numbers that differ. */
struct layout {
    const char *folder;            /* below the test folder */
    const char *params, *tensors;  /* the file of parameters */
    const char *config, *text;     /* NULL: without; text is JSON or YAML */
    const char *more, *more_tensors;   /* a second file of tensors, or NULL */
    const char *beside, *beside_text;  /* one more file of text, which is not changed, or NULL */
    const char *open;              /* what is opened, below the folder; NULL: the folder */
};

/* A layout with something changed, and how it is opened. */
struct change {
    const struct layout *layout;
    /* NULL: as it is. "{...}": members that take the place of those of the layout's JSON, "-KEY"
     * for one that goes, within objects too. Otherwise the whole text, of JSON behind a '='. */
    const char *text;
    const char *tensors;           /* NULL, or more tensors, "-NAME" for one that goes */
    int32_t status;
    const char *part;              /* of the message; of an SAE that opens {"member": value} */
    const char *layer, *activation;
    double scale;
};

/* A change that is opened without settings. */
#define ROW(...) { __VA_ARGS__, NULL, NULL, 0 }

/* Opens it: the status and the part of the message, with the folder in it, or the values. */
void check_change(qsae_context *ctx, const struct change *c);

/* As check_change of what opens, by its last name and from the folder above it. */
void check_relative(qsae_context *ctx, const struct change *c);

/* Every allocation under opening it fails once: QSAE_ENOMEM, and then it opens. */
void check_memory(const struct change *c);

#endif
