/* generate.c - texts that a model makes of prompts, many at a time
 * SPDX-License-Identifier: MIT
 */
#include "generate.h"

#include <math.h>

#include "common/base/err.h"
#include "common/base/meter.h"

enum { PIECE = 2048 }; /* tokens of a prompt that are read at once: the state between has a bounded size */

/* A row of the batch. */
struct row {
    struct prompt *p;           /* NULL: idle */
    struct token_stream *out;
    uint8_t *seen;              /* [vocab], or NULL without a penalty */
    size_t emitted;             /* bytes */
};

struct work {
    struct net *n;
    const struct generation *g;
    struct sampler *sampler;
    struct row *row;            /* [B] */
    int64_t B;
    int32_t *ids;               /* [B] the newest tokens */
    int64_t *pos;               /* [B] tokens that the state has seen */
    float *logits;              /* [B,vocab] */
    struct net_ctx *read, *step;
    struct net_state *fresh, *state;
};

const char *finish_name(enum finish f)
{
    return f == FINISH_LENGTH ? "length" : f == FINISH_STOP ? "stop" : "end";
}

void prompt_free(struct prompt *p)
{
    free(p->ids);
    buf_free(&p->text);
}

static const char *find(const char *text, size_t n, const char *what, size_t len)
{
    for (const char *at = text; (size_t)(at - text) + len <= n; at++) {
        at = memchr(at, what[0], n - (size_t)(at - text) - len + 1);
        if (!at)
            return NULL;
        if (memcmp(at, what, len) == 0)
            return at;
    }
    return NULL;
}

/* Cuts the text at the stop strings, one after the other as the harness does; `from`: bytes that were looked at before.
 * true when there was one. */
static bool cut_at_stop(struct prompt *p, size_t from)
{
    bool any = false;
    for (size_t i = 0; i < p->stops; i++) {
        size_t len = strlen(p->stop[i]), begin = from >= len ? from - len + 1 : 0;
        const char *at = begin < p->text.len ? find(p->text.data + begin, p->text.len - begin, p->stop[i], len) : NULL;
        if (at) {
            p->text.len = (size_t)(at - p->text.data);
            any = true;
        }
    }
    return any;
}

/* Bytes at the end of the text with which a stop string may begin. */
static size_t may_stop(const struct prompt *p)
{
    size_t most = 0;
    for (size_t i = 0; i < p->stops; i++) {
        size_t len = strlen(p->stop[i]);
        for (size_t k = len - 1 < p->text.len ? len - 1 : p->text.len; k > most; k--)
            if (memcmp(p->text.data + p->text.len - k, p->stop[i], k) == 0)
                most = k;
    }
    return most;
}

/* Takes one token of a text in. true: the text is done. */
static bool take(struct work *w, struct row *r, int32_t id)
{
    struct prompt *p = r->p;
    size_t before = p->text.len;
    uint32_t one = (uint32_t)id;
    bool end = id == w->g->eod && !w->g->past_end, done = true;
    p->made++;
    if (r->seen)
        r->seen[id] = 1;
    if (tokenizer_try_decode(r->out, &one, id != w->g->eod, id == w->g->eod, &p->text) < 0)
        die("%s", err_last());
    if (id == w->g->eod && w->g->past_end)
        buf_add(&p->text, "\n", 1);
    if (end)
        p->finish = FINISH_END;
    else if (p->made == p->tokens)
        p->finish = FINISH_LENGTH;
    else
        done = false;
    if (done && !end && tokenizer_try_decode(r->out, NULL, 0, true, &p->text) < 0)
        die("%s", err_last());
    if (cut_at_stop(p, before)) {
        p->finish = FINISH_STOP;
        done = true;
    }
    size_t safe = p->text.len - (done ? 0 : may_stop(p));
    if (w->g->emit && safe > r->emitted) {
        if (!w->g->emit(w->g->to, p->text.data + r->emitted, safe - r->emitted))
            done = true;
        r->emitted = safe;
    }
    return done;
}

/* The next token of row b out of its logits. true: its text is done. */
static bool draw(struct work *w, int64_t b, const float *logits)
{
    struct row *r = &w->row[b];
    int32_t id = sampler_token(w->sampler, logits, r->seen, r->p->stream, (uint64_t)r->p->made);
    if (!isfinite(logits[id]))
        die("token %lld: the model's output is not finite", (long long)r->p->made);
    w->ids[b] = id;
    return take(w, r, id);
}

/* Reads a prompt and draws its first token. true: that was all. */
static bool begin(struct work *w, int64_t b, struct prompt *p)
{
    struct row *r = &w->row[b];
    int64_t V = w->n->c.vocab;
    r->p = p;
    r->emitted = 0;
    buf_add(&p->text, "", 0);
    if (r->seen) {
        memset(r->seen, 0, (size_t)V);
        for (int64_t i = 0; i < p->n; i++)
            r->seen[p->ids[i]] = 1;
    }
    net_state_clear(w->fresh, 0);
    net_state_set_pos(w->fresh, 0);
    for (int64_t at = 0; at < p->n; at += PIECE)
        net_decode(w->read, w->fresh, (const int32_t *)p->ids + at, p->n - at < PIECE ? p->n - at : PIECE,
                   w->logits + b * V);
    net_state_copy_row(w->state, b, w->fresh, 0);
    w->pos[b] = p->n;
    return draw(w, b, w->logits + b * V);
}

/* Leaves the row idle: its stream of text is at its end. */
static void finish(struct work *w, int64_t b)
{
    struct buf rest = { 0 };
    if (tokenizer_try_decode(w->row[b].out, NULL, 0, true, &rest) < 0) /* nothing is left of a text that was cut */
        die("%s", err_last());
    buf_free(&rest);
    w->row[b].p = NULL;
    w->ids[b] = 0;
    w->pos[b] = 1;
}

void generate_run(struct net *n, const struct tokenizer *t, const struct generation *g, struct prompt **ps,
                  size_t count, bool progress)
{
    int64_t V = n->c.vocab, longest = 1;
    for (size_t i = 0; i < count; i++)
        longest = ps[i]->n > longest ? ps[i]->n : longest;
    int64_t known = tokenizer_info(t)->vocab < V ? tokenizer_info(t)->vocab : V; /* rows beyond have no text */
    struct work w = { .n = n, .g = g, .B = g->batch, .sampler = sampler_new(&g->sampling, known) };
    w.row = xcalloc((size_t)w.B, sizeof *w.row);
    w.ids = xcalloc((size_t)w.B, sizeof *w.ids);
    w.pos = xcalloc((size_t)w.B, sizeof *w.pos);
    w.logits = xcalloc(mul_size((size_t)w.B, (size_t)V, "logits"), sizeof *w.logits);
    w.fresh = net_state_create(n, 1, g->room);
    w.state = net_state_create(n, w.B, g->room);
    w.read = net_ctx_create(n, 1, longest < PIECE ? longest : PIECE, false, RECOMPUTE_NONE, g->room);
    w.step = net_ctx_create(n, w.B, 1, false, RECOMPUTE_NONE, g->room);
    for (int64_t b = 0; b < w.B; b++) {
        w.row[b].out = token_stream_new(t);
        w.row[b].seen = g->sampling.penalty != 1 ? xcalloc((size_t)V, 1) : NULL;
        w.pos[b] = 1;
    }
    struct progress bar;
    if (progress)
        progress_begin(&bar, 0, (int64_t)count, 10);
    size_t next = 0, done = 0;
    while (done < count) {
        for (int64_t b = 0; b < w.B; b++)
            while (!w.row[b].p && next < count)
                if (begin(&w, b, ps[next++])) {
                    finish(&w, b);
                    done++;
                }
        if (done == count)
            break;
        net_decode_rows(w.step, w.state, w.ids, w.pos, w.logits);
        for (int64_t b = 0; b < w.B; b++) {
            if (!w.row[b].p)
                continue;
            w.pos[b]++;
            if (draw(&w, b, w.logits + b * V)) {
                finish(&w, b);
                done++;
            }
        }
        if (progress)
            progress_at(&bar, (int64_t)done, "texts");
    }
    if (progress)
        progress_end(&bar);
    for (int64_t b = 0; b < w.B; b++) {
        token_stream_free(w.row[b].out);
        free(w.row[b].seen);
    }
    sampler_free(w.sampler);
    net_ctx_free(w.read);
    net_ctx_free(w.step);
    net_state_free(w.fresh);
    net_state_free(w.state);
    free(w.row);
    free(w.ids);
    free(w.pos);
    free(w.logits);
}

void generate_share(struct comm *comm, struct prompt *p, size_t n)
{
    struct buf mine = { 0 };
    buf_add(&mine, "", 0);
    for (size_t i = (size_t)comm->rank; i < n; i += (size_t)comm->size) {
        uint64_t head[3] = { (uint64_t)p[i].made, p[i].finish, p[i].text.len };
        buf_add(&mine, head, sizeof head);
        buf_add(&mine, p[i].text.data, p[i].text.len);
    }
    size_t most = (size_t)comm_max_i64(comm, (int64_t)mine.len);
    char *all = xcalloc((size_t)comm->size, most + 1), *padded = xcalloc(1, most + 1);
    memcpy(padded, mine.data, mine.len);
    comm_all_gather(comm, padded, most, all);
    for (int r = 0; r < comm->size; r++) {
        const char *at = all + (size_t)r * most;
        for (size_t i = (size_t)r; i < n; i += (size_t)comm->size) {
            uint64_t head[3];
            memcpy(head, at, sizeof head);
            p[i].made = (int64_t)head[0];
            p[i].finish = (enum finish)head[1];
            buf_clear(&p[i].text);
            buf_add(&p[i].text, at + sizeof head, head[2]);
            at += sizeof head + head[2];
        }
    }
    free(all);
    free(padded);
    buf_free(&mine);
}
