/* window.c - a stretch of a token stream as rows of inputs, targets and document starts
 * SPDX-License-Identifier: MIT
 */
#include "window.h"

#include "common/base/mem.h"

/* How many documents end in (*back, offset], where *back is `origin` or near enough that there are some. */
static int64_t look_back(struct shards *s, int64_t origin, int64_t offset, int64_t *back)
{
    int64_t n = 0;
    *back = offset;
    for (int64_t reach = 64; n == 0 && *back > origin; reach *= 2) {
        *back = offset - origin > reach ? offset - reach : origin;
        n = shards_try_doc_ends(s, *back, offset - *back, NULL, 0);
    }
    return n;
}

int window_try_read(struct shards *s, int64_t origin, int64_t offset, int64_t length, int64_t T, int32_t *ids,
                    int32_t *targets, int32_t *start)
{
    int32_t eod = (int32_t)shards_info(s)->eod;
    int64_t from = offset > 0 ? offset - 1 : 0, n = offset + length - from;
    uint32_t *tokens = xmalloc((size_t)(n + 1) * sizeof *tokens);
    int64_t back = offset, before = length > 0 ? look_back(s, origin, offset, &back) : 0;
    if (before < 0) {
        free(tokens);
        return -1;
    }
    int64_t room = before + length + 1;
    int64_t *ends = xmalloc((size_t)room * sizeof *ends), n_ends = 0;
    int rc = length > 0 ? shards_try_read(s, from, n, tokens) : 0;
    if (rc == 0 && length > 0 && (n_ends = shards_try_doc_ends(s, back, offset + length - back, ends, room)) < 0)
        rc = -1;
    uint8_t *mask = xmalloc((size_t)length + 1);
    if (rc == 0 && shards_try_mask(s, offset, length, mask) < 0)
        rc = -1;
    int64_t begin = origin, e = 0; /* where the current document begins */
    for (int64_t t = 0; t < T && rc == 0; t++) {
        if (t >= length) { /* padding: a document of its own, unscored */
            ids[t] = eod;
            targets[t] = -1;
            start[t] = (int32_t)length;
            continue;
        }
        int64_t at = offset + t;
        while (e < n_ends && ends[e] <= at)
            begin = ends[e++];
        ids[t] = at == 0 ? eod : (int32_t)tokens[at - 1 - from];
        targets[t] = mask[t] ? (int32_t)tokens[at - from] : -1;
        start[t] = begin - offset < -(1 << 30) ? -(1 << 30) : (int32_t)(begin - offset);
    }
    free(tokens);
    free(ends);
    free(mask);
    return rc;
}
