/* cpu.c - the CPU backend's table and its memory functions
 * SPDX-License-Identifier: MIT
 *
 * Compiled once per instruction set with the rest of the kernels: CPU_TABLE names the table of this
 * variant and CPU_VARIANT says which it is. Host memory is the device memory.
 */
#include <string.h>
#include <time.h>

#include "cpu.h"

#ifndef CPU_TABLE
#define CPU_TABLE backend_cpu_generic
#define CPU_VARIANT "generic"
#endif

static void *mem_alloc(size_t bytes)
{
    size_t whole = (bytes + 63) / 64 * 64;
    void *p;

    if (whole < bytes)
        return NULL;
    p = aligned_alloc(64, whole ? whole : 64);
    if (p)
        memset(p, 0, whole);
    return p;
}

static void mem_copy(void *dst, const void *src, size_t bytes)
{
    if (bytes)
        memmove(dst, src, bytes);
}

static void mem_zero(void *p, size_t bytes)
{
    if (bytes)
        memset(p, 0, bytes);
}

static char asked[ASK_MOST];
static size_t asked_bytes;

static void ask(const void *dev, size_t bytes)
{
    if (bytes > sizeof asked)
        cpu_fault("ask", "bytes", "is more than ASK_MOST");
    memcpy(asked, dev, asked_bytes = bytes);
}

static void answer(void *host) { memcpy(host, asked, asked_bytes); }

static const char *mem_sync(void) { return NULL; }
static void join_downloads(void) {}

static void info(struct device_info *d)
{
    *d = (struct device_info){ .memory_total = 0 };
    snprintf(d->name, sizeof d->name, "CPU, %s", CPU_VARIANT);
}

#define MARKS 4096
static double marks[OWN_MARKS + MARKS];
static unsigned marked;

static int mark(int own)
{
    struct timespec t;
    int i = own >= 0 ? own : OWN_MARKS + (int)(marked++ % MARKS);

    clock_gettime(CLOCK_MONOTONIC, &t);
    marks[i] = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    return i;
}

static double between(int from, int to) { return marks[to] - marks[from]; }

static void cpu_cast(const struct cast *a)
{
    CPU_NEED("cast", a, x);
    CPU_NEED("cast", a, y);
    for (int64_t m = 0; m < a->M; m++)
        memmove(cpu_row(&a->y, m), cpu_row(&a->x, m), (size_t)a->D * sizeof(float));
}

extern const struct backend CPU_TABLE;

const struct backend CPU_TABLE = {
    .version = BACKEND_VERSION,
    .name = "cpu",
    .variant = CPU_VARIANT,
    .dtypes = 1 << F32,
    .alloc = mem_alloc,
    .free = free,
    .upload = mem_copy,
    .download = mem_copy,
    .ask = ask,
    .answer = answer,
    .host_alloc = malloc,
    .host_free = free,
    .download_beside = mem_copy,
    .join_downloads = join_downloads,
    .wait_downloads = mem_sync,
    .copy = mem_copy,
    .zero = mem_zero,
    .fault = mem_sync,
    .sync = mem_sync,
    .info = info,
    .mark = mark,
    .between = between,
    .matmul = cpu_matmul,
    .colsum_work = cpu_colsum_work,
    .colsum = cpu_colsum,
    .embed_work = cpu_embed_work,
    .embed_fwd = cpu_embed_fwd,
    .embed_bwd = cpu_embed_bwd,
    .norm_work = cpu_norm_work,
    .norm_fwd = cpu_norm_fwd,
    .norm_bwd = cpu_norm_bwd,
    .gatednorm_work = cpu_gatednorm_work,
    .gatednorm_fwd = cpu_gatednorm_fwd,
    .gatednorm_bwd = cpu_gatednorm_bwd,
    .conv1d_work = cpu_conv1d_work,
    .conv1d_fwd = cpu_conv1d_fwd,
    .conv1d_bwd = cpu_conv1d_bwd,
    .conv1d_step = cpu_conv1d_step,
    .ssd_work = cpu_ssd_work,
    .ssd_fwd = cpu_ssd_fwd,
    .ssd_bwd = cpu_ssd_bwd,
    .ssd_step = cpu_ssd_step,
    .rglru_work = cpu_rglru_work,
    .rglru_fwd = cpu_rglru_fwd,
    .rglru_bwd = cpu_rglru_bwd,
    .rglru_step = cpu_rglru_step,
    .rope = cpu_rope,
    .scan_work = cpu_scan_work,
    .scan_fwd = cpu_scan_fwd,
    .scan_bwd = cpu_scan_bwd,
    .scan_step = cpu_scan_step,
    .attn_work = cpu_attn_work,
    .attn_fwd = cpu_attn_fwd,
    .attn_bwd = cpu_attn_bwd,
    .attn_step = cpu_attn_step,
    .act_fwd = cpu_act_fwd,
    .act_bwd = cpu_act_bwd,
    .xent_work = cpu_xent_work,
    .xent = cpu_xent,
    .cast = cpu_cast,
    .total = cpu_total,
    .judge = cpu_judge,
    .adamw = cpu_adamw,
};
