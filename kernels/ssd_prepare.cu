/* ssd_prepare.cu - state-space duality: the steps dt and their running sums
 * SPDX-License-Identifier: MIT
 *
 * dt_raw is read as it lies, by token, and turned in shared memory, for everything later goes by head. 8
 * bytes are written for each element read; next to x and y this is nothing.
 */
#include "ssd.cuh"

#define HEADS 32
#define LOG2E 1.44269504088896341f

/* One tile of 32 heads of one sequence. */
template <class T> __global__ void __launch_bounds__(256) ssd_prepare_kernel(struct ssd a, struct ssd_plan p)
{
    __shared__ float steps[HEADS][SSD_TILE + 1];
    int64_t groups = (a.H + HEADS - 1) / HEADS, h0 = blockIdx.x % groups * HEADS,
            b = blockIdx.x / groups / p.tiles;
    int64_t tile = blockIdx.x / groups % p.tiles;
    struct ssd_tile u = ssd_find_tile(a, p, tile);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t h = h0 + lane;
    float lo = (float)a.dt_min, hi = (float)a.dt_max;

    for (int i = warp; i < SSD_TILE; i += 8) {
        float dt = 0.0f;

        if (i < u.n && h < a.H) {
            float raw = to_float(((const T *)a.dt_raw.data)[(b * a.T + u.t0 + i) * a.dt_raw.ld + h]);
            dt = ssd_clamp(softplus(raw + ((const float *)a.dt_bias.data)[h]), lo, hi);
        }
        steps[lane][i] = dt;
    }
    __syncthreads();
    for (int k = warp; k < HEADS && h0 + k < a.H; k += 8) {
        float A = -expf(((const float *)a.A_log.data)[h0 + k]) * LOG2E;
        float d0 = steps[k][2 * lane], d1 = steps[k][2 * lane + 1];
        float s0 = d0 * A, s1 = d1 * A, sum;
        int64_t at = ((b * a.H + h0 + k) * p.tiles + tile) * SSD_TILE + 2 * lane;

        s0 = s0 < SSD_GONE ? SSD_GONE : s0; /* NaN stays */
        s1 = s1 < SSD_GONE ? SSD_GONE : s1;
        sum = s0 + s1;
        for (int n = 1; n < 32; n *= 2) {
            float before = __shfl_up_sync(0xffffffffu, sum, n);
            sum = lane >= n ? before + sum : sum;
        }
        float before = __shfl_up_sync(0xffffffffu, sum, 1);
        before = lane > 0 ? before : 0.0f;
        *(float2 *)(p.dt + at) = make_float2(d0, d1);
        *(float2 *)(p.cum + at) = make_float2(before + s0, sum);
    }
}

void ssd_prepare(const struct ssd *a, const struct ssd_plan *p)
{
    int64_t blocks = a->B * p->tiles * ceil_div(a->H, HEADS);

    WITH_TYPE(a->dt_raw.dtype, T, LAUNCH((ssd_prepare_kernel<T>), (unsigned)blocks, 256, 0, *a, *p));
}
