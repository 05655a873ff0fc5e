/* clean.c - the bytes of documents after the UTF-8 policy, and the share that a document falls in
 * SPDX-License-Identifier: MIT
 */
#include "clean.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

void clean_begin(struct clean *c, struct docs *docs, enum utf8_policy policy)
{
    *c = (struct clean){ .docs = docs, .policy = policy, .hash = hash_new() };
}

void clean_end(struct clean *c)
{
    hash_free(c->hash);
    buf_free(&c->mended);
}

bool clean_piece(struct clean *c, const char **p, size_t *n)
{
    *p = docs_piece(c->docs, n);
    bool last = !*p;
    if (last) {
        *p = "";
        *n = 0;
    }
    if (c->policy == UTF8_REPLACE)
        *p = utf8_replace(&c->utf8, *p, n, last, &c->mended);
    else if (c->policy == UTF8_REJECT && utf8_try_check(&c->utf8, *p, *n, last) < 0) {
        char *why = xstrdup(err_last());
        die("%s: %s; --utf8 replace mends it, --skip-bad skips the document", docs_where(c->docs, c->utf8.at),
            why);
    }
    return !last || *n > 0;
}

bool clean_passes(struct clean *c)
{
    struct utf8 u = { 0 };
    const char *p;
    size_t n;
    int bad = 0;
    if (c->policy != UTF8_REJECT)
        return true;
    while (bad == 0 && (p = docs_piece(c->docs, &n)))
        bad = utf8_try_check(&u, p, n, false);
    if (bad == 0)
        bad = utf8_try_check(&u, "", 0, true);
    if (bad < 0)
        note(2, "skipped %s: %s", docs_where(c->docs, u.at), err_last());
    docs_rewind(c->docs);
    return bad == 0;
}

uint64_t clean_hash(struct clean *c)
{
    const char *p;
    size_t n;
    int64_t replaced = c->utf8.replaced;
    while (clean_piece(c, &p, &n))
        hash_add(c->hash, p, n);
    docs_rewind(c->docs);
    utf8_begin(&c->utf8);
    c->utf8.replaced = replaced;
    return hash_end(c->hash);
}

uint64_t clean_below(double share) { return (uint64_t)ldexp(share, 64); }
