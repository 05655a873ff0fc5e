/* links.c - exchange of device memory between ranks by NCCL
 * SPDX-License-Identifier: MIT
 *
 * libnccl is loaded when it is there: one GPU does without. Everything goes to one stream of high priority beside that of the ops. NCCL's rings add
 * in an order that follows from the machines and the sizes, so the sums repeat.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <nccl.h>

#include "links.h"
#include "runtime.h"

static struct {
    ncclResult_t (*GetUniqueId)(ncclUniqueId *);
    ncclResult_t (*CommInitRankConfig)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *);
    ncclResult_t (*CommSplit)(ncclComm_t, int, int, ncclComm_t *, ncclConfig_t *);
    ncclResult_t (*CommDestroy)(ncclComm_t);
    ncclResult_t (*CommCount)(const ncclComm_t, int *);
    ncclResult_t (*AllReduce)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
    ncclResult_t (*ReduceScatter)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
    ncclResult_t (*AllGather)(const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t);
    ncclResult_t (*Broadcast)(const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*Send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*Recv)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*GroupStart)(void);
    ncclResult_t (*GroupEnd)(void);
    const char *(*GetErrorString)(ncclResult_t);
} nccl;
static cudaStream_t side;
static cudaEvent_t given, done;
/* Of a collective, each of which holds a multiprocessor while products of matrices go on beside it. NCCL's own variable
 * takes another number. */
static int blocks = 4;
enum { MOST_BLOCKS = 64 }; /* NCCL's own limit */

static const char *text(ncclResult_t r) { return r == ncclSuccess ? NULL : nccl.GetErrorString(r); }
static void note(ncclResult_t r)
{
    if (r != ncclSuccess)
        cuda_note_text("NCCL", nccl.GetErrorString(r));
}

/* What is begun next comes after all that the ops were given. */
static cudaStream_t after_ops(void)
{
    cuda_note("NCCL", cudaEventRecord(given, cuda_stream()));
    cuda_note("NCCL", cudaStreamWaitEvent(side, given, 0));
    cuda_hold(blocks);
    return side;
}

static const char *draw_id(void *id) { return text(nccl.GetUniqueId(id)); }

static const char *open_group(void **group, const void *id, int rank, int size)
{
    ncclUniqueId u;
    memcpy(&u, id, sizeof u);
    ncclComm_t c = NULL;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = blocks;
    ncclResult_t r = nccl.CommInitRankConfig(&c, size, u, rank, &config);
    *group = c;
    return text(r);
}

static const char *split(void **part, void *group, int color, int key)
{
    ncclComm_t c = NULL;
    ncclResult_t r = nccl.CommSplit(group, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &c, NULL);
    *part = c;
    return text(r);
}

static void close_group(void *group)
{
    cuda_note("NCCL", cudaStreamSynchronize(side));
    note(nccl.CommDestroy(group));
}

static ncclDataType_t type_of(enum dtype t) { return t == F32 ? ncclFloat32 : t == BF16 ? ncclBfloat16 : ncclFloat16; }

static void sum(void *group, void *x, int64_t n, enum dtype t)
{
    note(nccl.AllReduce(x, x, (size_t)n, type_of(t), ncclSum, group, after_ops()));
}

static void sum_scatter(void *group, const void *x, void *mine, int64_t each, enum dtype t)
{
    note(nccl.ReduceScatter(x, mine, (size_t)each, type_of(t), ncclSum, group, after_ops()));
}

static void gather(void *group, const void *mine, size_t bytes, void *all)
{
    note(nccl.AllGather(mine, all, bytes, ncclInt8, group, after_ops()));
}

static void bcast(void *group, void *data, size_t bytes, int root)
{
    note(nccl.Broadcast(data, data, bytes, ncclInt8, root, group, after_ops()));
}

static void all_to_all(void *group, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl)
{
    int size = 0;
    cudaStream_t s = after_ops();
    note(nccl.CommCount(group, &size));
    note(nccl.GroupStart());
    for (int r = 0; r < size; r++) {
        note(nccl.Send((const char *)send + sdispl[r], scount[r], ncclInt8, r, group, s));
        note(nccl.Recv((char *)recv + rdispl[r], rcount[r], ncclInt8, r, group, s));
    }
    note(nccl.GroupEnd());
}

static void send_to(void *group, const void *data, size_t bytes, int to)
{
    note(nccl.Send(data, bytes, ncclInt8, to, group, after_ops()));
}

static void recv_from(void *group, void *data, size_t bytes, int from)
{
    note(nccl.Recv(data, bytes, ncclInt8, from, group, after_ops()));
}

static void join(void)
{
    cuda_note("NCCL", cudaEventRecord(done, side));
    cuda_note("NCCL", cudaStreamWaitEvent(cuda_stream(), done, 0));
    cuda_hold(0);
}

static const struct links over_nccl = {
    .id_bytes = sizeof(ncclUniqueId),
    .draw_id = draw_id,
    .open = open_group,
    .split = split,
    .close = close_group,
    .sum = sum,
    .sum_scatter = sum_scatter,
    .gather = gather,
    .bcast = bcast,
    .all_to_all = all_to_all,
    .send = send_to,
    .recv = recv_from,
    .join = join,
};

#define FIND(name) (*(void **)&nccl.name = dlsym(lib, "nccl" #name))

/* Without NCCL ranks cannot be joined, and are told so. */
static char missing[300];
static const char *no_id(void *id)
{
    (void)id;
    return missing;
}
static const char *no_group(void **group, const void *id, int rank, int size)
{
    (void)group, (void)id, (void)rank, (void)size;
    return missing;
}
static const struct links none = { .id_bytes = 1, .draw_id = no_id, .open = no_group };

const struct links *links_begin(void)
{
    void *lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    const char *error = lib ? NULL : dlerror();
    snprintf(missing, sizeof missing, "NCCL is not to be had: %.250s", error ? error : "libnccl.so.2 lacks a function");
    if (!lib || !FIND(GetUniqueId) || !FIND(CommInitRankConfig) || !FIND(CommSplit) || !FIND(CommDestroy) ||
        !FIND(CommCount) || !FIND(AllReduce) || !FIND(ReduceScatter) || !FIND(AllGather) || !FIND(Broadcast) ||
        !FIND(Send) || !FIND(Recv) || !FIND(GroupStart) || !FIND(GroupEnd) || !FIND(GetErrorString))
        return &none;
    const char *most = getenv("NCCL_MAX_CTAS");
    long asked = most ? strtol(most, NULL, 10) : 0;
    if (asked > 0 && asked <= MOST_BLOCKS)
        blocks = (int)asked;
    int low, high;
    if (cudaDeviceGetStreamPriorityRange(&low, &high) || cudaStreamCreateWithPriority(&side, cudaStreamNonBlocking, high) ||
        cudaEventCreateWithFlags(&given, cudaEventDisableTiming) || cudaEventCreateWithFlags(&done, cudaEventDisableTiming)) {
        snprintf(missing, sizeof missing, "no stream for NCCL");
        return &none;
    }
    return &over_nccl;
}
