/* family.h - families of other people's models: what they call our tensors and our numbers
 * SPDX-License-Identifier: MIT
 *
 * A family is a name, a function that goes over its configuration (keys.h; the same one reads and writes),
 * and a list of rules for names. All of it is looked at from our side: for each tensor of our table a rule
 * says what the other program calls it and which rows of it are ours. So nothing depends on the order of
 * tensors in files.
 *
 * To add a family: a struct family in a file of its kind (transformers.c, ssm.c, megatron.c), its line in
 * family.c, a folder in tests/golden, its line in the man page of ckmerge. What a configuration can say and
 * we cannot do must be refused by its keys function, not passed over.
 */
#ifndef SSM_FAMILY_H
#define SSM_FAMILY_H

#include "common/model/param.h"
#include "keys.h"

/* Which rows of their tensor are ours. */
enum rows {
    ROWS_SAME,
    ROWS_Q, ROWS_K, ROWS_V,         /* of Megatron's linear_qkv: each group's queries, its key, its value */
    ROWS_GATE, ROWS_UP              /* of a linear that is gate over up in a gated MLP, else up alone */
};

/* The first rule that fits gives the name; where a name has several spellings in the wild, several fit: all
 * are looked for, and the first is written. */
struct rule {
    const char *symbols;            /* sub-layers it is for; NULL: tensors outside of them */
    const char *ours;               /* how our name (behind "layers.N.") begins */
    const char *theirs;             /* what stands there instead; # is the number of their layer */
    enum rows rows;
};

struct family {
    const char *name;               /* of --as and --to; model_type in config.json, unless `untyped` */
    const char *architecture;       /* config.json's "architectures"; NULL: has none */
    bool untyped;                   /* config.json has no model_type */
    bool read_only;
    bool head_always;               /* files hold lm_head.weight even when it is the embedding */
    bool unties;                    /* and it cannot be said that it is: a tied model comes back untied */
    int per_layer;                  /* our sub-layers in one of their layers */
    const char *prefix;             /* of names of the model's tensors; others are not looked at */
    const char *const *passed_over; /* ends of names of tensors that say nothing; ends with NULL */
    const struct rule *rules;       /* end with `theirs` NULL */
    void (*keys)(struct keys *k, struct config *c);
};

extern const struct family *const families[]; /* ends with NULL; in the order in which export tries them */
/* By name; NULL with err_last(), which lists those there are. */
const struct family *family_try_find(const char *name);
/* The one of Megatron's two, a GPT or a hybrid, that an archive is. */
const struct family *family_of_megatron(const struct archive *a);
/* The family of a config.json; NULL with err_last() (no or an unknown model_type). */
const struct family *family_try_detect(const struct json *config);

/* Reads a configuration: from `in` or, if that is NULL, from args. `ignore`: comma-separated keys to pass
 * over, or NULL. *pattern is what c->pattern leads to, the caller's to free. 0, or -1 with err_last()
 * (*pattern is NULL then). What comes out has passed config_try_check() and fits a checkpoint's attributes.
 */
int family_try_read(const struct family *f, const struct json *in, const struct archive *args,
                    const char *ignore, struct config *c, char **pattern) __attribute__((warn_unused_result));
/* Makes the configuration that reads back to the same model; NULL with err_last(), "nemotron_h has no place
 * for 'softcap' 30". */
struct json *family_try_write(const struct family *f, const struct config *c);
/* The family to write when nobody names one: the first that has a place for everything. NULL with err_last(),
 * the reason of the likeliest. */
const struct family *family_try_choose(const struct config *c);

/* Where a tensor of ours is in theirs. Our row r is their row base + r/run*stride + r%run. */
struct place {
    char name[160];
    int ndim;
    int64_t shape[PARAM_MAX_DIM];   /* of their tensor */
    int64_t base, run, stride;
};

/* The i-th place where p may be. False when there are no more; there is one at least. */
bool family_place(const struct family *f, const struct config *c, const struct param *p, int i,
                  struct place *out);

#endif
