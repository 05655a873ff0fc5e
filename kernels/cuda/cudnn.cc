/* cudnn.cc - attention by cuDNN's fused graphs, through its header-only front end
 * SPDX-License-Identifier: MIT
 *
 * It serves trainings (a graph takes long to build, and prompts have any length) in bf16, without soft-cap and without
 * documents inside a row (start is NULL), of head dims that are multiples of 8; kernels/attn.cu serves the rest. libcudnn
 * is loaded when it is there. A graph is built once a shape; one that cuDNN does not build is remembered as not served.
 * Its backward pass is the deterministic one. Scratch is allocated when a graph is built, so in the first step only.
 */
#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "cudnn.h"

namespace fe = cudnn_frontend;

namespace cudnn_frontend {
void *cudnn_dlhandle; /* what the front end takes its symbols from */
}

namespace {

cudnnHandle_t handle;
void *room; /* scratch of the largest graph: known when it is built, which needs the call's own strides */
size_t room_bytes;

enum uid : int64_t { Q = 1, K, V, O, LSE, DO, DQ, DK, DV };

struct built {
    std::shared_ptr<fe::graph::Graph> graph; /* null: not served */
};
using key = std::vector<int64_t>;
std::map<key, built> known;

key key_of(const struct attn *a, bool backward)
{
    int64_t scale = 0;
    memcpy(&scale, &a->scale, sizeof scale);
    return { backward, a->B,    a->T,    a->q0,   a->Smax, a->Hq,   a->Hkv,     a->hd,    a->window,     scale,      a->q.ld,
             a->k.ld,  a->v.ld, a->o.ld, a->dout.ld, a->dq.ld, a->dk.ld, a->dv.ld };
}

bool fits(const struct tensor &t)
{
    return !t.data || (t.dtype == BF16 && t.ld % 8 == 0 && (uintptr_t)t.data % 16 == 0);
}

bool serves(const struct attn *a)
{
    return handle && a->lse && !a->start && a->softcap == 0 && a->T > 1 && a->hd % 8 == 0 && a->hd >= 32 && a->hd <= 256 &&
           a->S == a->q0 + a->T && fits(a->q) && fits(a->k) && fits(a->v) && fits(a->o) && fits(a->dout) && fits(a->dq) &&
           fits(a->dk) && fits(a->dv);
}

using tensor_ptr = std::shared_ptr<fe::graph::Tensor_attributes>;

/* Heads of a matrix of rows: [B, H, rows, hd], `gap` rows from one sequence to the next. */
fe::graph::Tensor_attributes shape(const char *name, uid id, int64_t B, int64_t H, int64_t rows, int64_t hd, int64_t ld, int64_t gap)
{
    return fe::graph::Tensor_attributes().set_name(name).set_uid(id).set_dim({ B, H, rows, hd }).set_stride({ gap * ld, hd, ld, 1 });
}

void place(const tensor_ptr &t, uid id, int64_t B, int64_t H, int64_t rows, int64_t hd, int64_t ld, int64_t gap)
{
    t->set_output(true).set_uid(id).set_dim({ B, H, rows, hd }).set_stride({ gap * ld, hd, ld, 1 });
}

template <class A> A &masked(A &o, const struct attn *a)
{
    o.set_attn_scale((float)a->scale);
    if (a->q0 > 0)
        o.set_causal_mask_bottom_right(true);
    else
        o.set_causal_mask(true);
    if (a->window > 0 && a->window < a->S)
        o.set_sliding_window_length((int)a->window);
    return o;
}

std::shared_ptr<fe::graph::Graph> begin(const struct attn *a, tensor_ptr *q, tensor_ptr *k, tensor_ptr *v)
{
    auto g = std::make_shared<fe::graph::Graph>();
    g->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    *q = g->tensor(shape("q", Q, a->B, a->Hq, a->T, a->hd, a->q.ld, a->T));
    *k = g->tensor(shape("k", K, a->B, a->Hkv, a->S, a->hd, a->k.ld, a->Smax));
    *v = g->tensor(shape("v", V, a->B, a->Hkv, a->S, a->hd, a->v.ld, a->Smax));
    return g;
}

fe::graph::Tensor_attributes stats(const struct attn *a)
{
    return fe::graph::Tensor_attributes()
        .set_name("lse")
        .set_uid(LSE)
        .set_dim({ a->B, a->Hq, a->T, 1 })
        .set_stride({ a->Hq * a->T, a->T, 1, 1 })
        .set_data_type(fe::DataType_t::FLOAT);
}

std::shared_ptr<fe::graph::Graph> forward_graph(const struct attn *a)
{
    tensor_ptr q, k, v;
    auto g = begin(a, &q, &k, &v);
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
    auto [o, lse] = g->sdpa(q, k, v, masked(options, a));
    place(o, O, a->B, a->Hq, a->T, a->hd, a->o.ld, a->T);
    if (lse)
        lse->set_output(true).set_uid(LSE).set_data_type(fe::DataType_t::FLOAT).set_dim({ a->B, a->Hq, a->T, 1 }).set_stride(
            { a->Hq * a->T, a->T, 1, 1 });
    return g;
}

std::shared_ptr<fe::graph::Graph> backward_graph(const struct attn *a)
{
    tensor_ptr q, k, v;
    auto g = begin(a, &q, &k, &v);
    auto o = g->tensor(shape("o", O, a->B, a->Hq, a->T, a->hd, a->o.ld, a->T));
    auto dout = g->tensor(shape("do", DO, a->B, a->Hq, a->T, a->hd, a->dout.ld, a->T));
    auto lse = g->tensor(stats(a));
    auto options = fe::graph::SDPA_backward_attributes().set_name("attention backward").set_deterministic_algorithm(true);
    auto [dq, dk, dv] = g->sdpa_backward(q, k, v, o, dout, lse, masked(options, a));
    place(dq, DQ, a->B, a->Hq, a->T, a->hd, a->dq.ld, a->T);
    place(dk, DK, a->B, a->Hkv, a->S, a->hd, a->dk.ld, a->Smax);
    place(dv, DV, a->B, a->Hkv, a->S, a->hd, a->dv.ld, a->Smax);
    return g;
}

void grow_room(size_t bytes)
{
    if (bytes <= room_bytes)
        return;
    cuda_note("cuDNN", cudaFree(room));
    cuda_note("cuDNN", cudaMalloc(&room, bytes));
    room_bytes = bytes;
}

const built &graph_of(const struct attn *a, bool backward)
{
    auto k = key_of(a, backward);
    auto found = known.find(k);
    if (found != known.end())
        return found->second;
    built b;
    auto g = backward ? backward_graph(a) : forward_graph(a);
    if (g->build(handle, { fe::HeurMode_t::A }).is_good()) {
        b.graph = g;
        grow_room((size_t)g->get_workspace_size());
    }
    return known.emplace(k, b).first->second;
}

bool run(const built &b, std::unordered_map<int64_t, void *> &at)
{
    if (!b.graph)
        return false;
    auto said = b.graph->execute(handle, at, room);
    if (said.is_bad())
        cuda_note_text("cuDNN", said.get_message().c_str());
    return true;
}

}

int cudnn_begin(void)
{
    const char *said = getenv("SSM_CUDNN");
    void *lib = said && strcmp(said, "0") == 0 ? nullptr : dlopen("libcudnn.so.9", RTLD_NOW | RTLD_GLOBAL);
    if (!lib)
        return 0;
    fe::cudnn_dlhandle = lib;
    if (fe::detail::create_handle(&handle) != CUDNN_STATUS_SUCCESS || fe::detail::set_stream(handle, (cudaStream_t)cuda_stream()) != CUDNN_STATUS_SUCCESS)
        handle = nullptr;
    return handle ? (int)fe::detail::get_backend_version() : 0;
}

bool cudnn_attn_fwd(const struct attn *a)
{
    if (!serves(a))
        return false;
    std::unordered_map<int64_t, void *> at = { { Q, a->q.data }, { K, a->k.data }, { V, a->v.data }, { O, a->o.data }, { LSE, a->lse } };
    return run(graph_of(a, false), at);
}

bool cudnn_attn_bwd(const struct attn *a)
{
    if (!serves(a))
        return false;
    std::unordered_map<int64_t, void *> at = { { Q, a->q.data },   { K, a->k.data },   { V, a->v.data },   { O, a->o.data }, { LSE, a->lse },
                                              { DO, a->dout.data }, { DQ, a->dq.data }, { DK, a->dk.data }, { DV, a->dv.data } };
    return run(graph_of(a, true), at);
}
