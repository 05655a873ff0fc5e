/* conv1d.cu - causal depthwise convolution along the sequence
 * SPDX-License-Identifier: MIT
 *
 * The formulas are conv1d.c's. A thread has N neighbouring channels and walks down a stretch of one sequence;
 * the W-1 inputs before the token stand in registers, so that x is read once (but for W-1 tokens where
 * stretches meet, which are in the cache). A block is 32 threads along the channels by 4 stretches. Tokens
 * are worked at in groups, unrolled, while the next group comes into a ring in shared memory, of which each
 * thread has its own part. A group whose tokens have all taps looks at neither documents nor halo. Backward
 * makes g = dy act'(...) once per token and adds it to the W unfinished dx that it reaches, also in
 * registers; it walks W-1 tokens beyond the stretch, whose g reach back into it. Sums for dw and dbias stand
 * in registers, are added over the block and written to work, and cuda_add_parts adds them up. There are some
 * times as many stretches as run at once, that the multiprocessors end together; backward, which pays for each
 * stretch, takes as few as keep them busy.
 *
 * W = 4 has kernels of its own; other widths go through those of 8 taps, of which some do not exist.
 */
#include "rows.cuh"

namespace {

/* _RESIDENT: blocks that a multiprocessor has at once; _WAVES: times as many are asked for (at most, backward). */
enum { STRETCHES = 4, FWD_RESIDENT = 6, FWD_WAVES = 6, BWD_RESIDENT = 3, BWD_WAVES = 2 };
enum { LEAST = 16, MOST_GROUPS = 64, MAXW = 8 };

/* Tokens that are worked at between two looks at what is under way. */
template <class T> constexpr int GROUP = 16 / sizeof(T);

/* How the tokens are cut: `per` stretches of `length` tokens (whole groups) for each sequence, `columns`
 * blocks along the channels. */
struct cut {
    int64_t per, length, columns;
};

/* Where a thread works: `tokens` tokens of sequence b from t0, channels from c. */
struct place {
    int64_t b, t0, c;
    int tokens;
    bool valid;
};

__device__ __forceinline__ struct place place_of(const struct conv1d &a, const struct cut &cut, int n)
{
    struct place p;
    int64_t s = blockIdx.x / cut.columns * STRETCHES + threadIdx.y;
    p.b = s / cut.per;
    p.t0 = s % cut.per * cut.length;
    p.tokens = (int)(p.t0 + cut.length < a.T ? cut.length : a.T - p.t0);
    p.c = (blockIdx.x % cut.columns * 32 + threadIdx.x) * n;
    p.valid = p.b < a.B && p.t0 < a.T && p.c < a.C;
    return p;
}

/* The input at token t >= -(W-1), which may lie before the row. */
template <class T, int N>
__device__ __forceinline__ void input(const struct conv1d &a, float (&x)[N], int64_t b, int64_t t, int64_t c)
{
    int64_t before = a.W - 1 + t; /* the row of the halo */
    if (t >= 0)
        read_floats(x, (const T *)a.x.data + (b * a.T + t) * a.x.ld + c);
    else if (a.halo.data && before >= 0)
        read_floats(x, (const float *)a.halo.data + (b * (a.W - 1) + before) * a.halo.ld + c);
    else
        for (int k = 0; k < N; k++)
            x[k] = 0.0f;
}

/* How many taps of token t lie in its document and in known inputs. */
__device__ __forceinline__ int taps(const struct conv1d &a, int64_t b, int64_t t)
{
    int64_t first = a.start ? a.start[b * a.T + t] : t - MAXW;
    if (!a.halo.data && first < 0)
        first = 0;
    return (int)(t - first + 1 < a.W ? t - first + 1 : a.W);
}

/* What a thread knows of its channels: the taps, that of the current token first, and the bias. */
template <int N, int W> struct filter {
    float w[W][N], bias[N];

    __device__ __forceinline__ void load(const struct conv1d &a, int64_t c)
    {
        for (int k = 0; k < N; k++) {
            const float *row = (const float *)a.w.data + (c + k) * a.w.ld;
            if constexpr (W == 4 && N > 1) {
                pack<float, 4> all = load_pack<float, 4>(row);
                for (int j = 0; j < W; j++)
                    w[j][k] = all.v[W - 1 - j];
            } else {
                for (int j = 0; j < W; j++)
                    w[j][k] = j < a.W ? row[a.W - 1 - j] : 0.0f;
            }
            bias[k] = a.bias.data ? ((const float *)a.bias.data)[c + k] : 0.0f;
        }
    }
    /* bias + sum over the first `taps` taps of the token that is number `now` of x */
    template <int L>
    __device__ __forceinline__ void apply(float (&y)[N], const float (&x)[L][N], int now, int taps) const
    {
        for (int k = 0; k < N; k++)
            y[k] = bias[k];
        if (taps == W) {
            for (int j = W - 1; j >= 0; j--)
                for (int k = 0; k < N; k++)
                    y[k] = fmaf(w[j][k], x[now - j][k], y[k]);
        } else {
            for (int j = W - 1; j >= 0; j--)
                if (j < taps)
                    for (int k = 0; k < N; k++)
                        y[k] = fmaf(w[j][k], x[now - j][k], y[k]);
        }
    }
};

/* In which groups of a stretch each token has all taps: a bit each. A stretch is a warp's, whose threads ask together. */
template <class T, int W> __device__ __forceinline__ uint64_t full_groups(const struct conv1d &a, const struct place &p)
{
    uint64_t full = 0;
    for (int half = 0; half < MOST_GROUPS; half += 32) {
        int at = (half + (int)threadIdx.x) * GROUP<T>;
        int64_t t = p.t0 + at;
        bool is = W == 4 && a.W == W && p.b < a.B && at + GROUP<T> <= p.tokens && t >= W - 1;
        if (is && a.start) /* the last token begins no document in the group if none of them does */
            is = a.start[p.b * a.T + t + GROUP<T> - 1] <= t - (W - 1);
        full |= (uint64_t)__ballot_sync(0xffffffffu, is) << half;
    }
    return full;
}

/* The group that is worked at and the one that is under way, of `TENSORS` inputs. Each thread brings and reads its own channels. */
template <class T, int N, int TENSORS> struct ring {
    static constexpr int TOKENS = GROUP<T>, BYTES = sizeof(T) * N, STEP = BYTES * 32 * STRETCHES;
    struct alignas(16) space {
        char room[2 * TOKENS * TENSORS * STEP];
    };
    shared_place mine;

    __device__ __forceinline__ ring(space &s) : mine(shared_place_of(s.room + (threadIdx.y * 32 + threadIdx.x) * BYTES)) {}
    /* This thread's part of the group that begins with `token`. */
    __device__ __forceinline__ shared_place at(int token) const
    {
        return mine + token / TOKENS % 2 * (TOKENS * TENSORS * STEP);
    }
    /* Reads token i of such a group, of one of several tensors. */
    __device__ __forceinline__ static void get(float (&to)[N], shared_place group, int i, int tensor)
    {
        elements<T, N> e;
        read_shared(e, group + (i * TENSORS + tensor) * STEP);
        e.get(to);
    }
    /* Begins to bring one tensor's tokens of a group, of `known` tokens in all; rows: from the group's first token on, becomes the
     * next group's. */
    __device__ __forceinline__ void bring(int token, int tensor, int known, const T *&rows, int64_t ld) const
    {
        shared_place to = at(token);
        if (token + TOKENS <= known) {
            UNROLL
            for (int i = 0; i < TOKENS; i++, rows += ld)
                copy_async_to<BYTES>(to + (i * TENSORS + tensor) * STEP, rows);
        } else {
#pragma unroll 1
            for (int i = 0; i < TOKENS && token + i < known; i++, rows += ld)
                copy_async_to<BYTES>(to + (i * TENSORS + tensor) * STEP, rows);
        }
    }
};

/* The last W-1 of n become the first. */
template <int W, int L, int N> __device__ __forceinline__ void move_on(float (&x)[L][N])
{
    for (int j = 0; j < W - 1; j++)
        for (int k = 0; k < N; k++)
            x[j][k] = x[L - (W - 1) + j][k];
}

/* Tokens t0 + at ... of a stretch; out: the first one's row; x: the inputs since W-1 tokens before. FULL:
 * all tokens are there with all taps. */
template <bool FULL, bool SILU, class T, int N, int W>
__device__ __forceinline__ void fwd_group(const struct conv1d &a, const struct place &p,
                                          const struct filter<N, W> &f, int at, const ring<T, N, 1> &ring,
                                          T *&out, float (&x)[W - 1 + GROUP<T>][N])
{
    shared_place held = ring.at(at);
    UNROLL
    for (int i = 0; i < GROUP<T>; i++, out += a.y.ld) {
        float y[N];
        if (!FULL && at + i >= p.tokens)
            break;
        ring.get(x[W - 1 + i], held, i, 0);
        f.apply(y, x, W - 1 + i, FULL ? W : taps(a, p.b, p.t0 + at + i));
        if (SILU)
            for (int k = 0; k < N; k++)
                y[k] *= sigmoid(y[k]);
        write_floats(out, y);
    }
    move_on<W>(x);
}

template <class T, int N, int W, bool SILU>
__global__ void __launch_bounds__(32 * STRETCHES, N * W == 16 ? FWD_RESIDENT : 4)
    conv1d_fwd_kernel(struct conv1d a, struct cut cut)
{
    __shared__ typename ring<T, N, 1>::space space;
    const ring<T, N, 1> ring(space);
    struct place p = place_of(a, cut, N);
    uint64_t full = full_groups<T, W>(a, p);
    const T *in = (const T *)a.x.data + (p.b * a.T + p.t0) * a.x.ld + p.c;
    T *out = (T *)a.y.data + (p.b * a.T + p.t0) * a.y.ld + p.c;
    struct filter<N, W> f;
    float x[W - 1 + GROUP<T>][N];

    if (!p.valid)
        return;
    ring.bring(0, 0, p.tokens, in, a.x.ld);
    copy_async_commit();
    f.load(a, p.c);
    for (int j = 0; j < W - 1; j++)
        input<T>(a, x[j], p.b, p.t0 - (W - 1) + j, p.c);
    for (int at = 0; at < p.tokens; at += ring.TOKENS, full >>= 1) {
        copy_async_wait<0>();
        ring.bring(at + ring.TOKENS, 0, p.tokens, in, a.x.ld);
        copy_async_commit();
        if (W == 4 && full & 1)
            fwd_group<W == 4, SILU>(a, p, f, at, ring, out, x);
        else
            fwd_group<false, SILU>(a, p, f, at, ring, out, x);
    }
}

/* The gradients that a thread gathers: dx of the group's tokens and the W-1 before, dw, dbias. */
template <int N, int W, int L> struct gradients {
    float dx[L][N], dw[W][N], dbias[N];

    /* Adds g = the gradient of the sum of a token's taps; own: the token counts for dw and dbias; it is
     * number `now` of x and dx. */
    __device__ __forceinline__ void add(const struct filter<N, W> &f, const float (&g)[N],
                                        const float (&x)[L][N], int now, int taps, bool own)
    {
        for (int j = 0; j < W; j++)
            if (j < taps)
                for (int k = 0; k < N; k++) {
                    dx[now - j][k] = fmaf(f.w[j][k], g[k], dx[now - j][k]);
                    if (own)
                        dw[j][k] = fmaf(g[k], x[now - j][k], dw[j][k]);
                }
        if (own)
            for (int k = 0; k < N; k++)
                dbias[k] += g[k];
    }
};

/* y holds bias + taps; becomes g = dy silu'(y). */
template <int N> __device__ __forceinline__ void silu_grad(float (&y)[N], const float (&dy)[N])
{
    for (int k = 0; k < N; k++) {
        float s = sigmoid(y[k]), p = dy[k] * s;
        y[k] = fmaf(p, fmaf(-y[k], s, y[k]), p);
    }
}

/* dhalo of a token before the row */
template <int N>
__device__ __forceinline__ void write_dhalo(const struct conv1d &a, const struct place &p, int64_t t,
                                            const float (&dx)[N])
{
    int64_t before = a.W - 1 + t;
    if (t < 0 && before >= 0 && a.dhalo.data)
        write_floats((float *)a.dhalo.data + (p.b * (a.W - 1) + before) * a.dhalo.ld + p.c, dx);
}

/* As fwd_group. dx_row: that of the token W-1 before the group. known: as many of the stretch's tokens,
 * and the W-1 beyond, as there are. */
template <bool FULL, bool SILU, class T, int N, int W>
__device__ __forceinline__ void
bwd_group(const struct conv1d &a, const struct place &p, const struct filter<N, W> &f, int at, int known,
          const ring<T, N, 2> &ring, T *&dx_row, float (&x)[W - 1 + GROUP<T>][N], struct gradients<N, W, W - 1 + GROUP<T>> &d)
{
    shared_place held = ring.at(at);
    UNROLL
    for (int i = 0; i < GROUP<T>; i++, dx_row += a.dx.ld) {
        int now = W - 1 + i;
        float g[N], dy[N];
        if (!FULL && at + i >= p.tokens + W - 1)
            break;
        for (int k = 0; k < N; k++)
            d.dx[now][k] = 0.0f;
        if (FULL || at + i < known) {
            int n = FULL ? W : taps(a, p.b, p.t0 + at + i);
            ring.get(x[now], held, i, 0);
            ring.get(dy, held, i, 1);
            if (SILU) {
                f.apply(g, x, now, n);
                silu_grad(g, dy);
            }
            d.add(f, SILU ? g : dy, x, now, n, FULL || at + i < p.tokens);
        }
        if (at >= W - 1 - i)
            write_floats(dx_row, d.dx[i]);
        else if (!FULL)
            write_dhalo(a, p, p.t0 + at + i - (W - 1), d.dx[i]);
    }
    move_on<W>(x);
    move_on<W>(d.dx);
}

template <bool SILU, class T, int N, int W>
__device__ __forceinline__ void bwd_stretch(const struct conv1d &a, const struct place &p, uint64_t full,
                                            const ring<T, N, 2> &ring, struct gradients<N, W, W - 1 + GROUP<T>> &d)
{
    const T *in = (const T *)a.x.data + (p.b * a.T + p.t0) * a.x.ld + p.c;
    const T *in_dy = (const T *)a.dy.data + (p.b * a.T + p.t0) * a.dy.ld + p.c;
    T *dx_row = (T *)a.dx.data + (p.b * a.T + p.t0 - (W - 1)) * a.dx.ld + p.c;
    int end = p.tokens + W - 1, known = (int)(p.t0 + end < a.T ? end : a.T - p.t0);
    struct filter<N, W> f;
    float x[W - 1 + GROUP<T>][N];

    ring.bring(0, 0, known, in, a.x.ld);
    ring.bring(0, 1, known, in_dy, a.dy.ld);
    copy_async_commit();
    f.load(a, p.c);
    for (int j = 0; j < W - 1; j++)
        input<T>(a, x[j], p.b, p.t0 - (W - 1) + j, p.c);
    for (int at = 0; at < end; at += ring.TOKENS, full >>= 1) {
        copy_async_wait<0>();
        ring.bring(at + ring.TOKENS, 0, known, in, a.x.ld);
        ring.bring(at + ring.TOKENS, 1, known, in_dy, a.dy.ld);
        copy_async_commit();
        if (W == 4 && full & 1)
            bwd_group<W == 4, SILU>(a, p, f, at, known, ring, dx_row, x, d);
        else
            bwd_group<false, SILU>(a, p, f, at, known, ring, dx_row, x, d);
    }
}

/* part [W+1,C] of each block: dw by tap, then dbias */
template <class T, int N, int W, bool SILU>
__global__ void __launch_bounds__(32 * STRETCHES, BWD_RESIDENT)
    conv1d_bwd_kernel(struct conv1d a, struct cut cut)
{
    __shared__ typename ring<T, N, 2>::space space;
    __shared__ float room[STRETCHES][W + 1][32 * N + 1];
    struct place p = place_of(a, cut, N);
    float *part = (float *)a.work + blockIdx.x / cut.columns * (a.W + 1) * a.C;
    int64_t c0 = blockIdx.x % cut.columns * 32 * N;
    struct gradients<N, W, W - 1 + GROUP<T>> d = {};
    uint64_t full = full_groups<T, W>(a, p);

    if (p.valid)
        bwd_stretch<SILU, T, N, W>(a, p, full, ring<T, N, 2>(space), d);
    for (int j = 0; j <= W; j++)
        for (int k = 0; k < N; k++)
            room[threadIdx.y][j][32 * k + threadIdx.x] = j < W ? d.dw[j < W ? j : 0][k] : d.dbias[k];
    __syncthreads();
    for (int i = threadIdx.y * 32 + threadIdx.x; i < (W + 1) * 32 * N; i += 32 * STRETCHES) {
        int j = i / (32 * N), at = i % (32 * N), tap = j < W ? (int)a.W - 1 - j : (int)a.W;
        int64_t c = c0 + at % 32 * N + at / 32;
        float sum = room[0][j][at];
        for (int s = 1; s < STRETCHES; s++)
            sum += room[s][j][at];
        if (tap >= 0 && c < a.C)
            part[tap * a.C + c] = sum;
    }
}

/* halo_out = the last W-1 inputs of halo|x. All are read before one is written: halo_out may be the halo. */
template <class T> __global__ void __launch_bounds__(256) halo_kernel(struct conv1d a)
{
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, b = at / a.C, c = at % a.C;
    int rows = (int)a.W - 1;
    float x[MAXW - 1][1];

    if (b >= a.B)
        return;
    for (int i = 0; i < MAXW - 1; i++)
        if (i < rows)
            input<T>(a, x[i], b, a.T - rows + i, c);
    for (int i = 0; i < MAXW - 1; i++)
        if (i < rows)
            ((float *)a.halo_out.data)[(b * rows + i) * a.halo_out.ld + c] = x[i][0];
}

/* One channel of one sequence: y, and the halo moved on. */
template <class T> __global__ void __launch_bounds__(256) conv1d_step_kernel(struct conv1d a)
{
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, b = at / a.C, c = at % a.C;
    int rows = (int)a.W - 1;
    struct filter<1, MAXW> f;
    float x[MAXW][1], y[1];

    if (b >= a.B)
        return;
    float *halo = (float *)a.halo.data + b * rows * a.halo.ld + c;
    f.load(a, c);
    x[MAXW - 1][0] = to_float(((const T *)a.x.data)[b * a.x.ld + c]);
    for (int j = 1; j < MAXW; j++)
        x[MAXW - 1 - j][0] = j <= rows ? halo[(rows - j) * a.halo.ld] : 0.0f;
    f.apply(y, x, MAXW - 1, (int)a.W);
    ((T *)a.y.data)[b * a.y.ld + c] = from_float<T>(a.silu ? y[0] * sigmoid(y[0]) : y[0]);
    for (int j = 0; j < MAXW - 1; j++)
        if (j < rows)
            halo[(rows - 1 - j) * a.halo.ld] = x[MAXW - 1 - j][0];
}

/* each: blocks for a multiprocessor */
struct cut cut_of(const struct conv1d *a, int n, int each, int group)
{
    int64_t most = MOST_GROUPS * group;
    struct cut c;
    c.columns = ceil_div(a->C, 32 * n);
    c.per = (int64_t)cuda_processors_left() * each * STRETCHES / (c.columns * a->B);
    if (c.per < ceil_div(a->T, most))
        c.per = ceil_div(a->T, most);
    if (c.per > ceil_div(a->T, LEAST))
        c.per = ceil_div(a->T, LEAST);
    c.length = round_up(ceil_div(a->T, c.per), group);
    c.per = ceil_div(a->T, c.length);
    return c;
}

int64_t blocks_down(const struct conv1d *a, const struct cut *c)
{
    return ceil_div(a->B * c->per, STRETCHES);
}

template <class T, int N, int W> void launch_fwd(const struct conv1d *a)
{
    struct cut c = cut_of(a, N, FWD_RESIDENT * FWD_WAVES, GROUP<T>);
    unsigned blocks = (unsigned)(blocks_down(a, &c) * c.columns);
    if (a->silu)
        LAUNCH((conv1d_fwd_kernel<T, N, W, true>), blocks, dim3(32, STRETCHES), 0, *a, c);
    else
        LAUNCH((conv1d_fwd_kernel<T, N, W, false>), blocks, dim3(32, STRETCHES), 0, *a, c);
}

/* That of the numbers of waves in which the multiprocessors spend least on whole waves of whole groups; COST tokens are
 * what a stretch costs by itself. */
struct cut cut_backward(const struct conv1d *a, int n, int group)
{
    enum { COST = 4 };
    int64_t at_once = (int64_t)cuda_processors_left() * BWD_RESIDENT, least = INT64_MAX;
    struct cut best = { 0, 0, 0 };
    for (int waves = 1; waves <= BWD_WAVES; waves++) {
        struct cut c = cut_of(a, n, BWD_RESIDENT * waves, group);
        int64_t time = ceil_div(blocks_down(a, &c) * c.columns, at_once) * (c.length + COST);
        if (time < least) {
            least = time;
            best = c;
        }
    }
    return best;
}

template <class T, int N, int W> void launch_bwd(const struct conv1d *a)
{
    struct cut c = cut_backward(a, N, GROUP<T>);
    int64_t parts = blocks_down(a, &c);
    struct add_parts sums = {
        parts, a->C, (a->W + 1) * a->C, a->W, a->C, 1, a->dw.ld, (const float *)a->work,
        (float *)a->dw.data, (float *)a->dbias.data
    };

    if (a->silu)
        LAUNCH((conv1d_bwd_kernel<T, N, W, true>), (unsigned)(parts * c.columns), dim3(32, STRETCHES), 0, *a,
               c);
    else
        LAUNCH((conv1d_bwd_kernel<T, N, W, false>), (unsigned)(parts * c.columns), dim3(32, STRETCHES), 0, *a,
               c);
    cuda_add_parts(&sums);
}

/* Whether the kernels that take n channels at once may be used. */
bool wide(const struct conv1d *a, int n)
{
    return a->C % n == 0 && wide_rows(&a->x, n) && wide_rows(&a->y, n) && wide_rows(&a->halo, n) &&
           wide_rows(&a->dy, n) && wide_rows(&a->dx, n) && wide_rows(&a->dhalo, n) &&
           (a->W != 4 || wide_rows(&a->w, 4));
}

void check(const struct conv1d *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, w);
    if (a->W < 1 || a->W > MAXW)
        cuda_fault(op, "W", "is not in 1..8");
}

bool empty(const struct conv1d *a) { return a->B < 1 || a->T < 1 || a->C < 1; }

}

/* Enough for any smaller B and T too. */
size_t cuda_conv1d_work(const struct conv1d *a)
{
    if (empty(a))
        return 0;
    int64_t at_once = (int64_t)cuda_processors() * BWD_RESIDENT * BWD_WAVES * STRETCHES / ceil_div(a->C, 32 * 4);
    int64_t long_ones = a->B * ceil_div(a->T, MOST_GROUPS * GROUP<float>), short_ones = a->B * ceil_div(a->T, LEAST);
    int64_t most = at_once > long_ones ? at_once : long_ones;
    return (size_t)(ceil_div(most < short_ones ? most : short_ones, STRETCHES) * (a->W + 1) * a->C) *
           sizeof(float);
}

void cuda_conv1d_fwd(const struct conv1d *a)
{
    check(a, "conv1d_fwd");
    CUDA_NEED("conv1d_fwd", a, y);
    if (empty(a))
        return;
    WITH_TYPE(a->x.dtype, T, {
        if (a->W == 4 && wide(a, 4))
            launch_fwd<T, 4, 4>(a);
        else if (wide(a, 2))
            launch_fwd<T, 2, MAXW>(a);
        else
            launch_fwd<T, 1, MAXW>(a);
        if (a->halo_out.data && a->W > 1)
            LAUNCH((halo_kernel<T>), (unsigned)ceil_div(a->B * a->C, 256), 256, 0, *a);
    });
}

void cuda_conv1d_bwd(const struct conv1d *a)
{
    check(a, "conv1d_bwd");
    CUDA_NEED("conv1d_bwd", a, dy);
    CUDA_NEED("conv1d_bwd", a, dx);
    CUDA_NEED("conv1d_bwd", a, dw);
    if (empty(a))
        return;
    WITH_TYPE(a->x.dtype, T, {
        if (a->W == 4 && wide(a, 4))
            launch_bwd<T, 4, 4>(a);
        else if (wide(a, 2))
            launch_bwd<T, 2, MAXW>(a);
        else
            launch_bwd<T, 1, MAXW>(a);
    });
}

void cuda_conv1d_step(const struct conv1d *a)
{
    check(a, "conv1d_step");
    CUDA_NEED("conv1d_step", a, y);
    if (a->W > 1)
        CUDA_NEED("conv1d_step", a, halo);
    if (a->B < 1 || a->C < 1)
        return;
    WITH_TYPE(a->x.dtype, T,
              LAUNCH((conv1d_step_kernel<T>), (unsigned)ceil_div(a->B * a->C, 256), 256, 0, *a));
}
