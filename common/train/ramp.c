/* ramp.c - the batch as a pure function of the samples taken
 * SPDX-License-Identifier: MIT
 */
#include "ramp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/opt.h"

int ramp_try_parse(struct ramp *r, const char *text)
{
    int64_t *const part[] = { &r->start, &r->increment, &r->samples };
    char *copy = xstrdup(text), *s = copy;
    int bad = 0;
    for (int i = 0; i < 3 && !bad; i++) {
        char *comma = strchr(s, ',');
        if (comma)
            *comma = '\0';
        bad = (i < 2) != !!comma || parse_int(s, part[i]) < 0 || *part[i] < 1;
        s = comma ? comma + 1 : s;
    }
    free(copy);
    if (bad)
        return err_set("'%s' is not START,INCREMENT,SAMPLES, three numbers above 0", text);
    if (r->start >= r->full)
        return err_set("'%s': the ramp starts with %lld, not below the batch %lld", text, (long long)r->start,
                       (long long)r->full);
    if ((r->full - r->start) % r->increment)
        return err_set("'%s': %lld more by %lld each do not come to the batch %lld", text,
                       (long long)r->start, (long long)r->increment, (long long)r->full);
    int64_t n;
    if (__builtin_mul_overflow(r->samples, r->full, &n))
        return err_set("'%s': too many samples", text);
    return 0;
}

int64_t ramp_batch(const struct ramp *r, int64_t n)
{
    if (n >= r->samples)
        return r->full;
    int64_t k = (r->full - r->start) / r->increment;
    return r->start + r->increment * (n * k / r->samples);
}

int64_t ramp_walk(const struct ramp *r, int64_t *n, int64_t end, int64_t most)
{
    int64_t steps = 0;
    while (*n < end && steps < most) {
        int64_t batch = ramp_batch(r, *n), until = end;
        if (*n < r->samples) { /* one stretch of equal batches */
            int64_t k = (r->full - r->start) / r->increment, done = (batch - r->start) / r->increment + 1;
            int64_t grows = (done * r->samples + k - 1) / k;
            until = grows < end ? grows : end;
        }
        int64_t take = (until - *n - 1) / batch + 1;
        if (take > most - steps)
            take = most - steps;
        steps += take;
        *n += take * batch;
    }
    return steps;
}
