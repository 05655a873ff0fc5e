/* metric.h - figures of a task out of those of its documents, as lm-evaluation-harness computes them
 * SPDX-License-Identifier: MIT
 *
 * Formulas: lm_eval/api/metrics.py (version 0.4.13).
 */
#ifndef SSM_METRIC_H
#define SSM_METRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

double metric_mean(const double *x, size_t n);
/* Of the mean: sample deviation over sqrt(n). n >= 2. */
double metric_mean_stderr(const double *x, size_t n);
/* exp(-mean) of log-likelihoods. */
double metric_perplexity(const double *x, size_t n);
/* Of the perplexity, by `iters` resamplings in chunks of 1000, the k-th drawn by Python's Random(k).choices(): the same
 * figure as the harness, to rounding. n >= 2, iters >= 2. */
double metric_perplexity_stderr(const double *x, size_t n, int64_t iters);

/* exact_match's options: what is taken away from both texts before they are compared. Letters and digits of ASCII. */
struct metric_match {
    bool ignore_case, ignore_punctuation, ignore_numbers;
    bool strip;     /* white space at both ends (ours) */
};
bool metric_exact_match(const struct metric_match *m, const char *a, size_t na, const char *b, size_t nb);
/* RULER's string match: b is somewhere in a, letters of ASCII in any case. */
bool metric_contains(const char *a, size_t na, const char *b, size_t nb);
/* Words as the harness counts them for word_perplexity: pieces between white space (Python's \s), empty ones at the ends
 * included. Characters (code points) of UTF-8. */
int64_t metric_words(const char *text, size_t n);
int64_t metric_characters(const char *text, size_t n);

#endif
