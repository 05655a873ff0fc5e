/* blend.c - a blend file: which sets of token shards, and how much of each
 * SPDX-License-Identifier: MIT
 */
#include "blend.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/opt.h"
#include "common/base/out.h"

enum { MOST_BYTES = 16 << 20 };

void blend_add(struct blend *b, const char *path, double weight)
{
    struct blend_set *s = grow(&b->set, &b->n, &b->cap, sizeof *b->set);
    *s = (struct blend_set){ .path = xstrdup(path), .weight = weight };
}

void blend_free(struct blend *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->set[i].path);
    free(b->set);
    *b = (struct blend){ 0 };
}

/* ---- one line ---- */

static const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == '\r')
        p++;
    return p;
}

/* The next field of a line, or NULL: its end, or a comment. *p goes behind it. -1 when a quote does not end. */
static int next_field(const char **p, char **field)
{
    const char *from = skip_blanks(*p);
    *field = NULL;
    if (!*from || *from == '#')
        return 0;
    if (*from == '"') {
        const char *to = strchr(from + 1, '"');
        if (!to)
            return err_set("a quote without end");
        *field = xasprintf("%.*s", (int)(to - from - 1), from + 1);
        *p = to + 1;
        return 0;
    }
    size_t n = strcspn(from, " \t\r");
    *field = xasprintf("%.*s", (int)n, from);
    *p = from + n;
    return 0;
}

static int try_positive(const char *text, const char *what, double *v)
{
    if (parse_real(text, v) < 0 || !(*v > 0))
        return err_set("'%s' is not %s above 0", text, what);
    return 0;
}

/* "alpha = A": 1, anything else 0. */
static int try_alpha(struct blend *b, const char *line)
{
    const char *p = skip_blanks(line);
    if (strncmp(p, "alpha", 5) != 0)
        return 0;
    p = skip_blanks(p + 5);
    if (*p != '=')
        return 0;
    p++;
    char *value, *rest = NULL;
    int rc = next_field(&p, &value);
    if (rc == 0)
        rc = next_field(&p, &rest);
    if (rc == 0 && (!value || rest || b->alpha > 0))
        rc = err_set(b->alpha > 0 ? "alpha comes twice" : "alpha is one number");
    if (rc == 0)
        rc = try_positive(value, "an alpha", &b->alpha);
    free(value);
    free(rest);
    return rc < 0 ? -1 : 1;
}

static char *from_folder_of(const char *file, const char *path)
{
    const char *name = path_base(file);
    if (*path == '/' || name == file)
        return xstrdup(path);
    return xasprintf("%.*s%s", (int)(name - file), file, path);
}

static int add_line(struct blend *b, const char *file, const char *path, const char *amount, const char *rest)
{
    struct blend_set s = { 0 };
    if (rest)
        return err_set("'%s' is too much: PATH WEIGHT, or PATH epochs=E", rest);
    if (!*path)
        return err_set("a PATH without a name");
    if (amount && strncmp(amount, "epochs=", 7) == 0) {
        if (try_positive(amount + 7, "a number of epochs", &s.epochs) < 0)
            return -1;
    } else if (amount && try_positive(amount, "a weight", &s.weight) < 0)
        return -1;
    s.path = from_folder_of(file, path);
    *(struct blend_set *)grow(&b->set, &b->n, &b->cap, sizeof s) = s;
    return 0;
}

static int parse_line(struct blend *b, const char *file, const char *line)
{
    char *path = NULL, *amount = NULL, *rest = NULL;
    int alpha = try_alpha(b, line);
    if (alpha)
        return alpha < 0 ? -1 : 0;
    int rc = next_field(&line, &path);
    if (rc == 0 && path)
        rc = next_field(&line, &amount);
    if (rc == 0 && amount)
        rc = next_field(&line, &rest);
    if (rc == 0 && path)
        rc = add_line(b, file, path, amount, rest);
    free(path);
    free(amount);
    free(rest);
    return rc;
}

/* ---- the file ---- */

/* Lines of one kind. */
static int check_kinds(const struct blend *b, const char *file)
{
    size_t epochs = 0, weights = 0;
    for (size_t i = 0; i < b->n; i++) {
        epochs += b->set[i].epochs > 0;
        weights += b->set[i].weight > 0;
    }
    if (b->n == 0)
        return err_set("'%s' names no sets", file);
    if (b->alpha > 0 && (epochs || weights))
        return err_set("'%s': with alpha a line is a PATH alone", file);
    if (epochs && epochs < b->n)
        return err_set("'%s': %zu of %zu lines have epochs=E; all do, or none", file, epochs, b->n);
    return 0;
}

int blend_try_parse(struct blend *b, const char *file, const char *text, size_t n)
{
    int64_t number = 0;
    if (memchr(text, 0, n))
        return err_set("'%s' is not a text file", file);
    for (const char *p = text, *end = text + n; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((nl ? nl : end) - p);
        char *line = xmalloc(len + 1);
        memcpy(line, p, len);
        line[len] = 0;
        int rc = parse_line(b, file, line);
        free(line);
        if (++number && rc < 0)
            return err_set("%s:%lld: %s", file, (long long)number, err_last());
        p += len + 1;
    }
    return check_kinds(b, file);
}

int blend_try_read(struct blend *b, const char *file)
{
    struct buf text = { 0 };
    if (path_is_dir(file))
        return err_set("'%s' is a folder, not a blend file", file);
    FILE *f = fopen(file, "rb");
    if (!f)
        return err_set("cannot open '%s': %s", file, strerror(errno));
    int rc = file_slurp(f, MOST_BYTES, &text) < 0 ? err_set("cannot read '%s'", file) : 0;
    fclose(f);
    if (rc == 0 && text.len > MOST_BYTES)
        rc = err_set("'%s' is too long for a blend file", file);
    buf_add(&text, "", 0);
    if (rc == 0)
        rc = blend_try_parse(b, file, text.data, text.len);
    buf_free(&text);
    return rc;
}

double blend_tokens(const struct shard_info *i)
{
    return i->seq_len ? (double)i->n_samples * (double)i->seq_len : (double)i->n_tokens;
}

int blend_try_open(struct blend *b)
{
    for (size_t i = 0; i < b->n; i++) {
        struct blend_set *x = &b->set[i];
        const struct shard_info *first = &b->set[0].info;
        struct shards *s = shards_try_open(x->path);
        if (!s)
            return -1;
        x->info = *shards_info(s);
        x->hash = shards_hash(s);
        shards_close(s);
        if (x->info.vocab != first->vocab || x->info.eod != first->eod ||
            x->info.tokenizer_hash != first->tokenizer_hash)
            return err_set("'%s' was made by tokenizer '%s' (%016llx), '%s' by '%s' (%016llx)", b->set[0].path,
                           first->tokenizer, (unsigned long long)first->tokenizer_hash, x->path, x->info.tokenizer,
                           (unsigned long long)x->info.tokenizer_hash);
        if (x->info.n_tokens < 1)
            return err_set("'%s' has no tokens", x->path);
        if (x->epochs > 0)
            x->weight = x->epochs * blend_tokens(&x->info);
        else if (b->alpha > 0)
            x->weight = pow(blend_tokens(&x->info), b->alpha);
        else if (!(x->weight > 0))
            x->weight = 1;
        if (!isfinite(x->weight))
            return err_set("the weight of '%s' is more than a number holds", x->path);
    }
    return 0;
}
