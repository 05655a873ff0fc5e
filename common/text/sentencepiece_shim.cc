/* sentencepiece_shim.cc - the one C++ file: libsentencepiece behind C names; built with SENTENCEPIECE=1
 * SPDX-License-Identifier: MIT
 *
 * Nothing is thrown out of here: running out of memory is told like any other failure.
 */
#include "sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
};

static void tell(const char *reason, char *why, size_t room) { std::snprintf(why, room, "%s", reason); }

extern "C" {

struct spm *spm_try_open(const void *model, size_t n, char *why, size_t room)
{
    spm *m = nullptr;
    try {
        m = new spm;
        auto status = m->processor.LoadFromSerializedProto({ static_cast<const char *>(model), n });
        if (status.ok())
            return m;
        tell(status.ToString().c_str(), why, room);
    } catch (const std::exception &e) {
        tell(e.what(), why, room);
    }
    delete m;
    return nullptr;
}

void spm_free(struct spm *m) { delete m; }

int spm_pieces(const struct spm *m) { return m->processor.GetPieceSize(); }

int spm_eos(const struct spm *m) { return m->processor.eos_id(); }

const char *spm_piece(const struct spm *m, int id, size_t *n)
{
    const std::string &piece = m->processor.IdToPiece(id);
    *n = piece.size();
    return piece.data();
}

enum spm_sort spm_sort(const struct spm *m, int id)
{
    return m->processor.IsUnknown(id)   ? SPM_UNKNOWN
           : m->processor.IsControl(id) ? SPM_CONTROL
           : m->processor.IsByte(id)    ? SPM_BYTE
                                        : SPM_TEXT;
}

int spm_encode(const struct spm *m, const char *text, size_t n, void (*take)(void *to, const int *ids, size_t n),
               void *to, char *why, size_t room)
{
    try {
        std::vector<int> ids;
        auto status = m->processor.Encode({ text, n }, &ids);
        if (status.ok()) {
            take(to, ids.data(), ids.size());
            return 0;
        }
        tell(status.ToString().c_str(), why, room);
    } catch (const std::exception &e) {
        tell(e.what(), why, room);
    }
    return -1;
}
}
