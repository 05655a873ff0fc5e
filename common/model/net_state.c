/* net_state.c - what a network carries from call to call
 * SPDX-License-Identifier: MIT
 */
#include "common/base/err.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "net_private.h"

static int64_t padded_bytes(const struct state_tensor *t, int64_t B)
{
    return (B * t->count * dtype_bytes(t->t.dtype) + 63) / 64 * 64;
}

struct net_state *net_state_create(struct net *n, int64_t B, int64_t room)
{
    struct net_state *s = xcalloc(1, sizeof *s);
    struct carry carry[MAX_CARRIES];
    int64_t bytes = 0;
    *s = (struct net_state){ .n = n, .B = B, .room = room };
    s->t = xcalloc((size_t)n->c.layers * MAX_CARRIES, sizeof *s->t);
    s->by_layer = xcalloc((size_t)n->c.layers, sizeof *s->by_layer);
    for (int l = 0; l < n->c.layers; l++) {
        int k = layer_kind(n->c.pattern[l])->carries(carry, &n->c, l, room);
        for (int i = 0; i < k; i++) {
            struct state_tensor *t = &s->t[s->tensors++];
            enum dtype dtype = carry[i].act ? n->precision.act : F32;
            *t = (struct state_tensor){ l, carry[i].name, carry[i].count, tensor_of(NULL, carry[i].count, dtype) };
            bytes += padded_bytes(t, B);
        }
    }
    s->data = net_alloc(n->be, bytes, 1, "state");
    char *at = s->data;
    for (int i = 0, k = 0; i < s->tensors; i++) {
        k = i && s->t[i].layer == s->t[i - 1].layer ? k + 1 : 0;
        s->by_layer[s->t[i].layer][k] = s->t[i].t.data = at;
        at += padded_bytes(&s->t[i], B);
    }
    return s;
}

void net_state_free(struct net_state *s)
{
    if (!s)
        return;
    s->n->be->free(s->data);
    free(s->t);
    free(s->by_layer);
    free(s);
}

void net_state_clear(struct net_state *s, int64_t b)
{
    for (int i = 0; i < s->tensors; i++)
        s->n->be->zero(sequence(&s->t[i], b), sequence_bytes(&s->t[i]));
}

void net_state_copy_row(struct net_state *to, int64_t b, const struct net_state *from, int64_t a)
{
    for (int i = 0; i < to->tensors; i++) {
        if (to->t[i].count != from->t[i].count)
            bug("states of different room");
        to->n->be->copy(sequence(&to->t[i], b), sequence(&from->t[i], a), sequence_bytes(&to->t[i]));
    }
}

int64_t net_state_pos(const struct net_state *s) { return s->pos; }
void net_state_set_pos(struct net_state *s, int64_t pos) { s->pos = pos; }
int net_state_tensors(const struct net_state *s) { return s->tensors; }

struct tensor net_state_tensor(const struct net_state *s, int i, char name[64], int64_t *count)
{
    snprintf(name, 64, "layers.%d.%s", s->t[i].layer, s->t[i].name);
    *count = s->t[i].count;
    return s->t[i].t;
}

void net_state_download(const struct net_state *s, int i, float *host)
{
    const struct state_tensor *t = &s->t[i];
    size_t bytes = (size_t)s->B * sequence_bytes(t);
    if (t->t.dtype == F32) {
        s->n->be->download(host, t->t.data, bytes);
        return;
    }
    void *half = xmalloc(bytes);
    s->n->be->download(half, t->t.data, bytes);
    half_from_bf16(half, s->B * t->count, host);
    free(half);
}

void net_state_upload(struct net_state *s, int i, const float *host)
{
    const struct state_tensor *t = &s->t[i];
    size_t bytes = (size_t)s->B * sequence_bytes(t);
    if (t->t.dtype == F32) {
        s->n->be->upload(t->t.data, host, bytes);
        return;
    }
    void *half = xmalloc(bytes);
    half_to_bf16(host, s->B * t->count, half);
    s->n->be->upload(t->t.data, half, bytes);
    free(half);
}
