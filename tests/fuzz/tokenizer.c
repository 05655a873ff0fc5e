/* tokenizer.c - fuzz target: a tokenizer.json, or a rank file; what is read encodes any text, the same in any pieces
 * SPDX-License-Identifier: MIT
 * Seeds: tokenizer.json
 */
#include "fuzz.h"

#include "common/text/tokenizer.h"

/* What is not JSON is taken as lines of ranks. The bytes of the file serve as text too. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int fd = fuzz_file(data, n);
    char spec[64];
    snprintf(spec, sizeof spec, "%s/proc/self/fd/%d", n && data[0] == '{' ? "" : "tiktoken:gpt2:", fd);
    struct tokenizer_options o = { .specials = n % 2 ? SPECIALS_PARSE : SPECIALS_TEXT,
                                   .eod = n % 3 ? "!" : NULL };
    struct tokenizer *t = tokenizer_try_open(spec, &o);
    if (!t) {
        PROMISE(*err_last() && !strchr(err_last(), '\n') && strstr(err_last(), "/proc/self/fd"));
        return 0;
    }
    const struct tokenizer_info *info = tokenizer_info(t);
    struct token_stream *s = token_stream_new(t);
    struct token_ids whole = { 0 }, cut = { 0 };
    struct buf back = { 0 };
    size_t size = n < 2000 ? n : 2000;
    const uint8_t *text =
        data + (n - size); /* added tokens and words: the end of a file is the most like text */
    tokenizer_encode(s, text, size, true, &whole);
    for (size_t at = 0; at < size; at += 3)
        tokenizer_encode(s, text + at, size - at < 3 ? size - at : 3, false, &cut);
    tokenizer_encode(s, "", 0, true, &cut);
    PROMISE(whole.n == cut.n && (whole.n == 0 || memcmp(whole.id, cut.id, whole.n * sizeof *whole.id) == 0));
    for (size_t i = 0; i < whole.n; i++)
        PROMISE((int64_t)whole.id[i] < info->vocab);
    PROMISE(info->eod >= 0 && info->eod < info->vocab);
    PROMISE(tokenizer_try_decode(s, whole.id, whole.n, true, &back) == 0);
    token_ids_free(&whole);
    token_ids_free(&cut);
    buf_free(&back);
    token_stream_free(s);
    tokenizer_free(t);
    return 0;
}
