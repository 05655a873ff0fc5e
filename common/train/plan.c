/* plan.c - what a run costs, before it begins
 * SPDX-License-Identifier: MIT
 */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/model/net.h"

void plan_check_sizes(const struct config *c, const struct trainer_options *to, const struct length *l)
{
    double rows = (double)to->micro_rows * (double)to->seq_len;
    double width = (double)c->d_model + (double)c->d_ff + 4.0 * (double)(c->n_heads * c->headdim) +
                   2.0 * (double)(c->n_groups * c->d_state) + (double)(c->attn_heads * c->attn_headdim) +
                   (double)c->d_inner * (double)(8 + c->d_state) + 8.0 * (double)c->lru_width +
                   (double)c->vocab;
    if ((l->unit == LENGTH_STEPS && (double)l->n * (double)to->batch > 4e18) ||
        rows * width * (double)c->layers > 1e17 || (double)length_samples(l) * (double)to->seq_len > 4e18)
        die_usage("%lld steps of %lld sequences (%lld at a time) of %lld tokens are too much to count",
                  (long long)(l->unit == LENGTH_STEPS ? l->n : length_steps_left(l, 0, 0, NULL)),
                  (long long)to->batch, (long long)to->micro_rows, (long long)to->seq_len);
}

/* Bytes that a rank needs on its device, but for a checkpoint that is being saved. */
struct demand {
    struct net_memory net;
    int64_t moments, mean, valid, total;
};

static struct demand demand_of(const struct config *c, const struct placement *where, const struct trainer_options *to,
                               bool looks)
{
    struct demand d = { .net = net_memory(c, where->be, where->precision, to->micro_rows, to->seq_len, true, to->recompute) };
    d.moments = 2 * d.net.weights;
    d.mean = to->ema > 0 ? d.net.weights : 0;
    if (looks) { /* activations, beside those of the training; weights and scratch are shared */
        struct net_memory v = net_memory(c, where->be, where->precision, to->micro_rows, to->seq_len, false, RECOMPUTE_NONE);
        d.valid = v.residual + v.saved;
    }
    d.total = d.net.total + d.moments + d.mean + d.valid;
    return d;
}

int64_t plan_device_memory(const struct config *c, const struct placement *where, const struct trainer_options *to, bool looks)
{
    return demand_of(c, where, to, looks).total;
}

void plan_print(const struct config *c, const struct placement *where, const struct trainer_options *to,
                const struct length *l, int ranks, bool background, bool looks)
{
    struct params ps;
    params_init(&ps, c);
    bool *frozen = xcalloc(ps.n, sizeof *frozen);
    int64_t left;
    if (trainer_try_frozen(&ps, to->freeze, frozen, &left) < 0)
        die_usage("freeze: %s", err_last());
    struct demand d = demand_of(c, where, to, looks);
    const struct net_memory m = d.net;
    double flops = net_flops(c, to->seq_len);
    printf("# tensor\tshape\tdecay\ttrains\n");
    for (size_t i = 0; i < ps.n; i++) {
        printf("%s\t", ps.p[i].name);
        for (int k = 0; k < ps.p[i].ndim; k++)
            printf("%s%lld", k ? "x" : "", (long long)ps.p[i].shape[k]);
        printf("\t%s\t%s\n", ps.p[i].decay ? "yes" : "no", frozen[i] ? "no" : "yes");
    }
    printf("pattern=%s\nparameters=%lld\nparameters_trained=%lld\nvocab=%lld\n", c->pattern,
           (long long)ps.count, (long long)left, (long long)c->vocab);
    printf("steps=%lld\nbatch=%lld\nseq_len=%lld\nranks=%d\nrows_per_rank=%lld\nmicro_batch=%lld\n",
           (long long)length_steps_left(l, 0, 0, NULL), (long long)to->batch, (long long)to->seq_len, ranks,
           (long long)to->rows, (long long)to->micro_rows);
    int64_t tokens = length_samples(l) * to->seq_len;
    printf("device=%s\nprecision=%s\nresidual=%s\n", where->be->name, where->name,
           where->precision.residual == BF16 ? "bf16" : "fp32");
    printf("tokens=%lld\n", (long long)tokens);
    printf("flops_per_token_forward=%.0f\nflops_per_token_training=%.0f\nflops_total=%.4g\n", flops,
           3 * flops, 3 * flops * (double)tokens);
    bool host = memory_is_host(where->be);
    int64_t copy = trainer_save_copies(where->be, where->precision, background) ? (m.weights + d.moments + d.mean) / ranks : 0;
    printf("memory_weights=%lld\nmemory_half=%lld\nmemory_gradients=%lld\nmemory_moments=%lld\nmemory_ema=%lld\nmemory_valid=%"
           "lld\nmemory_save=%lld\nmemory_residual=%lld\n"
           "memory_saved=%lld\nmemory_scratch=%lld\nmemory_rank=%lld\n",
           (long long)m.weights, (long long)m.half, (long long)m.grads, (long long)d.moments, (long long)d.mean, (long long)d.valid,
           (long long)copy, (long long)m.residual, (long long)m.saved, (long long)(m.scratch + m.work),
           (long long)(d.total + (host ? copy : 0)));
    free(frozen);
    params_free(&ps);
}
