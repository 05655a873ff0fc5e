/* order.c - which tokens the n-th sample is: data order as a function
 * SPDX-License-Identifier: MIT
 */
#include "order.h"

#include <math.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

/* Places of a round for each set: proportional to weight, by largest remainder, at least one each. */
static void fill_quotas(struct order *o, const struct order_set *sets)
{
    double total = 0;
    for (int d = 0; d < o->sets; d++)
        total += sets[d].weight;
    int64_t given = 0;
    for (int d = 0; d < o->sets; d++) {
        o->set[d].quota = (int64_t)floor(sets[d].weight / total * (double)o->round);
        if (o->set[d].quota < 1)
            o->set[d].quota = 1;
        given += o->set[d].quota;
    }
    while (given != o->round) { /* give to, or take from, the set that is furthest from its share */
        int64_t step = given < o->round ? 1 : -1;
        int best = -1;
        double most = -INFINITY;
        for (int d = 0; d < o->sets; d++) {
            double lack = (double)step * (sets[d].weight / total * (double)o->round - (double)o->set[d].quota);
            if (lack > most && (step > 0 || o->set[d].quota > 1)) {
                most = lack;
                best = d;
            }
        }
        if (best < 0)
            die_usage("%d data sets do not fit %lld rows", o->sets, (long long)o->round);
        o->set[best].quota += step;
        given += step;
    }
    for (int d = 0; d < o->sets; d++)
        o->set[d].share = (double)o->set[d].quota / (double)o->round;
    for (int d = 0; d < o->sets && o->mode == ORDER_STREAM; d++)
        if (o->set[d].windows < o->set[d].quota)
            die_usage("data set %d has %lld windows, too few for its %lld rows of a stream", d + 1,
                      (long long)o->set[d].windows, (long long)o->set[d].quota);
}

/* Spreads the sets evenly over the round: each place goes to the set that lags its quota most. */
static void fill_turns(struct order *o)
{
    int64_t *count = xcalloc((size_t)o->sets, sizeof *count);
    for (int64_t p = 0; p < o->round; p++) {
        int best = -1;
        double most = -INFINITY;
        for (int d = 0; d < o->sets; d++) {
            double lag = o->set[d].share * (double)(p + 1) - (double)count[d];
            if (count[d] < o->set[d].quota && lag > most) {
                most = lag;
                best = d;
            }
        }
        o->turn[p] = best;
        o->nth[p] = count[best]++;
    }
    free(count);
}

void order_init(struct order *o, uint64_t seed, enum order_mode mode, int64_t seq_len, int64_t rows,
                const struct order_set *sets, int n)
{
    *o = (struct order){ .seed = seed, .mode = mode, .seq_len = seq_len, .rows = rows, .sets = n };
    o->set = xcalloc((size_t)n, sizeof *o->set);
    for (int d = 0; d < n; d++) {
        if (sets[d].tokens < 1)
            die("data set %d has no tokens", d + 1);
        if (!(sets[d].weight > 0))
            die_usage("the weight of data set %d is not above 0", d + 1);
        o->set[d].tokens = sets[d].tokens;
        o->set[d].packed = sets[d].samples > 0;
        if (o->set[d].packed && mode == ORDER_STREAM)
            die_usage("data set %d is packed: its samples have no order to be walked in (--order stream)", d + 1);
        o->set[d].windows = o->set[d].packed ? sets[d].samples : (sets[d].tokens + seq_len - 1) / seq_len;
    }
    o->round = mode == ORDER_STREAM ? rows : n == 1 ? 1 : 1024 * (int64_t)n;
    o->turn = xcalloc((size_t)o->round, sizeof *o->turn);
    o->nth = xcalloc((size_t)o->round, sizeof *o->nth);
    fill_quotas(o, sets);
    fill_turns(o);
}

void order_free(struct order *o)
{
    free(o->set);
    free(o->turn);
    free(o->nth);
    *o = (struct order){ 0 };
}

static struct sample window(const struct order *o, int set, int64_t w, int64_t epoch)
{
    if (o->set[set].packed)
        return (struct sample){ .set = set, .packed = w, .epoch = epoch };
    struct sample s = { .set = set, .offset = w * o->seq_len, .origin = w * o->seq_len, .packed = -1, .epoch = epoch };
    int64_t left = o->set[set].tokens - s.offset;
    s.length = left < 0 ? 0 : left < o->seq_len ? left : o->seq_len;
    return s;
}

static struct sample shuffled(const struct order *o, int64_t i)
{
    int64_t place = i % o->round;
    int d = o->turn[place];
    int64_t k = i / o->round * o->set[d].quota + o->nth[place]; /* the k-th sample of this set */
    int64_t epoch = k / o->set[d].windows;
    uint64_t stream = rng_stream("order") + ((uint64_t)d << 40) + (uint64_t)epoch;
    int64_t w = (int64_t)rng_permute(o->seed, stream, (uint64_t)o->set[d].windows,
                                     (uint64_t)(k % o->set[d].windows));
    return window(o, d, w, epoch);
}

static struct sample streamed(const struct order *o, int64_t step, int64_t row)
{
    int d = o->turn[row];
    int64_t stretch = (o->set[d].windows + o->set[d].quota - 1) / o->set[d].quota;
    int64_t at = step % stretch, w = o->nth[row] * stretch + at;
    struct sample s = window(o, d, w, step / stretch);
    s.carries = at > 0;
    s.origin = (w - at) * o->seq_len;
    return s;
}

struct sample order_at(const struct order *o, int64_t n, int64_t row)
{
    return o->mode == ORDER_STREAM ? streamed(o, n / o->rows, row) : shuffled(o, n + row);
}

double order_epochs(const struct order *o, int set, int64_t n)
{
    return (double)n * o->set[set].share / (double)o->set[set].windows;
}
