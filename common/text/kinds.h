/* kinds.h - the kinds of tokenizers that have a file of their own
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_KINDS_H
#define SSM_KINDS_H

#include "tokenizer.h"

extern const struct tokenizer_kind tokenizer_hf, tokenizer_tiktoken, tokenizer_sentencepiece;

#endif
