/* meter.h - clocks, rates, the progress line, and the last words of a run
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_METER_H
#define SSM_METER_H

#include <stdbool.h>
#include <stdint.h>

/* Seconds of a clock that only goes forward. */
double now_seconds(void);

/* Remembers the start time and the command line. */
void meter_start(int argc, char **argv);
/* The command line as one string (quoted where a shell would need it); owned here. */
const char *meter_command(void);
/* "2026-11-22T10:30:00Z host version: command": one line of a file's history. Free it. */
char *meter_history(void);
/* Peak resident memory of this process in bytes. */
int64_t meter_peak_memory(void);
/* One line on stderr (rank 0, unless quiet): version, time, CPU, peak memory, and `rate` (may be NULL). */
void meter_last_words(const char *rate);

/* A progress line with ETA: redrawn in place on a terminal at most 5 times a second, else one plain line
 * at most every `log_seconds`. */
struct progress {
    double start, last_draw, log_seconds;
    int64_t first, total;   /* where this run began; where it ends */
    bool tty, drawn;
};
void progress_begin(struct progress *p, int64_t first, int64_t total, double log_seconds);
/* `text` is the tool's own part, already formatted. Rank 0 only speaks. */
void progress_at(struct progress *p, int64_t done, const char *text);
/* Ends the line on a terminal, so that other messages start at a line's begin. */
void progress_end(struct progress *p);

/* "1h02m", "3m20s", "12s" into buf. Returns buf. */
char *format_duration(double seconds, char buf[32]);
/* "1.50 G" style with an SI prefix. Returns buf. */
char *format_si(double x, char buf[32]);

#endif
