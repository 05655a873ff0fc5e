/* memory.c - memory of the device, copies, errors, marks of time
 * SPDX-License-Identifier: MIT
 *
 * Copies between host and device go through a ring of pinned pieces: an upload copies into the next piece and
 * returns while the device still reads it, so the tokens of a step travel beside the step before.
 * Downloads beside the ops have a stream of their own, and pinned memory at their end.
 */
#include <string.h>

#include "memory.h"
#include "runtime.h"

enum { PIECE = 4 << 20, PIECES = 4, BESIDE = 32 << 20, MARKS = 4096 };

static cudaStream_t stream;
static struct {
    void *host[PIECES];
    cudaEvent_t free[PIECES];   /* the device has done with the piece */
    int next;
} ring;
static struct {
    cudaStream_t stream;
    cudaEvent_t given, arrived; /* all that the ops' stream was given; all copies that were begun */
} beside;
static int gpu;
static cudaEvent_t marks[OWN_MARKS + MARKS];
static unsigned marked;
static double *parts;           /* [CUDA_TOTAL_PARTS] on the device */
static char error_text[512];

void *cuda_stream(void) { return stream; }
double *cuda_total_parts(void) { return parts; }

void cuda_note_text(const char *what, const char *text)
{
    if (!error_text[0])
        snprintf(error_text, sizeof error_text, "%.200s: %.200s", what, text);
}

void cuda_note(const char *what, int error)
{
    if (error)
        cuda_note_text(what, cudaGetErrorString((cudaError_t)error));
}

bool memory_begin(void *on)
{
    int e = 0;
    stream = on;
    for (int i = 0; i < PIECES && !e; i++) {
        e = cudaMallocHost(&ring.host[i], PIECE);
        if (!e)
            e = cudaEventCreateWithFlags(&ring.free[i], cudaEventDisableTiming);
        if (!e)
            e = cudaEventRecord(ring.free[i], stream);
    }
    if (!e)
        e = cudaStreamCreateWithFlags(&beside.stream, cudaStreamNonBlocking);
    if (!e)
        e = cudaEventCreateWithFlags(&beside.given, cudaEventDisableTiming);
    if (!e)
        e = cudaEventCreateWithFlags(&beside.arrived, cudaEventDisableTiming | cudaEventBlockingSync);
    if (!e)
        e = cudaGetDevice(&gpu);
    if (!e)
        e = cudaMalloc((void **)&parts, CUDA_TOTAL_PARTS * sizeof *parts);
    cuda_note("memory for copies", e);
    return !e;
}

void *memory_alloc(size_t bytes)
{
    void *p;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* the caller is told by NULL */
        return NULL;
    }
    cuda_note("clearing memory", cudaMemsetAsync(p, 0, bytes, stream));
    return p;
}

void memory_free(void *p) { cuda_note("freeing memory", cudaFree(p)); }

/* The next piece of the ring, when the device has done with it. */
static int next_piece(void)
{
    int i = ring.next;
    ring.next = (i + 1) % PIECES;
    cuda_note("copy", cudaEventSynchronize(ring.free[i]));
    return i;
}

void memory_upload(void *dev, const void *host, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        int i = next_piece();
        memcpy(ring.host[i], (const char *)host + at, n);
        cuda_note("upload", cudaMemcpyAsync((char *)dev + at, ring.host[i], n, cudaMemcpyHostToDevice, stream));
        cuda_note("upload", cudaEventRecord(ring.free[i], stream));
    }
}

/* Begins to bring `bytes`, a piece at most, and says into which. */
static int fetch(const void *dev, size_t bytes)
{
    int i = next_piece();
    cuda_note("download", cudaMemcpyAsync(ring.host[i], dev, bytes, cudaMemcpyDeviceToHost, stream));
    cuda_note("download", cudaEventRecord(ring.free[i], stream));
    return i;
}

static void take(void *host, int piece, size_t bytes)
{
    cuda_note("download", cudaEventSynchronize(ring.free[piece]));
    memcpy(host, ring.host[piece], bytes);
}

void memory_download(void *host, const void *dev, size_t bytes)
{
    size_t came = 0;
    int first = ring.next; /* pieces are taken from the ring one ahead of those that are emptied */
    for (size_t at = 0; at < bytes || came < bytes;) {
        if (at < bytes && at - came < 2 * (size_t)PIECE) {
            size_t n = bytes - at < PIECE ? bytes - at : PIECE;
            fetch((const char *)dev + at, n);
            at += n;
            continue;
        }
        size_t n = bytes - came < PIECE ? bytes - came : PIECE;
        take((char *)host + came, (first + (int)(came / PIECE)) % PIECES, n);
        came += n;
    }
}

static struct {
    int piece;
    size_t bytes;
} asked;

void memory_ask(const void *dev, size_t bytes)
{
    if (bytes > ASK_MOST)
        cuda_fault("ask", "bytes", "is more than ASK_MOST");
    asked.piece = fetch(dev, bytes);
    asked.bytes = bytes;
}

void memory_answer(void *host) { take(host, asked.piece, asked.bytes); }

void *memory_host_alloc(size_t bytes)
{
    void *p;
    if (cudaMallocHost(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* the caller is told by NULL */
        return NULL;
    }
    return p;
}

void memory_host_free(void *p) { cuda_note("freeing memory of the host", cudaFreeHost(p)); }

/* In pieces, for what a step downloads would wait behind one of gigabytes. */
void memory_download_beside(void *host, const void *dev, size_t bytes)
{
    cuda_note("download", cudaEventRecord(beside.given, stream));
    cuda_note("download", cudaStreamWaitEvent(beside.stream, beside.given, 0));
    for (size_t at = 0; at < bytes; at += BESIDE) {
        size_t n = bytes - at < BESIDE ? bytes - at : BESIDE;
        cuda_note("download",
                  cudaMemcpyAsync((char *)host + at, (const char *)dev + at, n, cudaMemcpyDeviceToHost, beside.stream));
    }
    cuda_note("download", cudaEventRecord(beside.arrived, beside.stream));
}

void memory_join_downloads(void) { cuda_note("download", cudaStreamWaitEvent(stream, beside.arrived, 0)); }

/* Sleeps, for it may be long. Not by cuda_note(), which is the ops' thread's. */
const char *memory_wait_downloads(void)
{
    cudaError_t e = cudaSetDevice(gpu); /* a new thread stands on the first GPU, and would claim memory there */
    if (!e)
        e = cudaEventSynchronize(beside.arrived);
    return e ? cudaGetErrorString(e) : NULL;
}

void memory_copy(void *dst, const void *src, size_t bytes)
{
    if (bytes)
        cuda_note("copy", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream));
}

void memory_zero(void *p, size_t bytes)
{
    if (bytes)
        cuda_note("clearing memory", cudaMemsetAsync(p, 0, bytes, stream));
}

const char *memory_fault(void)
{
    static char told[sizeof error_text];
    cuda_note("device", cudaGetLastError());
    if (!error_text[0])
        return NULL;
    memcpy(told, error_text, sizeof told);
    error_text[0] = '\0';
    return told;
}

const char *memory_sync(void)
{
    cuda_note("device", cudaStreamSynchronize(stream));
    return memory_fault();
}

int memory_mark(int own)
{
    int i = own >= 0 ? own : OWN_MARKS + (int)(marked++ % MARKS);
    if (!marks[i])
        cuda_note("mark", cudaEventCreateWithFlags(&marks[i], cudaEventDefault));
    cuda_note("mark", cudaEventRecord(marks[i], stream));
    return i;
}

double memory_between(int from, int to)
{
    float ms = 0;
    cuda_note("mark", cudaEventSynchronize(marks[to]));
    cuda_note("mark", cudaEventElapsedTime(&ms, marks[from], marks[to]));
    return (double)ms * 1e-3;
}
