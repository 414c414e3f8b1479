/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/match.h"

#include <string.h>

#include "text/utf8.h"

void qsae__matcher_init(qsae__matcher *m, qsae_context *ctx)
{
    memset(m, 0, sizeof *m);
    m->ctx = ctx;
}

void qsae__matcher_free(qsae__matcher *m)
{
    if (m->ctx == NULL)
        return;
    qsae__free(m->ctx, m->tokens);
    qsae__free(m->ctx, m->keys);
    qsae__free(m->ctx, m->children);
    memset(m, 0, sizeof *m);
}

/* Slot of the edge, or the empty slot where it belongs. slots > edges. */
static int64_t slot_of(const qsae__matcher *m, uint32_t node, uint8_t byte)
{
    const uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    int64_t i = (int64_t)(qsae__seed_hash(&m->ctx->seed, key) & (uint64_t)(m->slots - 1));

    while (m->keys[i] != 0 && m->keys[i] != key)
        i = (i + 1) & (m->slots - 1);
    return i;
}

static uint32_t child_of(const qsae__matcher *m, uint32_t node, uint8_t byte)
{
    int64_t i;

    if (node == 0)
        return m->root[byte];
    i = slot_of(m, node, byte);
    return m->keys[i] != 0 ? m->children[i] : 0;
}

static int32_t grow_edges(qsae__matcher *m)
{
    const int64_t old = m->slots, slots = old == 0 ? 64 : old * 2;
    uint64_t *keys = m->keys, *new_keys = qsae__calloc(m->ctx, slots, sizeof *keys);
    uint32_t *children = m->children, *new_children = qsae__calloc(m->ctx, slots, sizeof *children);

    if (new_keys == NULL || new_children == NULL) {
        qsae__free(m->ctx, new_keys);
        qsae__free(m->ctx, new_children);
        return QSAE_ENOMEM;
    }
    m->keys = new_keys;
    m->children = new_children;
    m->slots = slots;
    for (int64_t i = 0; i < old; i++)
        if (keys[i] != 0) {
            const int64_t to = slot_of(m, (uint32_t)((keys[i] - 1) >> 8), (uint8_t)(keys[i] - 1));
            m->keys[to] = keys[i];
            m->children[to] = children[i];
        }
    qsae__free(m->ctx, keys);
    qsae__free(m->ctx, children);
    return QSAE_OK;
}

static int32_t new_node(qsae__matcher *m, uint32_t *node)
{
    int32_t status;

    if (m->nodes >= UINT32_MAX)
        return qsae__fail(QSAE_EOVERFLOW, "too many added tokens");
    if (m->most > 0 && m->nodes >= m->most)
        return qsae__fail(QSAE_EFORMAT, "added tokens: expected texts that make a tree of at most "
                          "%lld nodes in a file of this size, found more", (long long)m->most);
    status = qsae__grow(m->ctx, &m->tokens, &m->capacity, m->nodes + 1, sizeof *m->tokens);
    if (status != QSAE_OK)
        return status;
    *node = (uint32_t)m->nodes;
    m->tokens[m->nodes++] = NULL;
    return QSAE_OK;
}

int32_t qsae__matcher_add(qsae__matcher *m, const char *s, size_t size, const qsae__added *token)
{
    uint32_t node = 0, child;
    int32_t status = QSAE_OK;

    if (size == 0)
        return QSAE_OK;
    if (m->nodes == 0)
        status = new_node(m, &node);
    for (size_t i = 0; i < size && status == QSAE_OK; i++, node = child) {
        const uint8_t byte = (uint8_t)s[i];
        if (m->edges * 2 >= m->slots) {
            status = grow_edges(m);
            if (status != QSAE_OK)
                return status;
        }
        child = child_of(m, node, byte);
        if (child != 0)
            continue;
        status = new_node(m, &child);
        if (status != QSAE_OK)
            return status;
        if (node == 0) {
            m->root[byte] = child;
        } else {
            const int64_t at = slot_of(m, node, byte);
            m->keys[at] = ((uint64_t)node << 8 | byte) + 1;
            m->children[at] = child;
            m->edges++;
        }
    }
    if (status == QSAE_OK && m->tokens[node] == NULL)
        m->tokens[node] = token;
    return status;
}

/* Longest string that starts at p, or NULL. */
static const qsae__added *longest(const qsae__matcher *m, const char *p, const char *end,
                                  size_t *size)
{
    const qsae__added *best = NULL;
    uint32_t node = m->root[(uint8_t)*p];

    for (size_t n = 1; node != 0; n++) {
        if (m->tokens[node] != NULL) {
            best = m->tokens[node];
            *size = n;
        }
        if (p + n == end)
            break;
        node = child_of(m, node, (uint8_t)p[n]);
    }
    return best;
}

static bool inside_word(const char *text, size_t size, size_t start, size_t end)
{
    return (start > 0 && qsae__is_word(qsae__utf8_get(qsae__utf8_prev(text + start)))) ||
           (end < size && qsae__is_word(qsae__utf8_get(text + end)));
}

/* Same walk as AddedVocabulary::find_matches of the tokenizers crate: a match that fails
 * single_word is consumed, stripped space belongs to the token. */
int32_t qsae__matcher_split(const qsae__matcher *m, const char *text, size_t size, qsae__part_fn fn,
                            void *arg)
{
    size_t done = 0, at = 0, n = 0;
    int32_t status = QSAE_OK;

    while (m->nodes > 0 && at < size) {
        const qsae__added *token;
        size_t start, end;
        if (m->root[(uint8_t)text[at]] == 0 ||
            (token = longest(m, text + at, text + size, &n)) == NULL) {
            at++;
            continue;
        }
        start = at;
        end = at = at + n;
        if (token->single_word && inside_word(text, size, start, end))
            continue;
        while (token->lstrip && start > done &&
               qsae__is_space(qsae__utf8_get(qsae__utf8_prev(text + start))))
            start = (size_t)(qsae__utf8_prev(text + start) - text);
        if (token->lstrip && start < done) /* the match before has stripped into this one */
            start = done;
        while (token->rstrip && end < size && qsae__is_space(qsae__utf8_get(text + end)))
            end += qsae__utf8_len(text[end]);
        if (done < start && (status = fn(arg, done, start, NULL)) != QSAE_OK)
            return status;
        if (start < end && (status = fn(arg, start, end, token)) != QSAE_OK)
            return status;
        done = end;
    }
    return done < size ? fn(arg, done, size, NULL) : QSAE_OK;
}
