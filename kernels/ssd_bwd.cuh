/* ssd_bwd.cuh - state-space duality, backward on the device: what its kernels share
 * SPDX-License-Identifier: MIT
 *
 * The formulas stand at the top of ssd_tile.h. Tokens are taken in spans of whole chunks, from the last span
 * to the first, so that `work` is bounded for any T; in a span all tiles of SSD_TILE tokens are worked on at
 * once:
 *   prepare  per head and tile a record: dt, its running sum, the decays, d dt / d dt_raw
 *   walk     the states that enter the tiles, made again from the saved ones, chunk by chunk; and dS, the
 *            gradients of the states that leave the tiles, from right to left through the whole span
 *   tiles    per tile and slice of a group's heads: dx, the slice's part of dB and dC, and sums over P and N,
 *            by token, of which d(dt a) is made
 *   finish   running sums over the tile's tokens: ddt_raw, and the tile's part of ddt_bias, dA_log, dD
 *   reduce   dB and dC over the slices; the tiles' parts over tokens. In fixed order, without atomics.
 * walk and tiles are there twice: for tensor cores (ssd_bwd_walk.cuh, ssd_bwd_mma.cuh), and plain
 * (ssd_bwd_plain.cuh), for floats and odd shapes.
 */
#ifndef SSM_SSD_BWD_CUH
#define SSM_SSD_BWD_CUH

#include "ssd.cuh"

namespace {

/* A record is RECORD arrays of SSD_TILE floats. CUM + LOW is the running sum of dt a, natural, in two floats.
 * IN[t] is what token t sees of the state that enters, TAIL[s] what the state that leaves has of token s.
 * Beyond the tile's last token DT, SLOPE and TAIL are 0, the others stay as they are. */
enum { DT, CUM, LOW, SLOPE, IN, TAIL, RECORD };
/* What the tiles' kernel leaves in the record for `finish`, in place of what is no longer needed:
 *   DECAY  d(dt a)[j] is the sum of DECAY[t], t >= j, and of PAST[s], s < j (plain: DECAY[j] itself)
 *   DIRECT gradient of dt but for what goes through dt a
 *   SKIP   dy . x, the part of dD */
enum { DECAY = CUM, PAST = LOW, DIRECT = IN, SKIP = TAIL };

struct ssd_bwd {
    struct ssd a;
    struct ssd_plan p;
    bool mma;             /* which kernels */
    int64_t span;         /* chunks of a span */
    int64_t first, tiles; /* the span at hand: its first tile, its tiles of each sequence */
    int64_t slices, heads; /* pieces of a group's heads; heads of a piece (the last: maybe fewer) */
    float *record;  /* [B,tiles,H, RECORD,SSD_TILE] */
    void *S, *dS;   /* [B,tiles,H, P,N], BF16 or, plain, F32 */
    float *carry;   /* [B,H,P,N] dS between two spans */
    float *dB, *dC; /* [slices,B,tiles,SSD_TILE,G*N] */
    float *sums;    /* [B,tiles,H,3]: dA_log, ddt_bias, dD */
};

__device__ __forceinline__ float *ssd_record(const struct ssd_bwd &c, int64_t b, int64_t k, int64_t h)
{
    return c.record + ((b * c.tiles + k) * c.a.H + h) * (RECORD * SSD_TILE);
}

/* First of the tile's tokens that token t of the tile may see; beyond the last token none. */
__device__ __forceinline__ int ssd_sees_from(const struct ssd_bwd &c, int64_t b, const struct ssd_tile &u,
                                             int t)
{
    return t < u.n ? max(0, ssd_begin(c.a, b, u.t0 + t, u.t0)) : SSD_TILE;
}

/* An element of a state, which is F32 or BF16, or absent: zero. */
__device__ __forceinline__ float ssd_state_at(const struct tensor &t, int64_t row, int64_t col)
{
    if (!t.data)
        return 0.0f;
    return t.dtype == BF16 ? to_float(((const bf16 *)t.data)[row * t.ld + col])
                           : ((const float *)t.data)[row * t.ld + col];
}

}

#endif
