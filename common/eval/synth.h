/* synth.h - tasks made of nothing: phone books, needles, variables and words, as long as wanted
 * SPDX-License-Identifier: MIT
 *
 * What a model can find again in a long context. A document is a function of kind, seed, its number and its length.
 *   phonebook            n lines "First Last: 10 digits", then two of them again (the examples) and a name; its number
 *                        is asked for (Jelassi et al. 2024, "Repeat after me", section 4)
 *   phonebook-reversed   the same, but the name stands before the book too (Waleffe et al. 2024, section 3.3.2)
 *   needle               one number for one key between sentences that say nothing
 *   needle-keys          four keys with a number each, one is asked for
 *   needle-values        one key with four numbers, all are asked for
 *   needle-queries       four keys with a number each, all are asked for
 *   variables            a number and four variables that get it from each other; all five are asked for
 *   common-words         a list of words, ten of them ten times, the others once; the ten are asked for
 *   frequent-words       words as often as Zipf's law with exponent 2 has them; the three most frequent are asked for
 * The last seven follow RULER (Hsieh et al. 2024) in what is hidden and asked, not in its words: figures are not its.
 */
#ifndef SSM_SYNTH_H
#define SSM_SYNTH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/text/tokenizer.h"

#define SYNTH_KINDS                                                                                            \
    "phonebook|phonebook-reversed|needle|needle-keys|needle-values|needle-queries|variables|common-words|frequent-words"
enum { SYNTH_PHONEBOOK, SYNTH_REVERSED, SYNTH_WORDS = 7 }; /* places in that list */

enum synth_as {
    SYNTH_TASK,     /* a task for 'ssmeval tasks' */
    SYNTH_TEXT,     /* {"text": document with its answer}, to train on */
    SYNTH_MESSAGES, /* {"messages": [...]} for 'tokshard pack --template bare': answers, of examples too, and the ends of their
                       lines are the assistant's */
};

struct synth_options {
    int kind;               /* its place in SYNTH_KINDS */
    int64_t length;         /* tokens of a document and its answer at most; it is filled up to that */
    int64_t shortest;       /* documents differ in length, evenly between this and `length`; 0: all as long */
    int64_t count;          /* documents */
    int64_t shots;          /* phone books: examples before the question, as far as the book has names */
    uint64_t seed;
    enum synth_as as;
};

/* Writes JSONL. Dies when a document of that length holds nothing, or there are not enough names. */
void synth_write(const struct synth_options *o, const struct tokenizer *t, FILE *out);

#endif
