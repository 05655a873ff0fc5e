/* synth.c - tasks made of nothing: phone books, needles, variables and words, as long as wanted
 * SPDX-License-Identifier: MIT
 */
#include "synth.h"

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

/* ---- words ---- */

static const char *const first_names[] = { "Ada", "Alan", "Alma", "Anna", "Arno", "Bela", "Berta", "Carl", "Cora", "Dana",
    "Dora", "Edgar", "Ella", "Emil", "Erik", "Eva", "Felix", "Flora", "Frida", "Georg", "Greta", "Gustav", "Hanna", "Hugo",
    "Ida", "Igor", "Ines", "Iris", "Ivan", "Jana", "Jonas", "Julia", "Karin", "Klaus", "Lara", "Leo", "Lena", "Linus", "Lotte",
    "Magda", "Maria", "Max", "Mira", "Nadia", "Nils", "Nora", "Olga", "Oscar", "Otto", "Paula", "Peter", "Rita", "Robert",
    "Rosa", "Ruth", "Simon", "Sofia", "Theo", "Tina", "Udo", "Vera", "Victor", "Wanda", "Xenia" };
static const char *const name_heads[] = { "Ash", "Bark", "Beck", "Birch", "Black", "Brook", "Burn", "Clay", "Cold", "Crow",
    "Dale", "Deer", "Elm", "Fair", "Fern", "Fox", "Frost", "Glen", "Gold", "Gray", "Green", "Hart", "Hawk", "Hazel", "Heath",
    "Hill", "Holm", "Kings", "Lake", "Lind", "Long", "Marsh", "Mill", "Moor", "North", "Oak", "Rock", "Sand", "Stone", "West" };
static const char *const name_tails[] = { "berg", "bridge", "by", "croft", "dale", "den", "feld", "field", "ford", "gate",
    "ham", "hill", "holt", "house", "hurst", "land", "ley", "man", "mark", "mere", "mond", "ner", "rick", "ridge", "shaw",
    "side", "smith", "stead", "ton", "wald", "ward", "water", "well", "wick", "wood", "worth", "yard", "stein", "thorpe", "son" };
static const char *const adjectives[] = { "amber", "bold", "brave", "calm", "clever", "cold", "dark", "deep", "early", "fast",
    "gentle", "glad", "golden", "happy", "hidden", "hollow", "kind", "late", "light", "lucky", "mild", "narrow", "noble", "old",
    "pale", "quick", "quiet", "rapid", "round", "secret", "sharp", "silent", "simple", "small", "soft", "strong", "sweet",
    "tall", "warm", "young" };
static const char *const nouns[] = { "anchor", "apple", "arrow", "badger", "basket", "bell", "bridge", "candle", "castle",
    "cloud", "comet", "door", "eagle", "engine", "falcon", "feather", "flute", "forest", "garden", "hammer", "harbor", "island",
    "jacket", "kettle", "ladder", "lantern", "magnet", "meadow", "mirror", "needle", "ocean", "orchid", "pencil", "planet",
    "ribbon", "saddle", "shovel", "temple", "valley", "window" };
static const char *const noise[] = { "Rain falls on the hills. ", "The river runs down to the sea. ", "Birds sit in the old trees. ",
    "Smoke rises over the roofs. ", "Then it is evening again. " };

#define COUNT(a) ((int64_t)(sizeof(a) / sizeof *(a)))
enum { NAMES = 64 * 40 * 40, KEYS = 40 * 40, HIDDEN = 4, COMMON = 10, OFTEN = 10 };

/* Random numbers of one document: the i-th of a purpose. */
struct dice {
    uint64_t seed, stream;
};
enum purpose { NAME, DIGITS, ASKED, KEY, VALUE, PLACE, VARIABLE, WORD, SHUFFLE, LENGTH };

static uint64_t roll(const struct dice *d, enum purpose p, int64_t i, int64_t n)
{
    return rng_u64(d->seed, d->stream, (uint64_t)p << 48 | (uint64_t)i) % (uint64_t)n;
}

/* The i-th of n in an order that the document has for the purpose. */
static int64_t pick(const struct dice *d, enum purpose p, int64_t n, int64_t i)
{
    uint64_t key = rng_u64(d->seed, d->stream, (uint64_t)p << 48 | 0xffffffffffffull);
    return (int64_t)rng_permute(key, (uint64_t)p, (uint64_t)n, (uint64_t)i);
}

/* ---- documents ---- */

struct item {
    struct buf context, answers; /* answers: one after the other, a NUL behind each */
    struct buf shots;            /* [examples][2] size_t: from where to where in `context` their answers are */
};

static void add_name(struct buf *b, const struct dice *d, int64_t entry)
{
    int64_t k = pick(d, NAME, NAMES, entry);
    buf_addf(b, "%s %s%s", first_names[k % 64], name_heads[k / 64 % 40], name_tails[k / 64 / 40]);
}

static void add_number(struct buf *b, const struct dice *d, int64_t entry)
{
    buf_addf(b, "%d%09d", 6 + (int)roll(d, DIGITS, 2 * entry, 4), (int)roll(d, DIGITS, 2 * entry + 1, 1000000000));
}

static void add_entry(struct buf *b, const struct dice *d, int64_t entry)
{
    add_name(b, d, entry);
    buf_add(b, ": ", 2);
    add_number(b, d, entry);
}

static void end_answer(struct item *it) { buf_add(&it->answers, "", 1); }

/* n: names in the book. The question and its examples are other names, in an order of their own. */
static void phonebook(struct item *it, const struct synth_options *o, const struct dice *d, int64_t n)
{
    struct buf *b = &it->context;
    int64_t shots = o->shots < n ? o->shots : n - 1, asked = pick(d, ASKED, n, shots);
    if (o->kind == SYNTH_REVERSED) {
        buf_addf(b, "Look up the number of ");
        add_name(b, d, asked);
        buf_addf(b, " in this phone book.\n\n");
    }
    for (int64_t i = 0; i < n; i++) {
        add_entry(b, d, i);
        buf_add(b, "\n", 1);
    }
    buf_add(b, "\n", 1);
    for (int64_t i = 0; i < shots; i++) {
        int64_t entry = pick(d, ASKED, n, i);
        size_t from_to[2];
        add_name(b, d, entry);
        buf_add(b, ":", 1);
        from_to[0] = b->len;
        buf_add(b, " ", 1);
        add_number(b, d, entry);
        buf_add(b, "\n", 1);
        from_to[1] = b->len;
        buf_add(&it->shots, from_to, sizeof from_to);
    }
    buf_add(b, "\n", shots > 0);
    add_name(b, d, asked);
    buf_add(b, ":", 1);
    add_number(&it->answers, d, asked);
    end_answer(it);
}

static void add_key(struct buf *b, const struct dice *d, int64_t i)
{
    int64_t k = pick(d, KEY, KEYS, i);
    buf_addf(b, "%s %s", adjectives[k % 40], nouns[k / 40]);
}

static int hidden_number(const struct dice *d, int64_t i) { return 1000000 + (int)roll(d, VALUE, i, 9000000); }

static int by_place(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return x[0] != y[0] ? (x[0] > y[0]) - (x[0] < y[0]) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* n sentences of noise, with `many` others at places of their own, written by add(b, d, i); in_order: the i-th comes
 * before the next. */
static void hide(struct buf *b, const struct dice *d, int64_t n, int64_t many, bool in_order,
                 void (*add)(struct buf *b, const struct dice *d, int64_t i))
{
    int64_t place[HIDDEN + 1][2];
    for (int64_t i = 0; i < many; i++) {
        place[i][0] = (int64_t)roll(d, PLACE, i, n + 1);
        place[i][1] = i;
    }
    qsort(place, (size_t)many, sizeof *place, by_place);
    for (int64_t s = 0, k = 0; s <= n; s++) {
        for (; k < many && place[k][0] == s; k++)
            add(b, d, in_order ? k : place[k][1]);
        if (s < n)
            buf_addf(b, "%s", noise[s % COUNT(noise)]);
    }
}

static void add_needle(struct buf *b, const struct dice *d, int64_t i)
{
    buf_addf(b, "The number of the ");
    add_key(b, d, i);
    buf_addf(b, " is %d. ", hidden_number(d, i));
}

static void add_value(struct buf *b, const struct dice *d, int64_t i)
{
    buf_addf(b, "One number of the ");
    add_key(b, d, 0);
    buf_addf(b, " is %d. ", hidden_number(d, i));
}

/* Four keys are asked for in the order of their numbers, not of their places. */
static void needle(struct item *it, const struct synth_options *o, const struct dice *d, int64_t n)
{
    struct buf *b = &it->context;
    bool values = o->kind == 4, queries = o->kind == 5;
    int64_t many = o->kind == 2 ? 1 : HIDDEN, asked = queries || values ? HIDDEN : 1;
    buf_addf(b, "Remember the numbers in this text.\n\n");
    hide(b, d, n, many, false, values ? add_value : add_needle);
    buf_addf(b, "\n\nQuestion: What %s of the ", asked > 1 ? "are the numbers" : "is the number");
    for (int64_t i = 0; i < (queries ? asked : 1); i++) {
        buf_addf(b, "%s", i == 0 ? "" : i == asked - 1 ? " and the " : ", the ");
        add_key(b, d, i);
    }
    buf_addf(b, "?\nAnswer:");
    for (int64_t i = 0; i < asked; i++) {
        buf_addf(&it->answers, "%d", hidden_number(d, i));
        end_answer(it);
    }
}

/* Five letters, the first of which tells variables of a document apart. */
static void add_variable(struct buf *b, const struct dice *d, int64_t i)
{
    char name[6] = { (char)('A' + pick(d, VARIABLE, 26, i)) };
    for (int k = 1; k < 5; k++)
        name[k] = (char)('A' + roll(d, VARIABLE, 8 * i + k, 26));
    buf_add(b, name, 5);
}

static void add_assignment(struct buf *b, const struct dice *d, int64_t i)
{
    buf_addf(b, "Set ");
    add_variable(b, d, i);
    if (i == 0)
        buf_addf(b, " to %d. ", (int)(10000 + roll(d, VALUE, 0, 90000)));
    else {
        buf_addf(b, " to the value of ");
        add_variable(b, d, i - 1);
        buf_addf(b, ". ");
    }
}

static void variables(struct item *it, const struct synth_options *o, const struct dice *d, int64_t n)
{
    (void)o;
    buf_addf(&it->context, "Keep track of the variables that are set in this text.\n\n");
    hide(&it->context, d, n, HIDDEN + 1, true, add_assignment);
    buf_addf(&it->context, "\n\nQuestion: Which variables have the value %d?\nAnswer:", (int)(10000 + roll(d, VALUE, 0, 90000)));
    for (int64_t i = 0; i <= HIDDEN; i++) {
        add_variable(&it->answers, d, i);
        end_answer(it);
    }
}

/* Word k of a document: three syllables, no two words alike. */
static void add_word(struct buf *b, const struct dice *d, int64_t k)
{
    int64_t w = pick(d, WORD, 75 * 75 * 75, k);
    for (int i = 0; i < 3; i++, w /= 75)
        buf_addf(b, "%c%c", "bdfgklmnprstvwz"[w % 75 / 5], "aeiou"[w % 5]);
}

/* Words in an order of their own, of which word k comes count(n, k) times: until that is 0. */
static void shuffled(struct item *it, const struct dice *d, int64_t n, int64_t (*count)(int64_t n, int64_t k), bool numbers)
{
    int64_t total = 0, at = 0, c;
    for (int64_t k = 0; (c = count(n, k)) > 0; k++)
        total += c;
    int64_t *word = xcalloc((size_t)total, sizeof *word);
    for (int64_t k = 0; (c = count(n, k)) > 0; k++)
        while (c-- > 0)
            word[pick(d, SHUFFLE, total, at++)] = k;
    for (int64_t i = 0; i < total; i++) {
        if (numbers)
            buf_addf(&it->context, "%lld. ", (long long)i + 1);
        add_word(&it->context, d, word[i]);
        buf_add(&it->context, " ", i + 1 < total);
    }
    free(word);
}

static int64_t count_common(int64_t n, int64_t k) { return k < COMMON ? OFTEN : k < COMMON + n; }

/* n k^-2 / zeta(2), rounded down, and in front more, so that the first four differ. */
static int64_t count_frequent(int64_t n, int64_t k)
{
    double share = 0.6079271018540267 / (double)((k + 1) * (k + 1));
    return (int64_t)((double)n * share) + (k < 3 ? 3 - k : 0);
}

static void words(struct item *it, const struct synth_options *o, const struct dice *d, int64_t n)
{
    bool common = o->kind == SYNTH_WORDS;
    buf_addf(&it->context, "Remember how often each word comes in this list.\n\n");
    shuffled(it, d, n, common ? count_common : count_frequent, common);
    buf_addf(&it->context, "\n\nQuestion: Which %s words come most often in the list?\nAnswer:", common ? "ten" : "three");
    for (int64_t k = 0; k < (common ? COMMON : 3); k++) {
        add_word(&it->answers, d, k);
        end_answer(it);
    }
}

/* By kind: what it is, units that it has at least and at most, and what the model may say in RULER, in tokens. */
static const struct {
    const char *name;
    void (*make)(struct item *it, const struct synth_options *o, const struct dice *d, int64_t n);
    int64_t least, most, answer;
} kinds[] = {
    { "phonebook", phonebook, 1, NAMES, 16 },
    { "phonebook-reversed", phonebook, 1, NAMES, 16 },
    { "needle", needle, 1, 1 << 30, 128 },
    { "needle-keys", needle, 1, 1 << 30, 128 },
    { "needle-values", needle, 1, 1 << 30, 128 },
    { "needle-queries", needle, 1, 1 << 30, 128 },
    { "variables", variables, 1, 1 << 30, 30 },
    { "common-words", words, 1, 75 * 75 * 75 - COMMON, 120 },
    { "frequent-words", words, 1, 1 << 30, 50 },
};

static void item_free(struct item *it)
{
    buf_free(&it->context);
    buf_free(&it->answers);
    buf_free(&it->shots);
}

static int64_t tokens_of(struct token_stream *s, const struct buf *b)
{
    struct token_ids ids = { 0 };
    tokenizer_encode(s, b->data, b->len, true, &ids);
    int64_t n = (int64_t)ids.n;
    token_ids_free(&ids);
    return n;
}

/* " A, B, C": how a text goes on with its answers. */
static void join_answers(const struct item *it, struct buf *out)
{
    for (size_t i = 0; i < it->answers.len; i += strlen(it->answers.data + i) + 1)
        buf_addf(out, "%s%s", i == 0 ? " " : ", ", it->answers.data + i);
}

/* Tokens of document and answer with n units; what the model may say counts as much as kinds[] says, or twice the
 * answer where that is more (a tokenizer of bytes): *room of them. */
static int64_t measure(const struct synth_options *o, const struct dice *d, struct token_stream *s, int64_t n, struct item *it,
                       int64_t *room)
{
    struct buf answer = { 0 };
    buf_clear(&it->context);
    buf_clear(&it->answers);
    buf_clear(&it->shots);
    kinds[o->kind].make(it, o, d, n);
    join_answers(it, &answer);
    int64_t say = 2 * tokens_of(s, &answer), given = tokens_of(s, &it->context);
    *room = say > kinds[o->kind].answer && o->kind > SYNTH_REVERSED ? say : kinds[o->kind].answer;
    if (o->as != SYNTH_TASK)
        *room = tokens_of(s, &answer) + (o->as == SYNTH_MESSAGES ? 2 : 1); /* the ends of line and document */
    buf_free(&answer);
    return given + *room;
}

/* The document with as many units as fit. */
static void fill(const struct synth_options *o, const struct dice *d, struct token_stream *s, int64_t length, struct item *it,
                 int64_t *room)
{
    int64_t lo = kinds[o->kind].least, most = kinds[o->kind].most, hi = lo, n;
    int64_t least = measure(o, d, s, lo, it, room);
    if (least > length)
        die("%lld tokens are too few: the shortest '%s' has %lld with what the answer may take", (long long)length,
            kinds[o->kind].name, (long long)least);
    while (hi < most && measure(o, d, s, hi, it, room) <= length)
        lo = hi, hi = 2 * hi < most ? 2 * hi : most;
    if (hi == most && measure(o, d, s, hi, it, room) <= length)
        die("%lld tokens are too many: a '%s' has %lld at most", (long long)length, kinds[o->kind].name,
            (long long)measure(o, d, s, hi, it, room));
    while (hi - lo > 1) {
        n = lo + (hi - lo) / 2;
        if (measure(o, d, s, n, it, room) <= length)
            lo = n;
        else
            hi = n;
    }
    measure(o, d, s, lo, it, room);
}

static void print(struct json *j, FILE *out)
{
    char *line = json_text(j, JSON_FLAT);
    fprintf(out, "%s\n", line);
    free(line);
    json_free(j);
}

static void print_head(const struct synth_options *o, const struct tokenizer *t, int64_t room, FILE *out)
{
    struct json *j = json_make_map(), *until = json_make_list(), *metrics = json_make_list(), *config = json_make_map();
    bool book = o->kind <= SYNTH_REVERSED;
    char *name = xasprintf("%s-%lld", kinds[o->kind].name, (long long)o->length);
    json_put_str(j, "task", name);
    json_put_str(j, "output_type", "generate_until");
    json_put_int(j, "version", 1);
    json_put_int(j, "num_fewshot", book ? o->shots : 0);
    if (book)
        json_add_str(metrics, "exact_match");
    else
        json_add_str(metrics, "contains_all");
    json_put(j, "metrics", metrics);
    if (book)
        json_add_str(until, "\n");
    json_put(j, "until", until);
    json_put_int(j, "max_gen_toks", room);
    json_put_bool(j, "strip", true);
    json_put_int(config, "length", o->length);
    json_put_int(config, "seed", (int64_t)o->seed);
    json_put_str(config, "tokenizer", tokenizer_info(t)->name);
    json_put(j, "config", config);
    print(j, out);
    free(name);
}

static void add_message(struct json *messages, const char *role, const char *text, size_t n)
{
    struct json *m = json_make_map();
    json_put_str(m, "role", role);
    json_put_text(m, "content", text, n);
    json_add(messages, m);
}

static struct json *messages_of(const struct item *it, const struct buf *answer)
{
    struct json *messages = json_make_list();
    const char *text = it->context.data;
    size_t at = 0, (*shots)[2] = (void *)it->shots.data;
    for (size_t i = 0; i < it->shots.len / sizeof *shots; i++) {
        add_message(messages, "user", text + at, shots[i][0] - at);
        add_message(messages, "assistant", text + shots[i][0], shots[i][1] - shots[i][0]);
        at = shots[i][1];
    }
    add_message(messages, "user", text + at, it->context.len - at);
    add_message(messages, "assistant", answer->data, answer->len);
    return messages;
}

static void print_item(const struct synth_options *o, const struct item *it, FILE *out)
{
    struct json *j = json_make_map(), *targets;
    struct buf whole = { 0 };
    switch (o->as) {
    case SYNTH_TASK:
        json_put_text(j, "context", it->context.data, it->context.len);
        targets = json_make_list();
        for (size_t i = 0; i < it->answers.len; i += strlen(it->answers.data + i) + 1)
            json_add_str(targets, it->answers.data + i);
        json_put(j, "target", targets);
        break;
    case SYNTH_TEXT:
        buf_add(&whole, it->context.data, it->context.len);
        join_answers(it, &whole);
        json_put_text(j, "text", whole.data, whole.len);
        break;
    case SYNTH_MESSAGES:
        join_answers(it, &whole);
        buf_add(&whole, "\n", 1); /* where the model is to stop, which it has to learn too */
        json_put(j, "messages", messages_of(it, &whole));
        break;
    }
    print(j, out);
    buf_free(&whole);
}

void synth_write(const struct synth_options *o, const struct tokenizer *t, FILE *out)
{
    struct token_stream *s = token_stream_new(t);
    struct item *it = xcalloc((size_t)o->count, sizeof *it);
    int64_t most = 0;
    for (int64_t i = 0; i < o->count; i++) {
        struct dice d = { o->seed, rng_stream(kinds[o->kind].name) + (uint64_t)i };
        int64_t shortest = o->shortest ? o->shortest : o->length, room;
        int64_t length = shortest + (int64_t)roll(&d, LENGTH, 0, o->length - shortest + 1);
        fill(o, &d, s, length, &it[i], &room);
        most = room > most ? room : most;
        if (o->as != SYNTH_TASK) { /* of a task the first line has to know all */
            print_item(o, &it[i], out);
            item_free(&it[i]);
        }
    }
    if (o->as == SYNTH_TASK)
        print_head(o, t, most, out);
    for (int64_t i = 0; i < o->count && o->as == SYNTH_TASK; i++) {
        print_item(o, &it[i], out);
        item_free(&it[i]);
    }
    token_stream_free(s);
    free(it);
}
