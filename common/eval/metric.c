/* metric.c - figures of a task out of those of its documents, as lm-evaluation-harness computes them
 * SPDX-License-Identifier: MIT
 */
#include "metric.h"

#include <math.h>

#include "common/base/mem.h"
#include "space.h"

double metric_mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

static double sample_deviation(const double *x, size_t n)
{
    double mean = metric_mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sqrt(sum / (double)(n - 1));
}

double metric_mean_stderr(const double *x, size_t n) { return sample_deviation(x, n) / sqrt((double)n); }
double metric_perplexity(const double *x, size_t n) { return exp(-metric_mean(x, n)); }

/* ---- Python's random numbers: MT19937 (Matsumoto & Nishimura 1998), seeded by an array of one word ---- */

enum { MT_N = 624, MT_M = 397 };
struct mt {
    uint32_t s[MT_N];
    int at;
};

static void mt_seed(struct mt *m, uint32_t seed)
{
    m->s[0] = 19650218u;
    for (uint32_t i = 1; i < MT_N; i++)
        m->s[i] = 1812433253u * (m->s[i - 1] ^ (m->s[i - 1] >> 30)) + i;
    uint32_t i = 1;
    for (int k = 0; k < MT_N; k++) {
        m->s[i] = (m->s[i] ^ ((m->s[i - 1] ^ (m->s[i - 1] >> 30)) * 1664525u)) + seed;
        if (++i >= MT_N)
            m->s[0] = m->s[MT_N - 1], i = 1;
    }
    for (int k = 0; k < MT_N - 1; k++) {
        m->s[i] = (m->s[i] ^ ((m->s[i - 1] ^ (m->s[i - 1] >> 30)) * 1566083941u)) - i;
        if (++i >= MT_N)
            m->s[0] = m->s[MT_N - 1], i = 1;
    }
    m->s[0] = 0x80000000u;
    m->at = MT_N;
}

static uint32_t mt_next(struct mt *m)
{
    if (m->at == MT_N) {
        for (int k = 0; k < MT_N; k++) {
            uint32_t y = (m->s[k] & 0x80000000u) | (m->s[(k + 1) % MT_N] & 0x7fffffffu);
            m->s[k] = m->s[(k + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        m->at = 0;
    }
    uint32_t y = m->s[m->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* random.random(): 53 bits. */
static double mt_uniform(struct mt *m)
{
    uint32_t a = mt_next(m) >> 5, b = mt_next(m) >> 6;
    return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0);
}

double metric_perplexity_stderr(const double *x, size_t n, int64_t iters)
{
    int64_t chunk = iters < 1000 ? iters : 1000, chunks = iters / chunk;
    double *res = xcalloc((size_t)(chunks * chunk), sizeof *res);
#pragma omp parallel for schedule(dynamic)
    for (int64_t c = 0; c < chunks; c++) {
        struct mt m;
        mt_seed(&m, (uint32_t)c);
        for (int64_t i = 0; i < chunk; i++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += x[(size_t)(mt_uniform(&m) * (double)n)];
            res[c * chunk + i] = exp(-sum / (double)n);
        }
    }
    double e = sample_deviation(res, (size_t)(chunks * chunk));
    free(res);
    return e;
}

/* ---- texts ---- */

static bool between(char c, char lo, char hi) { return c >= lo && c <= hi; }
static char lower(char c) { return between(c, 'A', 'Z') ? (char)(c + 32) : c; }
/* string.punctuation of Python. */
static bool is_punctuation(char c)
{
    return between(c, '!', '/') || between(c, ':', '@') || between(c, '[', '`') || between(c, '{', '~');
}

static void normalise(const struct metric_match *m, const char *p, size_t n, struct buf *out)
{
    buf_add(out, "", 0);
    if (m->strip) {
        n = space_strip(p, n);
        for (size_t len; n > 0 && (len = space_at(p, n)) > 0;)
            p += len, n -= len;
    }
    for (size_t i = 0; i < n; i++) {
        char c = m->ignore_case ? lower(p[i]) : p[i];
        if ((m->ignore_punctuation && is_punctuation(c)) || (m->ignore_numbers && between(c, '0', '9')))
            continue;
        buf_add(out, &c, 1);
    }
}

bool metric_exact_match(const struct metric_match *m, const char *a, size_t na, const char *b, size_t nb)
{
    struct buf x = { 0 }, y = { 0 };
    normalise(m, a, na, &x);
    normalise(m, b, nb, &y);
    bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    buf_free(&x);
    buf_free(&y);
    return same;
}

bool metric_contains(const char *a, size_t na, const char *b, size_t nb)
{
    for (size_t i = 0; i + nb <= na; i++) {
        size_t k = 0;
        while (k < nb && lower(a[i + k]) == lower(b[k]))
            k++;
        if (k == nb)
            return true;
    }
    return false;
}

int64_t metric_words(const char *text, size_t n)
{
    int64_t words = 1;
    for (size_t i = 0; i < n;) {
        size_t len = space_at(text + i, n - i);
        words += len > 0;
        while (len > 0) {
            i += len;
            len = space_at(text + i, n - i);
        }
        i++;
    }
    return words;
}

int64_t metric_characters(const char *text, size_t n)
{
    int64_t c = 0;
    for (size_t i = 0; i < n; i++)
        c += ((unsigned char)text[i] & 0xc0) != 0x80;
    return c;
}
