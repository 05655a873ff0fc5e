/* order.h - which tokens the n-th sample is: data order as a function
 * SPDX-License-Identifier: MIT
 *
 * A data set is one stream of tokens; window w of it holds the targets [w T, (w+1) T) (the last one fewer). The
 * input of a target is the token before it, across windows; before the very first token stands an
 * end-of-document token. So every token of a data set is scored exactly once an epoch.
 *
 * A packed set (common/io/shard.h) has samples of its own in the place of windows: order_at() says the how-maniest, the
 * set where it lies. They come once an epoch too, and only by shuffle.
 *
 * order_at() answers in closed form, on any rank, for any n: no index is built, nothing is shuffled in memory.
 *   shuffle  rounds of R samples interleave the data sets by weight; inside a data set the windows of
 *            an epoch come in the order of a keyed permutation.
 *   stream   each of the batch's rows walks its own stretch of a data set in order and carries its state on.
 * Pure functions of their arguments.
 */
#ifndef SSM_ORDER_H
#define SSM_ORDER_H

#include <stdbool.h>
#include <stdint.h>

enum order_mode { ORDER_SHUFFLE, ORDER_STREAM };

struct order_set {
    int64_t tokens;         /* in the set */
    double weight;          /* share of the samples, any scale; > 0 */
    int64_t samples;        /* of a packed set; else 0 */
};

struct order {
    uint64_t seed;
    enum order_mode mode;
    int64_t seq_len, rows;  /* T; rows of the global batch (stream) */
    int sets;
    struct {
        int64_t tokens, windows; /* windows: or samples */
        bool packed;
        int64_t quota;      /* shuffle: samples a round; stream: rows */
        double share;       /* quota / round: what the weights came to */
    } *set;
    int64_t round;          /* R */
    int *turn;              /* [R] (stream: [rows]) the set of each place */
    int64_t *nth;           /* [R] how many of the same set stand before it in the round */
};

struct sample {
    int set;
    int64_t offset;         /* first target */
    int64_t origin;         /* the target that the carried state began with; offset when nothing is carried */
    int64_t length;         /* targets; 0: an empty row (the end of a stream's stretch) */
    int64_t packed;         /* the sample of a packed set that this is, offset and length unknown; else -1 */
    bool carries;           /* the row goes on where the same row of the step before ended */
    int64_t epoch;
};

/* rows: of the global batch. Dies (usage) when a set is empty or gets no row of a stream, or is packed and to be one. */
void order_init(struct order *o, uint64_t seed, enum order_mode mode, int64_t seq_len, int64_t rows,
                const struct order_set *sets, int n);
void order_free(struct order *o);
/* How often n samples of all sets go through this one. */
double order_epochs(const struct order *o, int set, int64_t n);
/* n: samples taken before this step (a multiple of rows in stream mode); row: of the step. */
struct sample order_at(const struct order *o, int64_t n, int64_t row);

#endif
