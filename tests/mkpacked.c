/* mkpacked.c - a program for tests: a packed set as `tokshard pack` would not make it, rows without targets among others
 * SPDX-License-Identifier: MIT
 *
 * mkpacked DIR T ROW...    a row a word, of letters: a small one is a token that does not count, a capital one a token
 *                          that does; each '.' is the end token of a document, which does not count, each '!' one that does
 */
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/io/set.h"
#include "common/io/shard.h"
#include "common/text/tokenizer.h"

int main(int argc, char **argv)
{
    err_init("mkpacked");
    meter_start(argc, argv);
    struct tokenizer *t = tokenizer_try_open("bytes", NULL);
    const struct tokenizer_info *ti = tokenizer_info(t);
    struct shard_info info = { .tokenizer_hash = ti->hash, .vocab = ti->vocab, .eod = ti->eod };
    memcpy(info.tokenizer, ti->name, sizeof info.tokenizer);
    if (argc < 4 || parse_int(argv[2], &info.seq_len) < 0)
        die_usage("mkpacked DIR T ROW...");
    set_prepare(argv[1], false);
    char *path = path_join(argv[1], "part.h5");
    struct shard_writer *w = shard_create(path, &info, 1, false);
    for (int i = 3; i < argc; i++) {
        uint32_t doc[1000];
        uint8_t mask[1000];
        int64_t n = 0;
        for (const char *p = argv[i]; *p && n < 1000; p++) {
            bool end = *p == '.' || *p == '!';
            doc[n] = end ? (uint32_t)ti->eod : (uint32_t)(unsigned char)*p | 32;
            mask[n++] = *p == '!' || (*p >= 'A' && *p <= 'Z');
            if (end) {
                shard_add_doc(w, doc, mask, n, n - 1);
                n = 0;
            }
        }
        shard_end_sample(w);
    }
    shard_commit(w, NULL);
    shards_write_index(argv[1], (const char *const[]){ "part.h5" }, 1, false);
    tokenizer_free(t);
    free(path);
    return 0;
}
