/* ssd.cuh - state-space duality on the device: what forward and backward share
 * SPDX-License-Identifier: MIT
 *
 * The formulas stand at the top of ssd_tile.h. As on the CPU a chunk of Q tokens is cut into tiles of
 * SSD_TILE (the last of a chunk may be shorter), and `cum` begins anew in every tile. It is kept in powers of
 * two (times log2 e), so that exp2 of a difference is the decay. A step that leaves nothing, not even a
 * denormal number, counts as SSD_GONE: so sums stay small enough for their differences to be good, and are
 * never infinite.
 */
#ifndef SSM_SSD_CUH
#define SSM_SSD_CUH

#include "device.cuh"

#define SSD_TILE 64
#define SSD_GONE (-160.0f)

/* Sizes, and the parts of `work` that ssd_prepare fills. */
struct ssd_plan {
    int64_t rep;         /* heads of a group */
    int64_t chunks, per; /* chunks of a sequence; tiles of a chunk */
    int64_t tiles;       /* tiles of a sequence, chunks * per; those beyond a chunk's end are empty */
    float *dt, *cum;     /* [B,H,tiles,SSD_TILE]; after the last token dt is 0 and cum stays, to rounding */
    size_t bytes;        /* of `work` that these take, a multiple of 256; the pass's own parts follow */
};

static inline struct ssd_plan ssd_make_plan(const struct ssd *a)
{
    struct ssd_plan p;
    size_t size;

    p.rep = a->H / a->G;
    p.chunks = ceil_div(a->T, a->Q);
    p.per = ceil_div(a->Q < a->T ? a->Q : a->T, SSD_TILE);
    p.tiles = p.chunks * p.per;
    size = (size_t)(a->B * a->H * p.tiles * SSD_TILE) * sizeof(float);
    p.dt = (float *)a->work;
    p.cum = (float *)((uintptr_t)a->work + size);
    p.bytes = 2 * size;
    return p;
}

/* Where a tile lies, tile k of chunk c or `tile` of the sequence: tokens t0 .. t0+n-1 (n may be 0). */
struct ssd_tile {
    int64_t t0;
    int n;
};

__device__ __forceinline__ struct ssd_tile ssd_chunk_tile(const struct ssd &a, int64_t c, int k)
{
    int64_t first = c * a.Q, t0 = first + k * SSD_TILE, end = first + a.Q;
    struct ssd_tile u;

    end = end < a.T ? end : a.T;
    u.t0 = t0;
    u.n = end <= t0 ? 0 : end - t0 < SSD_TILE ? (int)(end - t0) : SSD_TILE;
    return u;
}

__device__ __forceinline__ struct ssd_tile ssd_find_tile(const struct ssd &a, const struct ssd_plan &p,
                                                         int64_t tile)
{
    unsigned k = (unsigned)tile, per = (unsigned)p.per; /* a division of 64 bits takes long */
    return ssd_chunk_tile(a, k / per, (int)(k % per));
}

/* The position at which a token's document begins, relative to t0. */
__device__ __forceinline__ int ssd_begin(const struct ssd &a, int64_t b, int64_t t, int64_t t0)
{
    return a.start ? (int)(a.start[b * a.T + t] - t0) : -1;
}

__device__ __forceinline__ float ssd_clamp(float v, float lo, float hi)
{
    v = v < lo ? lo : v; /* NaN stays */
    return v > hi ? hi : v;
}

/* An element of the chunks' states, which are F32 or BF16. */
__device__ __forceinline__ float ssd_load_state(const struct tensor &s, int64_t row, int64_t col)
{
    return s.dtype == F32 ? ((const float *)s.data)[row * s.ld + col]
                          : to_float(((const bf16 *)s.data)[row * s.ld + col]);
}

__device__ __forceinline__ void ssd_store_state(const struct tensor &s, int64_t row, int64_t col, float v)
{
    if (s.dtype == F32)
        ((float *)s.data)[row * s.ld + col] = v;
    else
        ((bf16 *)s.data)[row * s.ld + col] = from_float<bf16>(v);
}

/* Fills dt and cum. */
void ssd_prepare(const struct ssd *a, const struct ssd_plan *p);
/* Forward on tensor cores (ssd_mma.cu): whether it takes the case, its bytes of `work` (after the plan's),
 * the pass. */
bool ssd_mma_takes(const struct ssd *a, const struct tensor *states);
size_t ssd_mma_bytes(const struct ssd *a, const struct ssd_plan *p);
void ssd_mma_forward(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states);
/* From what the chunks leave, in `states`, to what enters them; and hT. */
void ssd_passing(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states);
/* Bytes of work that the backward pass takes. */
size_t ssd_bwd_work(const struct ssd *a);

#endif
