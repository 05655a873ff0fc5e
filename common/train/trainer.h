/* trainer.h - one optimizer step, and the whole state of a run in and out of checkpoints
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_TRAINER_H
#define SSM_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "common/dist/comm.h"
#include "common/io/ckpt.h"
#include "common/model/net.h"
#include "health.h"
#include "loader.h"

struct trainer_options {
    double beta1, beta2, eps, weight_decay, clip;
    double ema;                 /* decay of the running mean of the weights; 0: none */
    double skip_loss_z, skip_norm_z; /* steps with larger z-scores are skipped; 0: none for that */
    const char *freeze;         /* patterns of tensors that stand still, see trainer_try_frozen(); or NULL */
    int64_t bucket;             /* gradients that devices sum at a time, beside the backward pass; 0: a layer's */
    int64_t micro_rows;         /* sequences that a rank computes at a time */
    int64_t rows;               /* most sequences of this rank in a step; a multiple of micro_rows, as are fewer */
    int64_t first_row;          /* of this rank among the step's */
    int64_t batch;              /* rows of all ranks */
    int64_t seq_len;
    enum recompute recompute;
    struct precision precision;
    bool stream;                /* rows carry their state on */
};

struct trainer {
    struct trainer_options opt;
    struct comm *comm;          /* data-parallel ranks */
    struct comm *device;        /* the same for memory of the device; may be comm */
    struct net *net;
    struct net_ctx *ctx;
    float *m, *v;               /* moments, slabs like the weights, on the device as they are */
    float *ema;                 /* the running mean, a slab; NULL: none */
    uint8_t *mask;              /* on the device: what AdamW does to each 16 elements of a slab */
    bool averaging;             /* it has begun: with the weights before the first step that it sees */
    bool *frozen;               /* [ps.n] */
    struct net_state **in, **out; /* stream: one pair a micro-batch */
    float *loss;                /* [rows, T] on the device */
    double *seen;               /* on the device: sums of losses and of squares [2], and those of all ranks [ranks,2] */
    struct verdict *verdict;    /* on the device */
    int64_t step, samples, tokens; /* done so far; tokens: targets scored */
    int64_t updates;            /* that the moments have seen */
    int64_t skipped;            /* steps without an update */
    int64_t skipped_in_row;     /* up to now */
    int64_t rewinds;            /* how often it went back to a checkpoint */
    int64_t rewinds_in_row;     /* since there was a newer one to go back to */
    struct health health;
    struct saving *saving;      /* a checkpoint that is being written, or NULL */
    float *snapshot;            /* on the host: room for this rank's part of a checkpoint, or NULL */
    bool snapshot_of_backend;   /* its host_alloc() gave it */
};

struct step_report {
    double loss;                /* mean over the scored tokens of the whole batch, nats */
    double grad_norm;           /* of the mean loss, before clipping */
    int64_t tokens;             /* scored in this step by all ranks */
    double compute;             /* seconds of this rank for itself, without waiting for others; of a device, its passes */
    int64_t computed;           /* put through the model by all ranks: each row's seq_len, whatever is in it */
    double loss_z, norm_z;      /* see health.h */
    bool skipped;               /* no update was made */
    bool stop, save;            /* some rank was asked to */
    bool written;               /* all ranks have written their part of the checkpoint that was begun */
};

/* What a rank is asked for while it computes. */
struct step_wish {
    bool stop, save;
};

/* frozen[ps->n] = what `patterns` say: shell patterns of tensor names, commas between them. 0, or -1 with err_last() when a
 * pattern meets no tensor, or nothing is left to train. *left: elements that train. */
int trainer_try_frozen(const struct params *ps, const char *patterns, bool *frozen, int64_t *left)
    __attribute__((warn_unused_result));

/* Weights are zero. Dies when memory is short, or (usage) the patterns do not fit. */
struct trainer *trainer_create(const struct config *c, const struct backend *be, struct comm *comm,
                               const struct trainer_options *opt);
void trainer_free(struct trainer *t);

/* Collective. One step on this rank's rows: micro-batches forward and backward, sum over the ranks, clip, AdamW at
 * `rate`. Frozen tensors have no gradient: they count in no norm, and they and their moments stand still. wish: of
 * this rank; all ranks get the same answer. A step whose loss or gradient norm is not finite, or beyond the
 * z-limits, is skipped: its samples are taken, nothing else changes (carried states begin anew where they may not be
 * finite). All ranks judge by the same numbers, so they agree on any hardware. No device memory is allocated, and the device
 * judges, so that it never waits for the host: the host waits for the verdict, beside the update. */
struct step_report trainer_step(struct trainer *t, const struct loaded *b, double rate, struct step_wish wish);
/* Collective. No weight is infinite or NaN. */
bool trainer_is_finite(struct trainer *t);

/* ---- checkpoints ----
 * Begun, written, published. Every rank writes its rows of the model, the moments and carried states; in the background
 * from a copy, while the training goes on. What only an update changes is copied beside the passes of the next step, whose
 * update waits for the copies on the device. The thread that writes calls neither MPI nor ends the process; that all ranks
 * have written is agreed on with the sums of a step (step_report.written), and publishing is done between two steps.
 */

/* A rank's part is written from a copy: in the background, or where the tensors do not lie on the host as the floats that files
 * hold. */
bool trainer_save_copies(const struct backend *be, struct precision precision, bool background);
/* Collective. Begins the checkpoint folder `dir` (the same on all ranks; set_prepare() has run there) with the state as it is
 * now. `state` (may hold the caller's own) gets step, samples, tokens, ...; it and `history` are copied. None may be under
 * way. background: false writes before it returns. */
void trainer_save_begin(struct trainer *t, const char *dir, struct attrs *state, const char *history, bool background);
/* Collective. Waits for this rank's part; then rank 0 renames the index into place, with which the checkpoint becomes valid.
 * `still_ours` is asked on rank 0 right before that; when it says no the checkpoint stays invalid. Returns false then. Dies when
 * writing has failed: the folder has no index. */
bool trainer_save_publish(struct trainer *t, bool (*still_ours)(void *), void *arg);
/* Bytes of a whole checkpoint, about. */
int64_t trainer_save_bytes(const struct trainer *t);
/* This rank's part is written, or has failed. True when none is under way. */
bool trainer_save_is_written(const struct trainer *t);
/* Collective. Loads from any layout: the weights; and the moments with their count; and all that a run goes on with. Dies
 * with the reason when something is missing or of another shape. */
enum trainer_part { TRAINER_WEIGHTS, TRAINER_OPTIMIZER, TRAINER_RUN };
void trainer_load(struct trainer *t, struct ckpt *c, enum trainer_part upto);
/* Collective. Goes back to what the checkpoint of this run holds, but for its place in the data and the counts of what
 * was skipped: the samples since are not seen again. */
void trainer_rewind(struct trainer *t, struct ckpt *c);

#endif
