/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tools that run the library have to see: it reads memory that nothing has set ("unset"),
 * that was freed ("freed"), or behind the end of an array ("beyond"). "well": none of these. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

int main(int argc, char **argv)
{
    const char *const how = argc > 1 ? argv[1] : "";
    qsae_context_settings *const s = malloc(sizeof *s);
    qsae_context *ctx = NULL;
    char *const level = malloc(1);
    int32_t *const number = malloc(sizeof *number);
    if (!s || !level || !number)
        return 2;
    qsae_context_settings_init(s, sizeof *s);
    s->threads = 1;
    if (strcmp(how, "unset") == 0)
        s->threads = *number & 1;
    level[0] = 'c';
    if (strcmp(how, "beyond") == 0)
        s->cpu = level;
    if (strcmp(how, "freed") == 0)
        free(s);
    const int32_t status = qsae_context_open(s, &ctx);
    qsae_context_close(&ctx);
    if (strcmp(how, "freed") != 0)
        free(s);
    free(level);
    free(number);
    printf("%s\n", qsae_status_name(status));
    return 0;
}
