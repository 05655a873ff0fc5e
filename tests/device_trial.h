/* device_trial.h - shared by the device tests: one call of an op, on a device and on the CPU, side by side
 * SPDX-License-Identifier: MIT
 *
 * A trial is an op's struct with sizes and options set, and the list of its fields: where they stand in the
 * struct, their shapes, what the op does with them forward and backward, and what they are drawn from.
 * trial_run() gives both backends the same numbers (rounded to the device's dtype first) and compares what
 * they return. Every tensor lies among NaNs, outputs begin as NaNs and scratch as garbage; nothing outside of
 * the outputs may change, nothing outside of the inputs may count, and a second call must give the same bits.
 */
#ifndef SSM_TESTS_DEVICE_TRIAL_H
#define SSM_TESTS_DEVICE_TRIAL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend.h"

extern const struct backend *device_be; /* the one under test */
extern int trial_every;                 /* of so many trials one is run: for tools under which they are slow */

/* What a field holds: the dtype of activations, that of the residual stream, F32, BF16; integers. */
enum width { ACT, RES, FLT, HALF, INT, BYTE };
/* What an op does with a field. NO: it is absent. */
enum role { NO, IN, OUT, INOUT };

enum layout { TIGHT, ALIGNED, ODD, LAYOUTS }; /* rows end to end; 16-byte rows with room between; neither */
struct setting {
    enum dtype act, res;
    enum layout layout;
};

/* Limits of max|device - CPU| / max|CPU|, by what is compared. */
struct limits {
    double f32;   /* all in F32 */
    double bf16;  /* a BF16 tensor */
    double mixed; /* an F32 tensor of BF16 activations */
};

/* Begins a trial; the text names the case in messages. */
void trial_begin(const struct setting *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void trial_field(const char *name, size_t at, bool tensor, enum width width, int64_t rows, int64_t cols,
                 enum role fwd, enum role bwd, double lo, double hi);
#define TEN(type, f, ...) trial_field(#f, offsetof(struct type, f), true, __VA_ARGS__)
#define PTR(type, f, ...) trial_field(#f, offsetof(struct type, f), false, __VA_ARGS__)
float *trial_values(const char *name);                         /* [rows,cols], to be changed before the run */
void trial_alias(const char *name, size_t at, const char *of); /* a tensor that lies where another does */
#define ALIAS(type, f, of) trial_alias(#f, offsetof(struct type, f), of)
void trial_mirror(const char *name,
                  const char *of); /* is on the device only, where it becomes what `of` is */
void trial_exact(void);            /* compares with no error but the rounding to the device's dtype */
void trial_nan_spreads(void);      /* a NaN may reach other elements than on the CPU, but some */
void trial_limits(struct limits l);
/* Runs forward, and backward on what forward saved when bwd is given. */
void trial_run(const void *op, const char *type, const char *fwd, const char *bwd);

/* Settings for all tests of an op: calls f for each pair of dtypes that the device has, layouts in turns. */
void each_setting(void (*f)(const struct setting *s), bool residual);
/* start [B,T]; returns false for DOC_NULL */
enum documents { DOC_NULL, DOC_BEFORE, DOC_FIRST, DOC_TAIL, DOC_EDGES, DOC_ONE, DOC_RANDOM, DOCUMENTS };
void make_documents(float *start, int64_t B, int64_t T, int64_t edge, enum documents kind);

void device_seed(uint64_t seed);
double device_uniform(void);
int64_t device_below(int64_t n);
float device_round(float x, enum dtype t);
size_t device_size(enum dtype t);

/* op of the table by its name: false when there is none */
bool device_call(const struct backend *be, const char *op, const void *a);
size_t device_work(const struct backend *be, const char *type, const void *a, size_t *at);
int device_failures(void); /* since the last call */

void device_perf(const char *only);

void dev_matmul(void **state);
void dev_colsum(void **state);
void dev_embed(void **state);
void dev_xent(void **state);
void dev_cast(void **state);
void dev_adamw(void **state);
void dev_total(void **state);
void dev_judge(void **state);
void dev_norm(void **state);
void dev_gatednorm(void **state);
void dev_conv1d(void **state);
void dev_act(void **state);
void dev_rope(void **state);
void dev_ssd(void **state);
void dev_scan(void **state);
void dev_rglru(void **state);
void dev_attn(void **state);
void dev_huge(void **state);
void dev_long(void **state);

#endif
