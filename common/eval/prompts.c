/* prompts.c - texts for a whole file of prompts
 * SPDX-License-Identifier: MIT
 */
#include "prompts.h"

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/utf8.h"
#include "lines.h"
#include "loglik.h"

/* What rank 0 tells the others: the prompts' ids and streams, one after the other. */
static void send_all(struct comm *comm, struct prompt **ps, size_t *count, const struct prompt *proto)
{
    struct buf b = { 0 };
    for (size_t i = 0; i < *count; i++) {
        uint64_t head[2] = { (uint64_t)(*ps)[i].n, (*ps)[i].stream };
        buf_add(&b, head, sizeof head);
        buf_add(&b, (*ps)[i].ids, (size_t)(*ps)[i].n * sizeof(uint32_t));
    }
    uint64_t sizes[2] = { *count, b.len };
    comm_bcast(comm, sizes, sizeof sizes, 0);
    if (comm->rank != 0) {
        b.data = xmalloc(sizes[1] + 1);
        *ps = xcalloc(sizes[0] + 1, sizeof **ps);
    }
    comm_bcast(comm, b.data, sizes[1], 0);
    const char *at = b.data;
    for (size_t i = 0; i < sizes[0] && comm->rank != 0; i++) {
        uint64_t head[2];
        memcpy(head, at, sizeof head);
        (*ps)[i] = *proto;
        (*ps)[i].n = (int64_t)head[0];
        (*ps)[i].stream = head[1];
        (*ps)[i].ids = xmalloc(head[0] * sizeof(uint32_t));
        memcpy((*ps)[i].ids, at + sizeof head, head[0] * sizeof(uint32_t));
        at += sizeof head + head[0] * sizeof(uint32_t);
    }
    *count = sizes[0];
    buf_free(&b);
}

/* The id of a line: a copy of it, or its number. */
static struct json *id_of(const struct json *line, size_t number, const char *where)
{
    const struct json *id = json_at(line, "id");
    if (id && json_kind(id) != JSON_TEXT && json_kind(id) != JSON_INT)
        die("%s: 'id' is neither a string nor an integer", where);
    struct json *map = json_make_map();
    if (id)
        json_put(map, "id", json_clone(id));
    else
        json_put_int(map, "id", (int64_t)number);
    return map;
}

static void print(struct json *map, const struct prompt *p)
{
    struct utf8 u = { 0 };
    struct buf room = { 0 };
    size_t len = p->text.len;
    const char *text = utf8_replace(&u, p->text.data, &len, true, &room);
    json_put_text(map, "text", text, len);
    json_put_int(map, "tokens", p->made);
    json_put_str(map, "finish", finish_name(p->finish));
    char *line = json_text(map, JSON_FLAT);
    printf("%s\n", line);
    free(line);
    buf_free(&room);
}

int64_t prompts_run(struct comm *comm, struct net *n, const struct tokenizer *t, const struct generation *g,
                    const struct prompt *proto, const char *path)
{
    struct prompt *ps = NULL;
    struct json **ids = NULL;
    size_t count = 0, cap = 0, mine = 0, n_ids = 0, cap_ids = 0;
    if (comm->rank == 0) {
        struct lines *l = lines_open(path);
        struct encoder e = { .in = token_stream_new(t), .vocab = n->c.vocab };
        for (struct json *j; (j = lines_next(l)); json_free(j)) {
            const char *text;
            size_t len;
            struct token_ids made = { 0 };
            if (json_try_text(j, "prompt", &text, &len) != 1)
                die("%s: %s", lines_where(l), err_last());
            *token_ids_room(&made, 1) = (uint32_t)g->eod; /* a document begins after the end of another */
            made.n = 1;
            if (encoder_try_text(&e, text, len, &made) < 0)
                die("%s: %s", lines_where(l), err_last());
            struct json *id = id_of(j, count, lines_where(l));
            char *name = json_text(id, JSON_FLAT);
            *(struct json **)grow(&ids, &n_ids, &cap_ids, sizeof *ids) = id;
            struct prompt *p = grow(&ps, &count, &cap, sizeof *p);
            *p = *proto;
            p->ids = made.id;
            p->n = (int64_t)made.n;
            p->stream = hash_bytes(name, strlen(name));
            free(name);
        }
        token_stream_free(e.in);
        lines_close(l);
    }
    send_all(comm, &ps, &count, proto);
    struct generation here = *g;
    struct prompt **turn = xcalloc(count + 1, sizeof *turn);
    here.batch = (int64_t)count < g->batch ? (int64_t)count : g->batch;
    for (size_t i = 0; i < count; i++)
        here.room = ps[i].n + ps[i].tokens > here.room ? ps[i].n + ps[i].tokens : here.room;
    for (size_t i = (size_t)comm->rank; i < count; i += (size_t)comm->size)
        turn[mine++] = &ps[i];
    if (mine > 0)
        generate_run(n, t, &here, turn, mine, comm->rank == 0);
    generate_share(comm, ps, count);
    int64_t tokens = 0;
    for (size_t i = 0; i < count; i++) {
        tokens += ps[i].made;
        if (comm->rank == 0) {
            print(ids[i], &ps[i]);
            json_free(ids[i]);
        }
        prompt_free(&ps[i]);
    }
    free(ids);
    free(ps);
    free(turn);
    return tokens;
}
