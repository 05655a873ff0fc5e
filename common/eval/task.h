/* task.h - a task: documents out of a JSONL file, and what a model is asked about each of them
 * SPDX-License-Identifier: MIT
 *
 * The file's first line describes the task, every other line is a document. Keys of the first line, all but the second
 * optional:
 *   task              its name; default: the file's, without what follows the first dot
 *   output_type       loglikelihood, multiple_choice, generate_until or loglikelihood_rolling
 *   version           number or string, for the results
 *   num_fewshot       examples that the contexts hold, for the results
 *   metrics           list; see below for what there is. Default: all but those in brackets
 *   target_delimiter  stands between context and choice; default one blank
 *   until             list of stop strings
 *   max_gen_toks      tokens to generate at most; default 256
 *   ignore_case, ignore_punctuation, ignore_numbers, strip: what exact_match takes away (metric.h)
 *   config            an object, for the results
 * Keys of a document; others are allowed and go into the samples:
 *   loglikelihood          context, continuation                       perplexity, acc
 *   multiple_choice        context, choices, gold (an index, or a list of them); or contexts, one a choice, and the
 *                          continuation of them all                    acc, acc_norm, [acc_bytes], [exact_match]
 *   generate_until         context, target (a string, or a list)       exact_match, [contains_all], [contains_any]
 *   loglikelihood_rolling  text; words and bytes, if not its own       word_perplexity, byte_perplexity, bits_per_byte
 * These are what lm-evaluation-harness (0.4.13) makes of its tasks before it asks a model, and the metrics are its: acc_norm
 * divides by characters, acc_bytes by bytes; contains_all and contains_any are RULER's string_match_all (the share of targets
 * that stand in the answer) and string_match_part. pipelines/harness_export.py writes such files.
 */
#ifndef SSM_TASK_H
#define SSM_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/json.h"
#include "metric.h"

enum task_kind { TASK_LOGLIKELIHOOD, TASK_CHOICE, TASK_GENERATE, TASK_ROLLING, TASK_KINDS };

enum task_metric {
    METRIC_PERPLEXITY, METRIC_ACC, METRIC_ACC_NORM, METRIC_ACC_BYTES, METRIC_EXACT_MATCH, METRIC_CONTAINS_ALL,
    METRIC_CONTAINS_ANY, METRIC_WORD_PERPLEXITY, METRIC_BYTE_PERPLEXITY, METRIC_BITS_PER_BYTE, METRICS
};

struct text {
    const char *p;
    size_t n;
};

struct task_doc {
    struct json *root;
    char *where;            /* "FILE:LINE" */
    struct text context, continuation, text;
    struct text *contexts;  /* [n_contexts], or NULL */
    struct text *choices;   /* [n_choices] */
    struct text *targets;   /* [n_targets] */
    size_t n_contexts, n_choices, n_targets, n_gold;
    int64_t *gold;          /* [n_gold] */
    int64_t words, bytes;
};

struct task {
    char *name;
    const char *path;
    enum task_kind kind;
    struct json *head;      /* the first line */
    int64_t fewshot, max_gen_toks;
    struct text delimiter;
    const char **until;     /* [n_until] */
    size_t n_until;
    bool wanted[METRICS];
    struct metric_match match;
    struct task_doc *doc;   /* [n] */
    size_t n, total;        /* read; in the file */
    uint64_t hash;          /* of the file */
};

const char *task_kind_name(enum task_kind k);
const char *task_metric_name(enum task_metric m);
bool task_metric_higher_is_better(enum task_metric m);

/* The first `limit` documents of a file (0: all; the others are checked too). Dies with "FILE:LINE: reason". */
struct task *task_read(const char *path, int64_t limit);
void task_free(struct task *t);

/* Requests for log-likelihoods that a document makes: 1, or one a choice; generate_until: 0. */
size_t task_requests(const struct task *t, const struct task_doc *d);
/* Context and continuation of request i. */
void task_request(const struct task *t, const struct task_doc *d, size_t i, struct text *context,
                  struct text *continuation);
/* A document's figure for a metric, out of its requests' log-likelihoods and whether each was greedy, or the text
 * generated. Of perplexities that is the log-likelihood: task_weight() is its weight. */
double task_score(const struct task *t, const struct task_doc *d, enum task_metric m, const double *ll,
                  const bool *greedy, struct text answer);
double task_weight(const struct task_doc *d, enum task_metric m);

#endif
