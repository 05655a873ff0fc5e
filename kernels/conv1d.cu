/* conv1d.cu - causal depthwise convolution along the sequence
 * SPDX-License-Identifier: MIT
 *
 * The formulas are conv1d.c's. A thread has N neighbouring channels and walks down a stretch of one sequence;
 * the W-1 inputs before the token stand in registers, so that x is read once (but for W-1 tokens where
 * stretches meet, which are in the cache). A block is 32 threads along the channels by 4 stretches. Tokens
 * are worked at in groups, unrolled, while the next groups come into a ring in shared memory, of which each
 * thread has its own part. A group whose tokens have all taps looks at neither documents nor halo. Backward
 * makes g = dy act'(...) once per token and adds it to the W unfinished dx that it reaches, also in
 * registers; it walks W-1 tokens beyond the stretch, whose g reach back into it. Sums for dw and dbias stand
 * in registers, are added over the block and written to work, and cuda_add_parts adds them up. Stretches are
 * so long that the device runs about all of them at once.
 *
 * W = 4 has kernels of its own; other widths go through those of 8 taps, of which some do not exist.
 */
#include <climits>

#include "rows.cuh"

namespace {

/* _RESIDENT: blocks that a multiprocessor has at once. */
enum { STRETCHES = 4, BWD_RESIDENT = 4, GROUP = 4, LEAST = 16, MOST = 512, MAXW = 8 };

template <int N, int W> constexpr int fwd_resident() { return N * W == 16 ? 7 : 4; }

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

/* Tells the groups of a stretch in which each token has all taps. Documents are asked one group ahead. */
template <int W> struct full_groups {
    const int32_t *start; /* that of the stretch's first token */
    int known, t0, from, begins;

    /* known: tokens that follow t0 in the sequence */
    __device__ __forceinline__ full_groups(const struct conv1d &a, const struct place &p, int known)
        : start(a.start ? a.start + p.b * a.T + p.t0 : nullptr), known(known), t0((int)p.t0)
    {
        from = a.W < W ? INT_MAX : p.t0 < W - 1 ? W - 1 - (int)p.t0 : 0;
        look(0);
    }
    /* The group's last token begins no document if none of them does. */
    __device__ __forceinline__ void look(int at)
    {
        begins = start && at + GROUP <= known ? start[at + GROUP - 1] - t0 : INT_MIN;
    }
    __device__ __forceinline__ bool has(int at) const { return at >= from && begins <= at - (W - 1); }
};

/* What is under way of `TENSORS` inputs: groups of tokens, of which each thread brings and reads its own
 * channels. Four groups in bf16, two in F32. */
template <class T, int N, int TENSORS> struct ring {
    static constexpr int GROUPS = 8 / sizeof(T), THREADS = 32 * STRETCHES;
    elements<T, N> room[GROUPS * GROUP * TENSORS * THREADS];

    /* This thread's tokens of the group that begins with `token`. */
    __device__ __forceinline__ elements<T, N> *at(int token)
    {
        return room + token / GROUP % GROUPS * (GROUP * TENSORS * THREADS) + threadIdx.y * 32 + threadIdx.x;
    }
    /* Where that of token i, one of several tensors, stands. */
    __device__ __forceinline__ static int step(int i, int tensor) { return (i * TENSORS + tensor) * THREADS; }
    /* Begins to bring one tensor's tokens of a group; rows: from the group's first token on. */
    __device__ __forceinline__ void bring(int token, int tensor, int known, const T *rows, int64_t ld)
    {
        elements<T, N> *to = at(token);
        UNROLL
        for (int i = 0; i < GROUP; i++, rows += ld)
            if (token + i < known)
                copy_async<(int)sizeof(elements<T, N>)>(to + step(i, tensor), rows);
    }
};

/* The last W-1 of n become the first. */
template <int N, int W> __device__ __forceinline__ void move_on(float (&x)[W - 1 + GROUP][N])
{
    for (int j = 0; j < W - 1; j++)
        for (int k = 0; k < N; k++)
            x[j][k] = x[j + GROUP][k];
}

/* Tokens t0 + at ... of a stretch; out: the first one's row; x: the inputs since W-1 tokens before. FULL:
 * all tokens are there with all taps. */
template <bool FULL, bool SILU, class T, int N, int W>
__device__ __forceinline__ void fwd_group(const struct conv1d &a, const struct place &p,
                                          const struct filter<N, W> &f, int at, ring<T, N, 1> &ring, T *out,
                                          float (&x)[W - 1 + GROUP][N])
{
    const elements<T, N> *held = ring.at(at);
    UNROLL
    for (int i = 0; i < GROUP; i++, out += a.y.ld) {
        float y[N];
        if (!FULL && at + i >= p.tokens)
            break;
        held[ring.step(i, 0)].get(x[W - 1 + i]);
        f.apply(y, x, W - 1 + i, FULL ? W : taps(a, p.b, p.t0 + at + i));
        if (SILU)
            for (int k = 0; k < N; k++)
                y[k] *= sigmoid(y[k]);
        write_floats(out, y);
    }
    move_on<N, W>(x);
}

template <class T, int N, int W, bool SILU>
__global__ void __launch_bounds__(32 * STRETCHES, fwd_resident<N, W>())
    conv1d_fwd_kernel(struct conv1d a, struct cut cut)
{
    __shared__ ring<T, N, 1> ring;
    constexpr int AHEAD = (ring.GROUPS - 1) * GROUP;
    struct place p = place_of(a, cut, N);
    const T *in = (const T *)a.x.data + (p.b * a.T + p.t0) * a.x.ld + p.c;
    T *out = (T *)a.y.data + (p.b * a.T + p.t0) * a.y.ld + p.c;
    struct filter<N, W> f;
    float x[W - 1 + GROUP][N];

    if (!p.valid)
        return;
    for (int at = 0; at < AHEAD; at += GROUP, in += GROUP * a.x.ld) {
        ring.bring(at, 0, p.tokens, in, a.x.ld);
        copy_async_commit();
    }
    full_groups<W> full(a, p, p.tokens);
    f.load(a, p.c);
    for (int j = 0; j < W - 1; j++)
        input<T>(a, x[j], p.b, p.t0 - (W - 1) + j, p.c);
    for (int at = 0; at < p.tokens; at += GROUP, out += GROUP * a.y.ld) {
        bool all = at + GROUP <= p.tokens && full.has(at);
        copy_async_wait<ring.GROUPS - 2>();
        ring.bring(at + AHEAD, 0, p.tokens, in, a.x.ld);
        in += GROUP * a.x.ld;
        copy_async_commit();
        full.look(at + GROUP);
        if (W == 4 && all)
            fwd_group<W == 4, SILU>(a, p, f, at, ring, out, x);
        else
            fwd_group<false, SILU>(a, p, f, at, ring, out, x);
    }
}

/* The gradients that a thread gathers: dx of the group's tokens and the W-1 before, dw, dbias. */
template <int N, int W> struct gradients {
    float dx[W - 1 + GROUP][N], dw[W][N], dbias[N];

    /* Adds g = the gradient of the sum of a token's taps; own: the token counts for dw and dbias; it is
     * number `now` of x and dx. */
    __device__ __forceinline__ void add(const struct filter<N, W> &f, const float (&g)[N],
                                        const float (&x)[W - 1 + GROUP][N], int now, int taps, bool own)
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
        float s = sigmoid(y[k]);
        y[k] = dy[k] * s * fmaf(y[k], 1.0f - s, 1.0f);
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
          ring<T, N, 2> &ring, T *dx_row, float (&x)[W - 1 + GROUP][N], struct gradients<N, W> &d)
{
    const elements<T, N> *held = ring.at(at);
    UNROLL
    for (int i = 0; i < GROUP; i++, dx_row += a.dx.ld) {
        int now = W - 1 + i;
        float g[N], dy[N];
        if (!FULL && at + i >= p.tokens + W - 1)
            break;
        for (int k = 0; k < N; k++)
            d.dx[now][k] = 0.0f;
        if (FULL || at + i < known) {
            int n = FULL ? W : taps(a, p.b, p.t0 + at + i);
            held[ring.step(i, 0)].get(x[now]);
            held[ring.step(i, 1)].get(dy);
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
    move_on<N, W>(x);
    move_on<N, W>(d.dx);
}

template <bool SILU, class T, int N, int W>
__device__ __forceinline__ void bwd_stretch(const struct conv1d &a, const struct place &p,
                                            ring<T, N, 2> &ring, struct gradients<N, W> &d)
{
    constexpr int AHEAD = (ring.GROUPS - 1) * GROUP;
    const T *in = (const T *)a.x.data + (p.b * a.T + p.t0) * a.x.ld + p.c;
    const T *in_dy = (const T *)a.dy.data + (p.b * a.T + p.t0) * a.dy.ld + p.c;
    T *dx_row = (T *)a.dx.data + (p.b * a.T + p.t0 - (W - 1)) * a.dx.ld + p.c;
    int end = p.tokens + W - 1, known = (int)(p.t0 + end < a.T ? end : a.T - p.t0);
    struct filter<N, W> f;
    float x[W - 1 + GROUP][N];

    for (int at = 0; at < AHEAD; at += GROUP, in += GROUP * a.x.ld, in_dy += GROUP * a.dy.ld) {
        ring.bring(at, 0, known, in, a.x.ld);
        ring.bring(at, 1, known, in_dy, a.dy.ld);
        copy_async_commit();
    }
    full_groups<W> full(a, p, known);
    f.load(a, p.c);
    for (int j = 0; j < W - 1; j++)
        input<T>(a, x[j], p.b, p.t0 - (W - 1) + j, p.c);
    for (int at = 0; at < end; at += GROUP, dx_row += GROUP * a.dx.ld) {
        bool all = at + GROUP <= p.tokens && full.has(at);
        copy_async_wait<ring.GROUPS - 2>();
        ring.bring(at + AHEAD, 0, known, in, a.x.ld);
        ring.bring(at + AHEAD, 1, known, in_dy, a.dy.ld);
        in += GROUP * a.x.ld;
        in_dy += GROUP * a.dy.ld;
        copy_async_commit();
        full.look(at + GROUP);
        if (W == 4 && all)
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
    __shared__ ring<T, N, 2> ring;
    __shared__ float room[STRETCHES][W + 1][32 * N + 1];
    struct place p = place_of(a, cut, N);
    float *part = (float *)a.work + blockIdx.x / cut.columns * (a.W + 1) * a.C;
    int64_t c0 = blockIdx.x % cut.columns * 32 * N;
    struct gradients<N, W> d = {};

    if (p.valid)
        bwd_stretch<SILU, T, N, W>(a, p, ring, d);
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

struct cut cut_of(const struct conv1d *a, int n, int resident)
{
    struct cut c;
    c.columns = ceil_div(a->C, 32 * n);
    c.per = (int64_t)cuda_processors_left() * resident * STRETCHES / (c.columns * a->B);
    if (c.per < ceil_div(a->T, MOST))
        c.per = ceil_div(a->T, MOST);
    if (c.per > ceil_div(a->T, LEAST))
        c.per = ceil_div(a->T, LEAST);
    c.length = round_up(ceil_div(a->T, c.per), GROUP);
    c.per = ceil_div(a->T, c.length);
    return c;
}

int64_t blocks_down(const struct conv1d *a, const struct cut *c)
{
    return ceil_div(a->B * c->per, STRETCHES);
}

template <class T, int N, int W> void launch_fwd(const struct conv1d *a)
{
    struct cut c = cut_of(a, N, fwd_resident<N, W>());
    unsigned blocks = (unsigned)(blocks_down(a, &c) * c.columns);
    if (a->silu)
        LAUNCH((conv1d_fwd_kernel<T, N, W, true>), blocks, dim3(32, STRETCHES), 0, *a, c);
    else
        LAUNCH((conv1d_fwd_kernel<T, N, W, false>), blocks, dim3(32, STRETCHES), 0, *a, c);
}

template <class T, int N, int W> void launch_bwd(const struct conv1d *a)
{
    struct cut c = cut_of(a, N, BWD_RESIDENT);
    int64_t parts = blocks_down(a, &c);
    const float *part = (const float *)a->work;
    struct add_parts dw = {
        parts, a->C, (a->W + 1) * a->C, a->W, a->C, 1, a->dw.ld, part, (float *)a->dw.data
    };
    struct add_parts dbias = { parts, a->C, dw.ld, 1, 0, 0, 1, part + a->W * a->C, (float *)a->dbias.data };

    if (a->silu)
        LAUNCH((conv1d_bwd_kernel<T, N, W, true>), (unsigned)(parts * c.columns), dim3(32, STRETCHES), 0, *a,
               c);
    else
        LAUNCH((conv1d_bwd_kernel<T, N, W, false>), (unsigned)(parts * c.columns), dim3(32, STRETCHES), 0, *a,
               c);
    cuda_add_parts(&dw);
    if (a->dbias.data)
        cuda_add_parts(&dbias);
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
    int64_t at_once = (int64_t)cuda_processors() * BWD_RESIDENT * STRETCHES / ceil_div(a->C, 32 * 4);
    int64_t long_ones = a->B * ceil_div(a->T, MOST), short_ones = a->B * ceil_div(a->T, LEAST);
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
        constexpr int N = 16 / sizeof(T);
        if (a->W == 4 && wide(a, N))
            launch_fwd<T, N, 4>(a);
        else if (a->W == 4 && wide(a, 4))
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
