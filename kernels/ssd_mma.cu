/* ssd_mma.cu - state-space duality: forward of BF16 on tensor cores
 * SPDX-License-Identifier: MIT
 *
 * The steps local and scan of ssd.cu, and before them the scores C B^T of every tile, which all heads of a
 * group share. A block has 64 rows (P) of the state of one head and goes through a chunk tile by tile; its
 * four warps have 16 rows each, as float accumulators in registers, which are at the same time the operand of
 * C S. For a tile of 64 tokens t
 *   y[t,p] = exp(cum[t]) (C S^T)[t,p] + (M X)[t,p] + D x[t,p]
 *   M      = scores * decay * dt, made by all warps together
 *   S      = exp(cum[last]) S + (X weighted)^T B
 * Tiles are copied in the background: X and C a tile ahead, B during C S.
 *
 * Traffic a token and head, P 64, N 128: x is read twice and y written, 384 bytes; states of a chunk of 256,
 * 4 times 64 bytes; from the L2 cache B twice, C and the scores once, 896 bytes. Where there are heads and
 * sequences enough to fill the device, scan goes through whole sequences, and x, B and the states are
 * accessed once.
 */
#include "ssd_mma.cuh"

/* ---- what a block works on ---- */

/* The job of a block: one head, 64 rows, one chunk, or from it on. */
struct job {
    int64_t b, c, h, row0;
    int rows; /* of the 64 that there are */
};

__device__ __forceinline__ struct job find_job(const struct ssd &a, int64_t chunks)
{
    int64_t slices = (a.P + SSD_ROWS - 1) / SSD_ROWS, i = blockIdx.x;
    struct job j;

    j.row0 = i % slices * SSD_ROWS;
    j.h = i / slices % a.H;
    j.c = i / slices / a.H % chunks;
    j.b = i / slices / a.H / chunks;
    j.rows = (int)(a.P - j.row0 < SSD_ROWS ? a.P - j.row0 : SSD_ROWS);
    return j;
}

/* What the 64 tokens of a tile bring, one a thread: read a tile ahead, then put into shared memory. */
struct steps {
    float cum, dt, last;   /* last: cum of the tile's last token */
    int begin, begin_last; /* of the document, relative to the tile */
};

__device__ __forceinline__ struct steps load_steps(const struct ssd &a, const struct ssd_plan &p,
                                                   const struct job &job, int64_t tile,
                                                   const struct ssd_tile &u)
{
    int64_t at = ((job.b * a.H + job.h) * p.tiles + tile) * SSD_TILE;
    int i = threadIdx.x % SSD_TILE;
    struct steps s;

    s.cum = p.cum[at + i];
    s.dt = p.dt[at + i];
    s.last = p.cum[at + SSD_TILE - 1];
    s.begin = i < u.n ? ssd_begin(a, job.b, u.t0 + i, u.t0) : SSD_TILE;
    s.begin_last = ssd_begin(a, job.b, u.t0 + u.n - 1, u.t0);
    return s;
}

/* Weight of the thread's token in the state that leaves the tile. */
__device__ __forceinline__ float tail_weight(const struct steps &s)
{
    return (int)(threadIdx.x % SSD_TILE) < s.begin_last ? 0.0f : s.dt * fast_exp2(s.last - s.cum);
}

__device__ __forceinline__ float tail_keep(const struct steps &s)
{
    return s.begin_last < 0 ? fast_exp2(s.last) : -1.0f;
}

/* ---- scores ---- */

/* C B^T of one tile and group, at and below the diagonal's blocks of 16: scores [B,G,tiles, 16, 32 lanes],
 * block 4i + k being tokens t 16i..16i+15, s 16k..16k+15 as operand A of a product. */
template <int N>
__global__ void __launch_bounds__(SSD_THREADS)
    ssd_scores_kernel(struct ssd a, struct ssd_plan p, uint4 *scores)
{
    DYNAMIC_SHARED(unsigned char, room);
    unsigned char *C = room, *B = room + SSD_TILE * N * 2;
    int64_t tile = blockIdx.x / a.G % p.tiles, g = blockIdx.x % a.G, b = blockIdx.x / a.G / p.tiles;
    struct ssd_tile u = ssd_find_tile(a, p, tile);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float acc[4][2][4] = {};

    if (u.n == 0)
        return;
    copy_tile<N>(C, (const bf16 *)a.Cm.data + (b * a.T + u.t0) * a.Cm.ld + g * a.N, a.Cm.ld, u.n, (int)a.N);
    copy_tile<N>(B, (const bf16 *)a.Bm.data + (b * a.T + u.t0) * a.Bm.ld + g * a.N, a.Bm.ld, u.n, (int)a.N);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    for (int n = 0; n < N / 16; n++) {
        uint32_t c[4], s[4];

        ldmatrix4(c, C + unit_at<N>(16 * warp + lane % 16, 2 * n + lane / 16));
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k <= warp) {
                ldmatrix4(s, B + unit_at<N>(16 * k + lane / 16 * 8 + lane % 8, 2 * n + lane / 8 % 2));
                mma_bf16(acc[k][0], c, s);
                mma_bf16(acc[k][1], c, s + 2);
            }
    }
    scores += (int64_t)blockIdx.x / (a.G * p.tiles) * (a.G * p.tiles * 512) + (g * p.tiles + tile) * 512;
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k <= warp)
            scores[(4 * warp + k) * 32 + lane] =
                make_uint4(pack2(acc[k][0][0], acc[k][0][1]), pack2(acc[k][0][2], acc[k][0][3]),
                           pack2(acc[k][1][0], acc[k][1][1]), pack2(acc[k][1][2], acc[k][1][3]));
}

/* ---- local ---- */

template <int N> struct local_room {
    unsigned char X[2][SSD_TILE * SSD_ROWS * 2], B[2][SSD_TILE * N * 2];
    float weight[2][SSD_TILE];
};

template <int N>
__global__ void __launch_bounds__(SSD_THREADS, N > 128 ? 2 : 4)
    ssd_local_kernel(struct ssd a, struct ssd_plan p, struct tensor states)
{
    DYNAMIC_SHARED(local_room<N>, r);
    struct job job = find_job(a, p.chunks);
    int64_t first = job.c * p.per, row = job.b * a.T;
    const bf16 *x = (const bf16 *)a.x.data + row * a.x.ld + job.h * a.P + job.row0;
    const bf16 *Bm = (const bf16 *)a.Bm.data + row * a.Bm.ld + job.h / p.rep * a.N;
    struct ssd_tile u = ssd_chunk_tile(a, job.c, 0);
    struct steps now = load_steps(a, p, job, first, u);
    float S[N / 8][4] = {};

    copy_tile<SSD_ROWS>(r->X[0], x + u.t0 * a.x.ld, a.x.ld, u.n, job.rows);
    copy_tile<N>(r->B[0], Bm + u.t0 * a.Bm.ld, a.Bm.ld, u.n, (int)a.N);
    copy_async_commit();
    for (int k = 0; u.n > 0; k++) {
        struct ssd_tile next = k + 1 < p.per ? ssd_chunk_tile(a, job.c, k + 1) : ssd_tile{ 0, 0 };
        float keep = tail_keep(now);

        if (threadIdx.x < SSD_TILE)
            r->weight[k & 1][threadIdx.x] = tail_weight(now);
        copy_async_wait<0>();
        __syncthreads(); /* this tile is there, and no warp is at the one before any more */
        if (next.n > 0) {
            copy_tile<SSD_ROWS>(r->X[~k & 1], x + next.t0 * a.x.ld, a.x.ld, next.n, job.rows);
            copy_tile<N>(r->B[~k & 1], Bm + next.t0 * a.Bm.ld, a.Bm.ld, next.n, (int)a.N);
            copy_async_commit();
            now = load_steps(a, p, job, first + k + 1, next);
        }
        add_tile<N>(S, r->X[k & 1], r->B[k & 1], r->weight[k & 1], keep);
        u = next;
    }
    store_state<N>(S, a, states, ((job.b * p.chunks + job.c) * a.H + job.h) * a.P + job.row0, job.rows);
}

/* ---- scan ---- */

/* The tile after tile k of chunk c, in the chunk or, WHOLE, in the sequence; n is 0 after the last. */
struct tile_step {
    int64_t c;
    int k;
    struct ssd_tile u;
};

template <bool WHOLE>
__device__ __forceinline__ struct tile_step next_tile(const struct ssd &a, const struct ssd_plan &p,
                                                      int64_t c, int k)
{
    struct tile_step s = { c, k + 1, { 0, 0 } };

    if (k + 1 < p.per)
        s.u = ssd_chunk_tile(a, c, k + 1);
    if (WHOLE && s.u.n == 0 && c + 1 < p.chunks)
        s = tile_step{ c + 1, 0, ssd_chunk_tile(a, c + 1, 0) };
    return s;
}

template <int N> struct scan_room {
    unsigned char X[2][SSD_TILE * SSD_ROWS * 2], C[2][SSD_TILE * N * 2], B[SSD_TILE * N * 2];
    uint4 M[16][32]; /* scores * decay * dt, blocks as in ssd_scores_kernel */
    float cum[2][SSD_TILE], dt[2][SSD_TILE], enter[2][SSD_TILE], weight[2][SSD_TILE];
    int begin[2][SSD_TILE];
};

/* y = enter[t] (C S^T)[t,p]; y[i][j][]: tokens 16i.., rows (P) 8j.. of the warp's 16, as accumulators. */
template <int N>
__device__ __forceinline__ void from_state(float y[4][2][4], const float S[N / 8][4], const unsigned char *C,
                                           const float *enter)
{
    int lane = threadIdx.x % 32, g = lane / 4;

#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        uint32_t c[4], s[4] = { pack2(S[2 * n][0], S[2 * n][1]), pack2(S[2 * n + 1][0], S[2 * n + 1][1]),
                                pack2(S[2 * n][2], S[2 * n][3]), pack2(S[2 * n + 1][2], S[2 * n + 1][3]) };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            ldmatrix4(c, C + unit_at<N>(16 * i + lane % 16, 2 * n + lane / 16));
            mma_bf16(y[i][0], c, s);
            mma_bf16(y[i][1], c, s + 2);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float lo = enter[16 * i + g], hi = enter[16 * i + g + 8];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            y[i][j][0] = lo < 0.0f ? 0.0f : lo * y[i][j][0];
            y[i][j][1] = lo < 0.0f ? 0.0f : lo * y[i][j][1];
            y[i][j][2] = hi < 0.0f ? 0.0f : hi * y[i][j][2];
            y[i][j][3] = hi < 0.0f ? 0.0f : hi * y[i][j][3];
        }
    }
}

/* One element of M. */
struct seer {
    float cum;
    int begin, t;
    __device__ __forceinline__ float operator()(float score, float cum_s, float dt_s, int s) const
    {
        return s <= t && s >= begin ? score * fast_exp2(cum - cum_s) * dt_s : 0.0f;
    }
};

/* Rows 16 part.. of M from their scores, in place. */
__device__ __forceinline__ void make_scores(uint4 (*M)[32], int part, const float *cum, const float *dt,
                                            const int *begin)
{
    int lane = threadIdx.x % 32, t0 = 16 * part + lane / 4;
    struct seer lo = { cum[t0], begin[t0], t0 }, hi = { cum[t0 + 8], begin[t0 + 8], t0 + 8 };

#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k <= part) {
            int s = 16 * k + 2 * (lane % 4);
            float2 c = *(const float2 *)(cum + s), d = *(const float2 *)(dt + s);
            float2 e = *(const float2 *)(cum + s + 8), f = *(const float2 *)(dt + s + 8);
            uint4 v = M[4 * part + k][lane];

            v.x = pack2(lo(unpack_lo(v.x), c.x, d.x, s), lo(unpack_hi(v.x), c.y, d.y, s + 1));
            v.y = pack2(hi(unpack_lo(v.y), c.x, d.x, s), hi(unpack_hi(v.y), c.y, d.y, s + 1));
            v.z = pack2(lo(unpack_lo(v.z), e.x, f.x, s + 8), lo(unpack_hi(v.z), e.y, f.y, s + 9));
            v.w = pack2(hi(unpack_lo(v.w), e.x, f.x, s + 8), hi(unpack_hi(v.w), e.y, f.y, s + 9));
            M[4 * part + k][lane] = v;
        }
}

/* y += M X + D x */
__device__ __forceinline__ void from_tile(float y[4][2][4], const uint4 (*M)[32], const unsigned char *X,
                                          float D)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t x[4];

        load_x(x, X, k);
        uint32_t lo[2] = { x[0], x[2] }, hi[2] = { x[1], x[3] };
#pragma unroll
        for (int i = k; i < 4; i++) {
            uint4 v = M[4 * i + k][lane];
            uint32_t m[4] = { v.x, v.y, v.z, v.w };
            mma_bf16(y[i][0], m, lo);
            mma_bf16(y[i][1], m, hi);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t x[4];

        ldmatrix4(x, X + unit_at<SSD_ROWS>(16 * i + lane % 16, 2 * warp + lane / 16));
#pragma unroll
        for (int q = 0; q < 4; q++) {
            y[i][q / 2][q % 2 * 2] += D * unpack_lo(x[q]);
            y[i][q / 2][q % 2 * 2 + 1] += D * unpack_hi(x[q]);
        }
    }
}

/* Writes the warp's 16 columns of y, `to` being that of the tile's first token and the block's first column.
 * */
__device__ __forceinline__ void store_y(const float y[4][2][4], bf16 *to, int64_t ld, int n, int rows)
{
    int lane = threadIdx.x % 32, t = lane % 4, token = lane / 4 + t % 2 * 8,
        col = threadIdx.x / 32 * 16 + t / 2 * 8;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t w[4] = { pack2(y[i][0][0], y[i][0][1]), pack2(y[i][0][2], y[i][0][3]),
                          pack2(y[i][1][0], y[i][1][1]), pack2(y[i][1][2], y[i][1][3]) };
        transpose4(w);
        if (16 * i + token < n && col < rows)
            *(uint4 *)(to + (16 * i + token) * ld + col) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* Blocks of a multiprocessor, by registers and shared memory. */
static constexpr int scan_blocks(int N) { return N > 128 ? 1 : N > 64 ? 3 : 4; }

/* y of a chunk, whose entering state is there; or WHOLE, of a sequence, with all entering states. */
template <int N, bool WHOLE>
__global__ void __launch_bounds__(SSD_THREADS, scan_blocks(N))
    ssd_scan_kernel(struct ssd a, struct ssd_plan p, struct tensor states, const uint4 *scores)
{
    DYNAMIC_SHARED(scan_room<N>, r);
    struct job job = find_job(a, WHOLE ? 1 : p.chunks);
    int64_t row = job.b * a.T, g = job.h / p.rep, head = (job.b * a.H + job.h) * a.P + job.row0;
    int64_t place = ((job.b * p.chunks + job.c) * a.H + job.h) * a.P + job.row0;
    const bf16 *x = (const bf16 *)a.x.data + row * a.x.ld + job.h * a.P + job.row0;
    const bf16 *Bm = (const bf16 *)a.Bm.data + row * a.Bm.ld + g * a.N,
               *Cm = (const bf16 *)a.Cm.data + row * a.Cm.ld + g * a.N;
    bf16 *y = (bf16 *)a.y.data + row * a.y.ld + job.h * a.P + job.row0;
    struct ssd_tile u = ssd_chunk_tile(a, job.c, 0);
    struct steps now = load_steps(a, p, job, job.c * p.per, u);
    int lane = threadIdx.x % 32,
        part = (threadIdx.x / 32 + job.h) % 4; /* of M: low parts are less work, so heads vary */
    bool leaves = WHOLE && a.hT.data;
    float S[N / 8][4] = {}, D = ((const float *)a.D.data)[job.h];

    copy_tile<SSD_ROWS>(r->X[0], x + u.t0 * a.x.ld, a.x.ld, u.n, job.rows);
    copy_tile<N>(r->C[0], Cm + u.t0 * a.Cm.ld, a.Cm.ld, u.n, (int)a.N);
    copy_async_commit();
    if (!WHOLE)
        load_state<N>(S, a, states, place, job.rows);
    else if (a.h0.data)
        load_state<N>(S, a, a.h0, head, job.rows);
    scores += (job.b * a.G + g) * p.tiles * 512 + 128 * part + lane;
    for (int k = 0, at = 0; u.n > 0; at = !at) {
        struct tile_step go = next_tile<WHOLE>(a, p, job.c, k);
        float keep = tail_keep(now), acc[4][2][4] = {};

        if (threadIdx.x < SSD_TILE) {
            r->cum[at][threadIdx.x] = now.cum;
            r->dt[at][threadIdx.x] = now.dt;
            r->begin[at][threadIdx.x] = now.begin;
            r->enter[at][threadIdx.x] = now.begin < 0 ? fast_exp2(now.cum) : -1.0f;
            r->weight[at][threadIdx.x] = tail_weight(now);
        }
        copy_async_wait<0>();
        __syncthreads(); /* X, C and the steps are there, and no warp is at the tile before any more */
        for (int i = 0; i <= part; i++) /* none but this thread reads them */
            copy_async16(&r->M[4 * part + i][lane], scores + (job.c * p.per + k) * 512 + 32 * i, true);
        copy_async_commit();
        if (go.u.n > 0 || leaves)
            copy_tile<N>(r->B, Bm + u.t0 * a.Bm.ld, a.Bm.ld, u.n, (int)a.N);
        copy_async_commit();
        if (go.u.n > 0) {
            copy_tile<SSD_ROWS>(r->X[!at], x + go.u.t0 * a.x.ld, a.x.ld, go.u.n, job.rows);
            copy_tile<N>(r->C[!at], Cm + go.u.t0 * a.Cm.ld, a.Cm.ld, go.u.n, (int)a.N);
            now = load_steps(a, p, job, go.c * p.per + go.k, go.u);
        }
        copy_async_commit();
        if (WHOLE && k == 0 && states.data)
            store_state<N>(S, a, states, place + job.c * a.H * a.P, job.rows);
        from_state<N>(acc, S, r->C[at], r->enter[at]);
        copy_async_wait<2>();
        make_scores(r->M, part, r->cum[at], r->dt[at], r->begin[at]);
        copy_async_wait<1>();
        __syncthreads(); /* M and B are there */
        from_tile(acc, r->M, r->X[at], D);
        store_y(acc, y + u.t0 * a.y.ld, a.y.ld, u.n, job.rows);
        if (go.u.n > 0 || leaves)
            add_tile<N>(S, r->X[at], r->B, r->weight[at], keep);
        u = go.u;
        job.c = go.c;
        k = go.k;
    }
    if (leaves)
        store_state<N>(S, a, a.hT, head, job.rows);
}

/* ---- launchers ---- */

bool ssd_mma_takes(const struct ssd *a, const struct tensor *states)
{
    const struct tensor *t[] = { &a->x, &a->Bm, &a->Cm, &a->y };

    for (int i = 0; i < 4; i++)
        if (t[i]->dtype != BF16 || !aligned_rows(t[i], 16))
            return false;
    return a->P % 8 == 0 && a->N % 8 == 0 && a->N <= 256 && aligned_rows(states, 16);
}

size_t ssd_mma_bytes(const struct ssd *a, const struct ssd_plan *p)
{
    return a->x.dtype == BF16 ? (size_t)(a->B * a->G * p->tiles) * 512 * sizeof(uint4) : 0;
}

/* Blocks that each take a head's rows over so many chunks. */
static int64_t jobs(const struct ssd *a, int64_t chunks)
{
    return a->B * chunks * a->H * ceil_div(a->P, SSD_ROWS);
}

/* Whether sequences as a whole fill the device well enough to go without local and passing. */
static bool whole(const struct ssd *a)
{
    int64_t blocks = jobs(a, 1), slots = (int64_t)cuda_processors() * scan_blocks(a->N <= 64    ? 64
                                                                                  : a->N <= 128 ? 128
                                                                                                : 256);

    return blocks * 4 >= round_up(blocks, slots) * 3 && (!a->h0.data || aligned_rows(&a->h0, 8)) &&
           (!a->hT.data || aligned_rows(&a->hT, 8));
}

template <int N>
static void forward(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states)
{
    uint4 *scores = (uint4 *)((uintptr_t)a->work + p->bytes);

    LAUNCH((ssd_scores_kernel<N>), (unsigned)(a->B * a->G * p->tiles), SSD_THREADS, SSD_TILE * N * 4, *a, *p,
           scores);
    if (whole(a)) {
        LAUNCH((ssd_scan_kernel<N, true>), (unsigned)jobs(a, 1), SSD_THREADS, sizeof(scan_room<N>), *a, *p,
               a->states, scores);
        return;
    }
    LAUNCH((ssd_local_kernel<N>), (unsigned)jobs(a, p->chunks), SSD_THREADS, sizeof(local_room<N>), *a, *p,
           *states);
    ssd_passing(a, p, states);
    LAUNCH((ssd_scan_kernel<N, false>), (unsigned)jobs(a, p->chunks), SSD_THREADS, sizeof(scan_room<N>), *a,
           *p, *states, scores);
}

void ssd_mma_forward(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states)
{
    (a->N <= 64 ? forward<64> : a->N <= 128 ? forward<128> : forward<256>)(a, p, states);
}
