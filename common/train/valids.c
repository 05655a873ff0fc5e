/* valids.c - held-out sets that are looked at while a model trains
 * SPDX-License-Identifier: MIT
 */
#include "valids.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/model/score.h"

struct valids valids_open(const char *list, const struct config *c, int64_t seq_len)
{
    struct valids v = { 0 };
    char *rest = NULL, *copy = xstrdup(list ? list : "");
    for (char *dir = strtok_r(copy, ",", &rest); dir; dir = strtok_r(NULL, ",", &rest)) {
        struct shards *s = shards_try_open(dir);
        if (!s)
            die("%s", err_last());
        score_check_set(c, s, seq_len);
        shards_close(s);
        *(char **)grow(&v.dir, &v.n, &v.cap, sizeof *v.dir) = xstrdup(dir);
    }
    free(copy);
    return v;
}

void valids_free(struct valids *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->dir[i]);
    free(v->dir);
}

struct metrics_valid valids_look(const struct valids *v, size_t i, const struct trainer *t, int64_t tokens)
{
    double begin = now_seconds();
    const struct score_options opt = { .seq_len = t->opt.seq_len,
                                       .stride = t->opt.seq_len,
                                       .batch = t->opt.micro_rows,
                                       .limit = tokens,
                                       .quiet = true }; /* it would stand between the run's own lines */
    struct score s = score_set(t->comm, t->net, v->dir[i], &opt);
    double loss = s.nats / (double)s.tokens;
    return (struct metrics_valid){ .step = t->step,
                                   .samples = t->samples,
                                   .set = v->dir[i],
                                   .tokens = s.tokens,
                                   .loss = loss,
                                   .ppl = exp(loss),
                                   .bpb = s.bytes > 0 ? s.nats / log(2) / (double)s.bytes : NAN,
                                   .seconds = now_seconds() - begin };
}
