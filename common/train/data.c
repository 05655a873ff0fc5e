/* data.c - the sets of token shards that a run reads, as the user named them
 * SPDX-License-Identifier: MIT
 */
#include "data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/out.h"
#include "common/base/opt.h"

/* An operand "DIR" or "DIR@WEIGHT". */
static void add_operand(struct blend *b, const char *arg)
{
    const char *at = path_is_dir(arg) ? NULL : strrchr(arg, '@'); /* a folder's name may hold one */
    double weight = 1;
    if (at && (parse_real(at + 1, &weight) < 0 || !(weight > 0)))
        die_usage("'%s' is not a weight above 0 in '%s'", at + 1, arg);
    char *dir = at ? xasprintf("%.*s", (int)(at - arg), arg) : xstrdup(arg);
    blend_add(b, dir, weight);
    free(dir);
}

struct data data_open(const char *file, int n, char **operands, int64_t seq_len, enum order_mode mode)
{
    struct data d = { 0 };
    if (file && n)
        die_usage("the data come from '%s' of 'blend': '%s' is too much", file, operands[0]);
    if (file && blend_try_read(&d.blend, file) < 0)
        die_usage("%s", err_last());
    for (int i = 0; i < n; i++)
        add_operand(&d.blend, operands[i]);
    if (blend_try_open(&d.blend) < 0)
        die("%s", err_last());
    d.n = (int)d.blend.n;
    d.dirs = xcalloc((size_t)d.n, sizeof *d.dirs);
    d.sets = xcalloc((size_t)d.n, sizeof *d.sets);
    for (int i = 0; i < d.n; i++) {
        const struct blend_set *s = &d.blend.set[i];
        d.dirs[i] = s->path;
        if (s->info.seq_len > seq_len)
            die_usage("'%s' has samples of up to %lld tokens, '--seq-len' is %lld", s->path,
                      (long long)s->info.seq_len, (long long)seq_len);
        if (s->info.seq_len && mode == ORDER_STREAM)
            die_usage("'%s' is packed: its samples have no order to be walked in ('--order stream')",
                      s->path);
        d.sets[i] = (struct order_set){ s->info.n_tokens, s->weight, s->info.n_samples };
        d.info = s->info;
        buf_addf(&d.hashes, "%s%016llx@%.17g", i ? " " : "", (unsigned long long)s->hash, s->weight);
    }
    return d;
}

void data_free(struct data *d)
{
    free(d->dirs);
    free(d->sets);
    blend_free(&d->blend);
    buf_free(&d->hashes);
}

void data_adopt_tokenizer(struct config *c, const struct shard_info *info)
{
    if (c->vocab == 0)
        c->vocab = info->vocab;
    if (info->vocab > c->vocab)
        die("the data have %lld tokens, the model's 'vocab' is %lld", (long long)info->vocab,
            (long long)c->vocab);
    if (info->vocab > 0) {
        char hash[17];
        set_format_hash(info->tokenizer_hash, hash);
        if (c->tokenizer_hash && *c->tokenizer_hash && strcmp(hash, c->tokenizer_hash) != 0)
            die("the data were made by tokenizer '%s' (%s), the model knows '%s' (%s)", info->tokenizer, hash,
                c->tokenizer, c->tokenizer_hash);
        c->tokenizer = xstrdup(info->tokenizer);
        c->tokenizer_hash = xstrdup(hash);
        c->eod = info->eod;
    }
}

void data_tell(const struct data *d, const struct order *order, int64_t samples, bool plan)
{
    if (plan)
        printf("# data\ttokens\tweight\tshare\tepochs\n");
    for (int i = 0; i < d->n; i++) {
        double epochs = order_epochs(order, i, samples);
        if (plan)
            printf("%s\t%lld\t%g\t%.6f\t%.4f\n", d->dirs[i], (long long)d->sets[i].tokens, d->sets[i].weight,
                   order->set[i].share, epochs);
        else
            note(1, "data '%s': %lld tokens, weight %g, %.4f of the samples, %.4f epochs", d->dirs[i],
                 (long long)d->sets[i].tokens, d->sets[i].weight, order->set[i].share, epochs);
    }
}
