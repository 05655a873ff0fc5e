/* megatron.c - fuzz target: an index of Megatron-LM beside ids of 4 KiB
 * SPDX-License-Identifier: MIT
 * Seeds: *.idx
 */
#include "fuzz.h"

#include "common/base/mem.h"
#include "common/io/megatron.h"

enum { BIN = 4096 };

/* P.idx is the input, P.bin does not change. */
static const char *make_pair(const uint8_t *data, size_t n)
{
    static char prefix[64], idx[80];
    if (!*prefix) {
        char bin[80];
        snprintf(prefix, sizeof prefix, "/dev/shm/fuzz-megatron-%ld", (long)getpid());
        snprintf(idx, sizeof idx, "%s.idx", prefix);
        snprintf(bin, sizeof bin, "%s.bin", prefix);
        FILE *f = fopen(bin, "wb");
        PROMISE(f != NULL);
        for (int i = 0; i < BIN; i++)
            fputc(i * 7 % 251, f);
        PROMISE(fclose(f) == 0);
    }
    FILE *f = fopen(idx, "wb");
    PROMISE(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
    return prefix;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct megatron *m = megatron_try_open(make_pair(data, n));
    struct megatron_sequence q;
    int64_t tokens = 0, sequences = 0, document = 0;
    int rc;
    if (!m) {
        PROMISE(*err_last() && !strchr(err_last(), '\n'));
        return 0;
    }
    const struct megatron_info *info = megatron_info(m);
    PROMISE(info->tokens * id_type_size(info->type) + info->unused == BIN && info->unused >= 0);
    while ((rc = megatron_try_next(m, &q)) > 0) {
        uint32_t ids[BIN];
        PROMISE(q.tokens >= 0 && q.tokens <= BIN && q.document >= document && q.document < info->documents);
        if (megatron_try_read(m, &q, 0, q.tokens, 1000, ids) == 0)
            for (int64_t i = 0; i < q.tokens; i++)
                PROMISE(ids[i] < 1000);
        document = q.document + q.last;
        tokens += q.tokens;
        sequences++;
    }
    PROMISE(rc == 0 && tokens == info->tokens && sequences == info->sequences);
    megatron_close(m);
    return 0;
}
