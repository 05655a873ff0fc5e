/* emulate.cc - the fibres of emulate.h, and what a warp does together
 * SPDX-License-Identifier: MIT
 */
#include "emulate.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace {

enum state : unsigned char { DONE, READY, AT_WARP, AT_BLOCK };
enum { MOST = 1024, STACK = 256 << 10, MOST_SHARED = 227 << 10 };

struct fibre {
    void *sp;
    emu_place place;
};
struct warp {
    int live, arrived;
    unsigned turn; /* parity of the exchange: a lane that runs ahead writes to the other half */
    unsigned char room[2][32 * 64];
};

fibre fibres[MOST];
state states[MOST];
warp warps[MOST / 32];
unsigned char *stacks;
void *host_sp;
int current, threads, live, at_block;
bool backwards;
const std::function<void()> *body;
const char *kernel_name;
alignas(128) unsigned char dynamic_room[MOST_SHARED + 128];
unsigned char *dynamic;

[[noreturn]] void fault(const char *what, long value)
{
    fprintf(stderr, "emulate: %s: %s (%ld)\n", kernel_name, what, value);
    abort();
}

}

/* Saves the registers that calls keep, stores the stack pointer, takes another. */
extern "C" void emu_switch(void **save, void *load);
__asm__(".text\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");

const emu_place *emu_now;

namespace {

void enter(int next)
{
    void **save = current < 0 ? &host_sp : &fibres[current].sp;
    current = next;
    emu_now = &fibres[next].place;
    emu_switch(save, fibres[next].sp);
}

/* Runs another fibre that can; comes back when this one can again. */
void give_way()
{
    for (int i = 1; i <= threads; i++) {
        int next = (backwards ? current - i + 2 * threads : current + i) % threads;
        if (states[next] == READY) {
            if (next != current)
                enter(next);
            return;
        }
    }
    if (live > 0)
        fault("a barrier that some threads do not reach; waiting there", at_block);
    void **save = &fibres[current].sp;
    current = -1;
    emu_switch(save, host_sp);
}

void release_warp(int w)
{
    warps[w].arrived = 0;
    warps[w].turn ^= 1;
    for (int i = 32 * w; i < 32 * w + 32 && i < threads; i++)
        if (states[i] == AT_WARP)
            states[i] = READY;
}

void release_block()
{
    at_block = 0;
    for (int i = 0; i < threads; i++)
        if (states[i] == AT_BLOCK)
            states[i] = READY;
}

void run_fibre()
{
    (*body)();
    int w = current / 32;
    states[current] = DONE;
    live--;
    warps[w].live--;
    if (warps[w].live > 0 && warps[w].arrived == warps[w].live)
        release_warp(w);
    if (live > 0 && at_block == live)
        release_block();
    give_way();
    abort();
}

void run_block(dim3 grid, dim3 block, uint3 at, size_t smem)
{
    memset(dynamic, 0xff, smem);
    memset(dynamic + smem, 0xee, 64);
    for (int i = 0; i < threads; i++) {
        unsigned u = (unsigned)i;
        fibres[i].place = { { u % block.x, u / block.x % block.y, u / (block.x * block.y) }, at, block, grid };
        void **top = (void **)(stacks + (size_t)(i + 1) * STACK);
        *--top = nullptr; /* the stack is as a call leaves it, 8 off a multiple of 16 */
        *--top = (void *)run_fibre;
        top -= 6;
        fibres[i].sp = top;
        states[i] = READY;
    }
    for (int w = 0; w < (threads + 31) / 32; w++) {
        warps[w].live = threads - 32 * w < 32 ? threads - 32 * w : 32;
        warps[w].arrived = 0;
        warps[w].turn = 0;
    }
    live = threads;
    at_block = 0;
    current = -1;
    enter(backwards ? threads - 1 : 0);
    for (int i = 0; i < 64; i++)
        if (dynamic[smem + (size_t)i] != 0xee)
            fault("dynamic shared memory is written beyond its end, bytes asked for", (long)smem);
}

}

void emu_launch(const char *name, dim3 grid, dim3 block, size_t smem, const std::function<void()> &kernel)
{
    kernel_name = name;
    threads = (int)(block.x * block.y * block.z);
    if (threads < 1 || threads > MOST)
        fault("threads of a block", threads);
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        fault("a grid that no GPU takes, y*z", (long)grid.y * grid.z);
    if (smem > MOST_SHARED)
        fault("bytes of shared memory", (long)smem);
    if (!stacks) {
        void *p = mmap(nullptr, (size_t)MOST * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
        if (p == MAP_FAILED)
            fault("no memory for stacks", 0);
        stacks = (unsigned char *)p;
        const char *order = getenv("SSM_EMULATE_ORDER");
        backwards = order && strcmp(order, "reverse") == 0;
    }
    body = &kernel;
    dynamic = dynamic_room;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++)
                run_block(grid, block, { x, y, z }, smem);
}

void *emu_dynamic() { return dynamic; }

void emu_block_barrier()
{
    if (++at_block == live) {
        release_block();
        return;
    }
    states[current] = AT_BLOCK;
    give_way();
}

unsigned emu_lane() { return (unsigned)current % 32; }

const unsigned char *emu_exchange(const void *mine, size_t bytes)
{
    warp &w = warps[current / 32];
    unsigned char *room = w.room[w.turn];
    if (bytes)
        memcpy(room + 64 * emu_lane(), mine, bytes);
    if (++w.arrived == w.live) {
        release_warp(current / 32);
    } else {
        states[current] = AT_WARP;
        give_way();
    }
    return room;
}

/* ---- numbers ---- */

uint16_t emu_float_bf16(float x)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

float emu_bf16_float(uint16_t x) { return __uint_as_float((uint32_t)x << 16); }

/* ---- what a warp does together ---- */

namespace {
struct operands {
    uint32_t a[4], b[2];
};
float half_of(uint32_t v, int k) { return emu_bf16_float((uint16_t)(k & 1 ? v >> 16 : v)); }
}

void emu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    operands mine = { { a[0], a[1], a[2], a[3] }, { b[0], b[1] } };
    unsigned lane = emu_lane(), g = lane / 4, t = lane % 4;
    const unsigned char *all = emu_exchange(&mine, sizeof mine);
    auto of = [&](unsigned l) { return (const operands *)(const void *)(all + 64 * l); };
    for (int i = 0; i < 4; i++) {
        unsigned n = 2 * t + (i & 1);
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            unsigned from = (unsigned)(k % 8 / 2);
            sum += half_of(of(4 * g + from)->a[k / 8 * 2 + i / 2], k) * half_of(of(4 * n + from)->b[k / 8], k);
        }
        d[i] += sum;
    }
}

void emu_ldmatrix(uint32_t *r, const void *row, bool trans)
{
    unsigned lane = emu_lane(), g = lane / 4, t = lane % 4;
    if ((uintptr_t)row % 16)
        fault("ldmatrix: a row that is not aligned to 16 bytes, lane", lane);
    const unsigned char *all = emu_exchange(&row, sizeof row);
    for (int j = 0; j < 4; j++) {
        auto rows = [&](unsigned i) {
            const uint16_t *p;
            memcpy(&p, all + 64 * (8 * (unsigned)j + i), sizeof p);
            return p;
        };
        r[j] = trans ? rows(2 * t)[g] | (uint32_t)rows(2 * t + 1)[g] << 16
                     : rows(g)[2 * t] | (uint32_t)rows(g)[2 * t + 1] << 16;
    }
    emu_exchange(nullptr, 0); /* the rows may be written anew only when all have read */
}
