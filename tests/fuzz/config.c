/* config.c - fuzz target: a config.json of another program; what is read comes back the same when written
 * SPDX-License-Identifier: MIT
 * Seeds: config.json
 */
#include "fuzz.h"

#include "common/exchange/family.h"

/* Every tensor has a place, and its rows lie in the tensor there. */
static void places(const struct family *f, const struct config *c)
{
    struct params ps;
    params_init(&ps, c);
    for (size_t i = 0; i < ps.n; i++) {
        const struct param *p = &ps.p[i];
        struct place at;
        PROMISE(family_place(f, c, p, 0, &at));
        for (int k = 0; family_place(f, c, p, k, &at); k++) {
            PROMISE(at.ndim == p->ndim && at.run > 0 && at.base >= 0 && *at.name);
            PROMISE(at.base + (p->shape[0] - 1) / at.run * at.stride + (p->shape[0] - 1) % at.run <
                    at.shape[0]);
        }
    }
    params_free(&ps);
}

static void try_family(const struct family *f, const struct json *j)
{
    struct config c, again;
    char *pattern, *pattern2;
    if (family_try_read(f, j, NULL, NULL, &c, &pattern) < 0) {
        PROMISE(*err_last() && !strchr(err_last(), '\n') && !pattern);
        return;
    }
    if ((double)c.d_model * (double)c.layers < 1e6)
        places(f, &c);
    struct json *out = family_try_write(f, &c);
    if (!out)
        fprintf(stderr, "%s\n", err_last());
    PROMISE(out);
    PROMISE(family_try_read(f, out, NULL, NULL, &again, &pattern2) == 0);
    PROMISE(strcmp(pattern, pattern2) == 0 && config_vocab_rows(&c) == config_vocab_rows(&again));
    json_free(out);
    free(pattern);
    free(pattern2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct json *j = json_try_block("F", data, n);
    if (!j)
        return 0;
    const struct family *f = family_try_detect(j);
    if (f)
        try_family(f, j);
    else if (json_kind(j) == JSON_MAP)
        for (int i = 0; families[i]; i++)
            try_family(families[i], j);
    json_free(j);
    return 0;
}
