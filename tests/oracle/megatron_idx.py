#!/usr/bin/env python3
"""Megatron-LM's indexed datasets and llm.c's token files, written and read by numpy alone (make goldens, read ours).

    megatron_idx.py make [DIR]      tests/golden/megatron-data: the files, and NAME.txt with the ids, a document a line
    megatron_idx.py read PREFIX     ids of PREFIX.bin, a document a line, sequences separated by ' | '
    megatron_idx.py llmc FILE...    ids of token files of llm.c, in one line
SPDX-License-Identifier: MIT
"""
import os
import struct
import sys

import numpy as np

CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
MAGIC = b"MMIDIDX\x00\x00"


def write(prefix, code, documents, modes=False):
    """documents: lists of sequences, which are lists of ids."""
    size = np.dtype(CODES[code]).itemsize
    sequences = [s for d in documents for s in d]
    lengths = np.array([len(s) for s in sequences], "<i4")
    pointers = np.concatenate([[0], np.cumsum(lengths.astype("<i8"))])[:-1] * size
    ends = np.cumsum([0] + [len(d) for d in documents])
    with open(prefix + ".bin", "wb") as f:
        for s in sequences:
            f.write(np.array(s, CODES[code]).tobytes(order="C"))
    with open(prefix + ".idx", "wb") as f:
        f.write(MAGIC + struct.pack("<QBQQ", 1, code, len(sequences), len(ends)))
        f.write(lengths.tobytes() + pointers.astype("<i8").tobytes() + ends.astype("<i8").tobytes())
        if modes:
            f.write(np.zeros(len(sequences), "i1").tobytes())


def read(prefix):
    """As MMapIndexedDataset: arrays are views of the mapped index."""
    index = np.memmap(prefix + ".idx", mode="r", order="C")
    assert bytes(index[:9]) == MAGIC
    version, code, s, d = struct.unpack("<QBQQ", bytes(index[9:34]))
    assert version == 1
    lengths = np.frombuffer(index, "<i4", count=s, offset=34)
    pointers = np.frombuffer(index, "<i8", count=s, offset=34 + lengths.nbytes)
    ends = np.frombuffer(index, "<i8", count=d, offset=34 + lengths.nbytes + pointers.nbytes)
    assert len(lengths) == ends[-1] and ends[0] == 0
    data = np.memmap(prefix + ".bin", mode="r", order="C") if os.path.getsize(prefix + ".bin") else b""
    ids = [np.frombuffer(data, CODES[code], count=n, offset=at) for n, at in zip(lengths, pointers)]
    return [ids[a:b] for a, b in zip(ends[:-1], ends[1:])]


LLMC = {2: (20240520, 1, np.uint16), 4: (20240801, 7, np.uint32)}


def llmc_write(path, size, ids):
    magic, version, dtype = LLMC[size]
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids)
    with open(path, "wb") as f:
        f.write(header.tobytes() + np.array(ids, dtype).tobytes())


def llmc_read(path):
    header = np.fromfile(path, np.int32, count=256)
    size = {m: s for s, (m, _, _) in LLMC.items()}[header[0]]
    ids = np.fromfile(path, LLMC[size][2], offset=1024)
    assert len(ids) == header[2] and header[1] == LLMC[size][1]
    return ids


def make(folder):
    os.makedirs(folder, exist_ok=True)
    draw = np.random.RandomState(2026)

    def documents(vocab, n, longest, eod, split=1):
        docs = []
        for _ in range(n):
            body = list(draw.randint(0, vocab - 1, draw.randint(1, longest))) + ([] if eod is None else [eod])
            cuts = sorted(draw.randint(0, len(body) + 1, draw.randint(0, split)))
            docs.append([body[a:b] for a, b in zip([0] + cuts, cuts + [len(body)])])
        return docs

    def case(name, code, docs, eod, modes=False):
        write(os.path.join(folder, name), code, docs, modes)
        with open(os.path.join(folder, name + ".txt"), "w") as f:
            for d in docs:
                ids = [int(i) for s in d for i in s]
                if ids:
                    f.write(" ".join(map(str, ids + ([] if ids[-1] == eod else [eod]))) + "\n")

    case("u16", 8, documents(50257, 40, 90, 50256), 50256)
    case("split-i32", 4, documents(70000, 30, 60, 69999, split=5), 69999)
    docs = documents(200, 30, 50, None)
    case("bare-u8", 1, docs[:10] + [[]] + docs[10:20] + [[[]]] + docs[20:], 255)
    case("i64", 5, documents(128256, 12, 30, 128000), 128000)
    case("modes-i16", 3, documents(30000, 12, 30, 29999), 29999, modes=True)
    case("i8", 2, documents(128, 12, 30, 127), 127)
    write(os.path.join(folder, "floats"), 7, [[[1, 2, 3]]])
    for name, size, vocab, eot in ("llmc-u16", 2, 50257, 50256), ("llmc-u32", 4, 128256, 128000):
        docs = [d[0] for d in documents(vocab, 25, 40, None)]
        llmc_write(os.path.join(folder, name + ".bin"), size, [i for d in docs for i in [eot] + d])
        with open(os.path.join(folder, name + ".txt"), "w") as f:
            f.writelines(" ".join(map(str, d + [eot])) + "\n" for d in docs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        here = os.path.dirname(os.path.abspath(__file__))
        make(sys.argv[2] if len(sys.argv) > 2 else os.path.join(here, "../golden/megatron-data"))
    elif sys.argv[1:2] == ["read"]:
        for d in read(sys.argv[2]):
            print(" | ".join(" ".join(map(str, s)) for s in d))
    elif sys.argv[1:2] == ["llmc"]:
        print(" ".join(str(i) for path in sys.argv[2:] for i in llmc_read(path)))
    else:
        sys.exit(__doc__)
