/* metrics.h - metrics.jsonl: one line a step
 * SPDX-License-Identifier: MIT
 *
 * {"step":12,"samples":192,"tokens":98304,"loss":2.0312,"lr":0.001,"grad_norm":0.53,"loss_z":0.1,"grad_norm_z":-0.4,
 *  "skip":0,"skipped":0,"rewinds":0,"seconds":0.41,"tokens_per_s":12000,"flops_per_s":3.1e10,"mfu":null,"data_wait":0.0,
 *  "memory":812000000,"device_memory":null,"eta":120.5,"limit":3400.0}
 * tokens: scored so far, so what a mask leaves out and padding do not count; tokens_per_s: computed, masked and
 * padding too, --seq-len a sequence as --tokens counts, and flops_per_s is that times the FLOPs of a token,
 * forward and backward: what --recompute makes again is none of it. mfu: flops_per_s as a share of the dense peak,
 * in the precision of the activations, of all ranks' devices; null where that is not known, as on the CPU. loss in
 * nats per scored token, grad_norm before clipping, both null where they are not finite; skip: 1 when this step
 * made no update; skipped: how many did not, of the whole run; rewinds: how often it went back to a checkpoint
 * before; seconds of the step; memory: most resident bytes of rank 0 so far; device_memory: bytes that are in use
 * on its device, whoever uses them, as the driver said at the first step or the last progress line (null on the
 * CPU); eta: seconds to the end of the run at the pace of this start; limit: seconds to the end of the job, null
 * when it has none. Only rank 0 writes; a line is one write(), so a reader sees whole lines but for the last one
 * of a killed run. After a resume the steps since the checkpoint stand in two incarnations' files: the higher
 * incarnation counts. After going back to a checkpoint steps stand twice in one file: the later line counts.
 *
 * slowest.jsonl: one line every so many steps, of the rank that took longest since the line before (pace.h):
 * {"step":100,"steps":100,"rank":3,"host":"n2","compute":0.41,"data_wait":0.001,"mean_compute":0.32,"mean_data_wait":0.001}
 * seconds a step.
 */
#ifndef SSM_METRICS_H
#define SSM_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "pace.h"

/* valid.jsonl: one line a set that was looked at. loss in nats a token, bpb bits per byte of text (NaN, in the file null, where the set
 * knows no bytes). */
struct metrics_valid {
    int64_t step, samples;
    const char *set;            /* its folder, as it was given */
    int64_t tokens;             /* scored */
    double loss, ppl, bpb, seconds;
};

struct metrics_line {
    int64_t step, samples, tokens;
    bool skip;
    int64_t skipped, rewinds;
    double loss_z, norm_z;
    double loss, lr, grad_norm, seconds, tokens_per_s, flops_per_s, data_wait, eta, limit;
    double mfu, device_memory;  /* NaN: not known */
    int64_t memory;
};

/* Appends to the file; dies when it cannot be written. */
struct metrics;
struct metrics *metrics_open(const char *path);
void metrics_write(struct metrics *m, const struct metrics_line *line);
void metrics_write_valid(struct metrics *m, const struct metrics_valid *line);
void metrics_write_slowest(struct metrics *m, int64_t step, const struct slowest *s);
void metrics_close(struct metrics *m);

#endif
