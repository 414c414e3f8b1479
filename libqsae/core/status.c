/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/status.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char message[QSAE__MESSAGE_SIZE];

/* Text from files may end up in messages: keep them one line of printable bytes. */
static void clean(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

char *qsae__message(void)
{
    return message;
}

int32_t qsae__fail(int32_t status, const char *format, ...)
{
    char text[QSAE__MESSAGE_SIZE]; /* arguments may point into the buffer itself */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clean(text);
    memcpy(message, text, sizeof message);
    return status;
}

int32_t qsae__fail_in(int32_t status, const char *format, ...)
{
    char text[QSAE__MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const size_t used = n < 0 ? 0 : (size_t)n < sizeof text - 3 ? (size_t)n : sizeof text - 3;
    size_t rest = strlen(message);
    if (rest > sizeof text - used - 3)
        rest = sizeof text - used - 3;
    memcpy(text + used, ": ", 2);
    memcpy(text + used + 2, message, rest);
    text[used + 2 + rest] = 0;
    clean(text);
    memcpy(message, text, sizeof message);
    return status;
}

const char *qsae_error_message(void)
{
    return message;
}

int32_t qsae_status_count(void)
{
    return QSAE_STATUS_COUNT;
}

const char *qsae_status_name(int32_t status)
{
    switch (status) {
#define NAME(name, number, text) \
    case number: \
        return "QSAE_" #name;
        QSAE_STATUS_MAP(NAME)
#undef NAME
    default:
        return "QSAE_E?";
    }
}

const char *qsae_status_message(int32_t status)
{
    switch (status) {
#define TEXT(name, number, text) \
    case number: \
        return text;
        QSAE_STATUS_MAP(TEXT)
#undef TEXT
    default:
        return "unknown status";
    }
}
