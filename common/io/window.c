/* window.c - a stretch of a token stream as rows of inputs, targets and document starts
 * SPDX-License-Identifier: MIT
 */
#include "window.h"

#include "common/base/mem.h"

enum { LOOK_BACK = 64 }; /* more than any convolution's halo */

int window_try_read(struct shards *s, int64_t offset, int64_t length, int64_t T, int32_t *ids, int32_t *targets,
                    int32_t *start)
{
    int32_t eod = (int32_t)shards_info(s)->eod;
    int64_t from = offset > 0 ? offset - 1 : 0, n = offset + length - from;
    uint32_t *tokens = xmalloc((size_t)(n + 1) * sizeof *tokens);
    int64_t back = offset > LOOK_BACK ? offset - LOOK_BACK : 0;
    int64_t room = offset + length - back + 1;
    int64_t *ends = xmalloc((size_t)room * sizeof *ends), n_ends = 0;
    int rc = length > 0 ? shards_try_read(s, from, n, tokens) : 0;
    if (rc == 0 && length > 0 && (n_ends = shards_try_doc_ends(s, back, offset + length - back, ends, room)) < 0)
        rc = -1;
    /* Where the current document begins. Before `back` nobody needs to know how long ago that was. */
    int64_t begin = back > 0 ? back - 1 : 0, e = 0;
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
        targets[t] = (int32_t)tokens[at - from];
        start[t] = (int32_t)(begin - offset);
    }
    free(tokens);
    free(ends);
    return rc;
}
