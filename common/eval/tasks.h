/* tasks.h - runs tasks with a model: figures, the harness' results file, samples
 * SPDX-License-Identifier: MIT
 *
 * The results file has the schema of lm-evaluation-harness 0.4 (lm_eval/result_schema.py): results{task: {"acc,none",
 * "acc_stderr,none", ...}}, group_subtasks, configs, versions, n-shot, higher_is_better, n-samples, config, ... Samples
 * are its samples_TASK.jsonl, without the hashes.
 */
#ifndef SSM_TASKS_H
#define SSM_TASKS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dist/comm.h"
#include "common/model/net.h"
#include "common/text/tokenizer.h"

struct tasks_options {
    const char *model;      /* as the results call it */
    int64_t batch;          /* requests, or texts, at a time */
    int64_t seq_len;        /* tokens that a request may have; more are cut off on the left */
    int64_t limit;          /* documents of a task; 0: all */
    int64_t bootstrap;      /* resamplings for errors that have no formula; 0: no errors at all */
    bool bos;               /* the token that ends documents stands before every text */
    const char *output;     /* folder of results.json and samples_TASK.jsonl, or NULL */
    bool log_samples, force;
};

/* Collective. Runs the tasks of the files; rank 0 prints a line a metric. Returns the number of requests. */
int64_t tasks_run(struct comm *comm, struct net *n, const struct tokenizer *t, const struct tasks_options *o,
                  char *const *paths, int n_paths);

#endif
