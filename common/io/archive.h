/* archive.h - the tensors of other people's models, whatever files they are in
 * SPDX-License-Identifier: MIT
 *
 * A path leads to one of these; in a folder the first that is there counts:
 *   model.safetensors, or model.safetensors.index.json with its shards (a folder with both is refused)
 *   pytorch_model.bin, or pytorch_model.bin.index.json with its shards (likewise)
 *   latest_checkpointed_iteration.txt of Megatron-LM -> release/ or iter_NNNNNNN/, or such a folder
 *   itself, with
 *     mp_rank_00/model_optim_rng.pt; the parts of several ranks (mp_rank_01, mp_rank_00_001) are refused
 * A file is known by what it begins with: safetensors, a torch zip file (*.bin, *.pt, *.pth), or by its
 * name an index (*.index.json). The format before torch 1.6 is refused.
 *
 * A torch file is a pickle; it is read by a machine that builds values and can call nothing (pickle.h).
 * Its tensors have the dotted path of the dictionaries that lead to them: in a state dict the plain name,
 * in Megatron's "model.embedding.word_embeddings.weight". Numbers, strings, truth values and None that
 * are not tensors are kept as values with such names: "iteration", "args.num_layers"; elements of lists
 * have their index, "args.betas.0"; a torch.dtype is the string "torch.bfloat16". Of safetensors the
 * strings of __metadata__ are values: "__metadata__.format".
 *
 * Nothing is mapped and nothing is read ahead: opening reads the headers, every read is a pread() into
 * the caller's memory. Files may be hostile: whatever is in them, the answer is data or an error of one
 * line that begins with the file's name. An archive may be read by several threads.
 */
#ifndef SSM_ARCHIVE_H
#define SSM_ARCHIVE_H

#include "foreign.h"

struct archive;

/* NULL with err_last(). */
struct archive *archive_try_open(const char *path) __attribute__((warn_unused_result));
void archive_close(struct archive *a); /* NULL is allowed */

enum archive_kind { ARCHIVE_SAFETENSORS, ARCHIVE_TORCH, ARCHIVE_MEGATRON };
enum archive_kind archive_kind(const struct archive *a);
/* The folder in which its files stand (where a config.json is to be looked for); for Megatron the one
 * that was given. */
const char *archive_dir(const struct archive *a);
int archive_files(const struct archive *a);
const char *archive_file(const struct archive *a, int i); /* path, by foreign_tensor.file */

int64_t archive_tensors(const struct archive *a);
const struct foreign_tensor *archive_tensor(const struct archive *a, int64_t i); /* sorted by name */
/* By its full name; NULL when there is none. */
const struct foreign_tensor *archive_find(const struct archive *a, const char *name);

/* Elements first .. first+n-1 of a tensor (rows first) as fp32; BF16, F16 and F32 exactly, F64 rounded.
 * 0, or -1 with err_last(): other types, elements that it does not have, a file that cannot be read. */
int archive_try_read_f32(const struct archive *a, const struct foreign_tensor *t, int64_t first,
                         int64_t n, float *out)
    __attribute__((warn_unused_result));
/* The same elements as they are stored: n * foreign_dtype_size() bytes. */
int archive_try_read_bytes(const struct archive *a, const struct foreign_tensor *t, int64_t first,
                         int64_t n, void *out)
    __attribute__((warn_unused_result));

const struct foreign_value *archive_find_value(const struct archive *a, const char *name); /* or NULL */
/* As the getters of common/base/json.h: 1 there; 0 absent or None, *v keeps what it had; -1 of another
 * kind or out of range, with err_last(), which names value and file. An int is a real too. */
int archive_meta_int(const struct archive *a, const char *name, int64_t lo, int64_t hi, int64_t *v)
    __attribute__((warn_unused_result));
int archive_meta_real(const struct archive *a, const char *name, double lo, double hi, double *v)
    __attribute__((warn_unused_result));
int archive_meta_bool(const struct archive *a, const char *name, bool *v) __attribute__((warn_unused_result));
int archive_meta_str(const struct archive *a, const char *name, const char **v)
    __attribute__((warn_unused_result));

#endif
