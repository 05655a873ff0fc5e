/* sentencepiece_shim.h - the few calls of libsentencepiece that sentencepiece.c makes, under C names
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SENTENCEPIECE_SHIM_H
#define SSM_SENTENCEPIECE_SHIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spm;
enum spm_sort { SPM_TEXT, SPM_UNKNOWN, SPM_CONTROL, SPM_BYTE };

/* A model out of the bytes of its file. NULL: `why` (`room` bytes) has the reason. */
struct spm *spm_try_open(const void *model, size_t n, char *why, size_t room);
void spm_free(struct spm *m);

int spm_pieces(const struct spm *m);
int spm_eos(const struct spm *m); /* -1: it has none */
/* The text of a piece, which is the model's, and what sort it is. 0 <= id < spm_pieces(). */
const char *spm_piece(const struct spm *m, int id, size_t *n);
enum spm_sort spm_sort(const struct spm *m, int id);

/* Hands the ids of a whole text to `take`, once. 0, or -1 with the reason in `why`. Threads may share m. */
int spm_encode(const struct spm *m, const char *text, size_t n,
               void (*take)(void *to, const int *ids, size_t n), void *to, char *why, size_t room);

#ifdef __cplusplus
}
#endif
#endif
