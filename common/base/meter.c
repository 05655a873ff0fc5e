/* meter.c - clocks, rates, the progress line, and the last words of a run
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "meter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "err.h"
#include "mem.h"
#include "version.h"

static double started;
static struct buf command_line;

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool needs_quotes(const char *s)
{
    return !*s || s[strcspn(s, " \t\n'\"\\$`*?[]|&;<>(){}~#!")];
}

void meter_start(int argc, char **argv)
{
    started = now_seconds();
    buf_clear(&command_line);
    for (int i = 0; i < argc; i++) {
        buf_addf(&command_line, "%s", i ? " " : "");
        if (!needs_quotes(argv[i])) {
            buf_addf(&command_line, "%s", argv[i]);
            continue;
        }
        buf_add(&command_line, "'", 1);
        for (const char *c = argv[i]; *c; c++)
            buf_addf(&command_line, *c == '\'' ? "'\\''" : "%c", *c);
        buf_add(&command_line, "'", 1);
    }
}

const char *meter_command(void) { return command_line.data ? command_line.data : err_program(); }

char *meter_history(void)
{
    char host[64] = "?", when[32];
    time_t t = time(NULL);
    struct tm tm;
    gethostname(host, sizeof host - 1);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    return xasprintf("%s %s %s: %s", when, host, SSM_VERSION, meter_command());
}

int64_t meter_peak_memory(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)u.ru_maxrss * 1024;
}

void meter_last_words(const char *rate)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
                 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    char mem[32];
    note(1, "done: version %s, time %.1f s, cpu %.1f s, peak memory %sB%s%s", SSM_VERSION,
         now_seconds() - started, cpu, format_si((double)meter_peak_memory(), mem), rate ? ", " : "",
         rate ? rate : "");
}

char *format_duration(double seconds, char buf[32])
{
    if (!(seconds < 3.2e9)) {
        snprintf(buf, 32, "?");
        return buf;
    }
    long s = lround(seconds);
    if (s >= 3600)
        snprintf(buf, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(buf, 32, "%ldm%02lds", s / 60, s % 60);
    else
        snprintf(buf, 32, "%lds", s);
    return buf;
}

char *format_si(double x, char buf[32])
{
    static const char prefix[] = " kMGTPE";
    int i = 0;
    while (fabs(x) >= 999.5 && i < 6) {
        x /= 1000;
        i++;
    }
    snprintf(buf, 32, i ? "%.3g %c" : "%.3g ", x, prefix[i]);
    return buf;
}

void progress_begin(struct progress *p, int64_t first, int64_t total, double log_seconds)
{
    double t = now_seconds();
    *p = (struct progress){ .start = t, .last_draw = -1e9, .log_seconds = log_seconds, .first = first,
                            .total = total, .tty = isatty(STDERR_FILENO) };
}

void progress_at(struct progress *p, int64_t done, const char *text)
{
    double t = now_seconds();
    bool last = done >= p->total;
    if (err_rank() != 0 || err_verbosity() < 1 || (!last && t - p->last_draw < (p->tty ? 0.2 : p->log_seconds)))
        return;
    p->last_draw = t;
    double share = p->total > 0 ? (double)done / (double)p->total : 1;
    double left = done > p->first ? (t - p->start) / (double)(done - p->first) * (double)(p->total - done) : INFINITY;
    char eta[32];
    format_duration(left, eta);
    if (!p->tty) {
        note(1, "%3.0f%% %lld/%lld  %s  eta %s", 100 * share, (long long)done, (long long)p->total, text, eta);
        return;
    }
    char bar[21];
    for (int i = 0; i < 20; i++)
        bar[i] = i < (int)(share * 20) ? '#' : '.';
    bar[20] = '\0';
    fprintf(stderr, "\r\033[K[%s] %3.0f%% %lld/%lld  %s  eta %s", bar, 100 * share, (long long)done,
            (long long)p->total, text, eta);
    p->drawn = true;
}

void progress_end(struct progress *p)
{
    if (p->drawn)
        fputc('\n', stderr);
    p->drawn = false;
}
