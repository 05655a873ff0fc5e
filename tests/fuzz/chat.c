/* chat.c - fuzz target: a conversation and a template; what is taken becomes ids and a mask that fit
 * SPDX-License-Identifier: MIT
 * Seeds: *.jsonl
 *
 * The first line is the conversation, the rest a template; where that is refused a plain one serves.
 */
#include "fuzz.h"

#include "common/prep/chat_template.h"

static void check(const struct chat_ids *o, int64_t eod)
{
    int64_t targets = 0;
    PROMISE(o->ids.n > 0 && o->ids.id[o->ids.n - 1] == (uint32_t)eod && o->bytes >= 0);
    for (size_t i = 0; i < o->ids.n; i++) {
        PROMISE(o->ids.id[i] <= (uint32_t)eod && o->mask[i] <= 1);
        targets += o->mask[i];
    }
    PROMISE(targets == o->targets);
}

static void encode(const struct tokenizer *tok, const struct chat_template *t, const struct chat *c)
{
    struct token_stream *s = token_stream_new(tok);
    struct chat_ids o = { 0 };
    int64_t eod = tokenizer_info(tok)->eod, had = 0;
    if (chat_template_try_encode(t, c, false, -1, s, &o, NULL) == 0) {
        int64_t n = (int64_t)o.ids.n;
        check(&o, eod);
        PROMISE(chat_template_try_encode(t, c, true, INT64_MAX, s, &o, &had) == 0);
        check(&o, eod);
        PROMISE((int64_t)o.ids.n == n && o.targets >= n - 1 && had <= n); /* a byte is an id, wherever text is cut */
        PROMISE(chat_template_try_encode(t, c, false, had / 2, s, &o, NULL) == 0 && (int64_t)o.ids.n == n - had + had / 2);
        check(&o, eod);
    }
    chat_ids_free(&o);
    token_stream_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char plain[] = "message = \"{role}: {content}\\n\"\nassistant = \"{answer}\"\nanswer = \"{content}{eod}\"\n";
    static struct tokenizer *tok;
    if (!tok)
        tok = tokenizer_try_open("bytes", NULL);
    const char *text = (const char *)data, *nl = n ? memchr(text, '\n', n) : NULL;
    size_t line = nl ? (size_t)(nl - text) : n, rest = n - line - (nl != NULL);
    struct chat_template *t = chat_template_try_parse("F", nl ? nl + 1 : "", rest, tok);
    if (!t) {
        PROMISE(*err_last() && strchr(err_last(), 'F'));
        t = chat_template_try_parse("F", plain, sizeof plain - 1, tok);
    }
    PROMISE(t);
    struct chat c = { 0 };
    if (chat_try_parse(&c, text, line, (enum chat_shape)(n % 5)) == 0)
        encode(tok, t, &c);
    else
        PROMISE(*err_last());
    chat_free(&c);
    chat_template_free(t);
    return 0;
}
