#!/usr/bin/env python3
# fixtures.py - writes tests/golden/torch/: small files as torch.save() writes them, by Python's own pickler
# SPDX-License-Identifier: MIT
#
# Run in the top folder; the results are in git. It needs no torch: modules of the same names give the pickler
# the names that torch's classes have. tests/io_archive.c knows the numbers. The .pkl files are fuzz seeds.
import argparse, collections, enum, io, pathlib, pickle, struct, sys, types, zipfile

TOP = pathlib.Path("tests/golden/torch")


def module(name):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        full = ".".join(parts[:i])
        if full not in sys.modules:
            sys.modules[full] = types.ModuleType(full)
            if i > 1:
                setattr(sys.modules[".".join(parts[:i - 1])], parts[i - 1], sys.modules[full])
    return sys.modules[name]


def put(mod, name, value):
    setattr(module(mod), name, value)
    value.__module__, value.__qualname__, value.__name__ = mod, name, name
    return value


def function(mod, name):
    return put(mod, name, lambda *a: None)


rebuild_tensor = function("torch._utils", "_rebuild_tensor_v2")
rebuild_parameter = function("torch._utils", "_rebuild_parameter")
np_reconstruct = function("numpy.core.multiarray", "_reconstruct")
ndarray = put("numpy", "ndarray", type("ndarray", (), {}))
np_dtype = put("numpy", "dtype", type("dtype", (), {}))
device = put("torch", "device", type("device", (), {}))
Size = put("torch", "Size", type("Size", (tuple,), {"__reduce__": lambda s: (Size, (tuple(s),))}))
CLASSES = {n: put("torch", n + "Storage", type(n, (), {})) for n in
           "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()}


class Reduce:  # pickles as whatever it was made with
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class Name:  # pickles as a bare imported name, as torch.dtype does
    def __init__(self, mod, name):
        self.mod, self.name = mod, name
        setattr(module(mod), name, self)

    def __reduce__(self):
        return self.name

    @property
    def __module__(self):
        return self.mod


class Kind(enum.Enum):
    encoder_or_decoder = 1


put("megatron.core.enums", "ModelType", Kind)
bfloat16 = Name("torch", "bfloat16")


def brain(x):
    return struct.pack("<f", x)[2:]


PACK = {"Float": lambda x: struct.pack("<f", x), "Double": lambda x: struct.pack("<d", x),
        "Half": lambda x: struct.pack("<e", x), "BFloat16": brain,
        "Long": lambda x: struct.pack("<q", int(x)),
        "Int": lambda x: struct.pack("<i", int(x)), "Short": lambda x: struct.pack("<h", int(x)),
        "Char": lambda x: struct.pack("<b", int(x)), "Byte": lambda x: struct.pack("<B", abs(int(x))),
        "Bool": lambda x: struct.pack("<?", x > 0)}


class Storage:  # element i is i / 2 - 3
    def __init__(self, cls, n):
        self.cls, self.n = cls, n

    def data(self):
        return b"".join(PACK[self.cls](i / 2 - 3) for i in range(self.n))


def tensor(storage, shape, first=0, stride=None):
    packed = []
    for i in range(len(shape)):
        step = 1
        for d in shape[i + 1:]:
            step *= d
        packed.append(step)
    return Reduce(rebuild_tensor, (storage, first, tuple(shape), tuple(stride or packed), False,
                                   collections.OrderedDict()))


def save(name, value, protocol=2, prefix="archive", byteorder=b"little"):
    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not isinstance(x, Storage):
                return None
            if x not in storages:
                storages.append(x)
            return ("storage", CLASSES[x.cls], str(storages.index(x)), "cpu", x.n)

    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    (TOP / (name + ".pkl")).write_bytes(out.getvalue())
    with zipfile.ZipFile(TOP / (name + ".pt"), "w", zipfile.ZIP_STORED) as z:
        def entry(path, data):
            info = zipfile.ZipInfo(f"{prefix}/{path}", (1980, 1, 1, 0, 0, 0))
            z.writestr(info, data)
        entry("data.pkl", out.getvalue())
        entry("byteorder", byteorder)
        for i, s in enumerate(storages):
            entry(f"data/{i}", s.data())
        entry("version", b"3\n")


def state_dict():
    tied, packed = Storage("Float", 12), Storage("BFloat16", 10)
    d = collections.OrderedDict()
    d["embedding.weight"] = tensor(tied, (3, 4))
    d["lm_head.weight"] = tensor(tied, (3, 4))
    d["half"] = tensor(Storage("Half", 5), (5,))
    d["brain.low"] = tensor(packed, (2, 2))
    d["brain.high"] = tensor(packed, (2, 3), 4)
    d["double"] = Reduce(rebuild_parameter, (tensor(Storage("Double", 2), (1, 2, 1), 0, (7, 1, 9)), True,
                                             collections.OrderedDict()))
    d["scalar"] = tensor(Storage("Long", 1), ())
    d["none"] = tensor(Storage("Float", 0), (0, 4))
    for c in "Int Short Char Byte Bool".split():
        d["other." + c] = tensor(Storage(c, 8), (8,))
    d._metadata = collections.OrderedDict({"": {"version": 1}, "half": {"version": 2}})
    return d


def checkpoint():
    bytes_io = io.BytesIO(b"state")
    args = argparse.Namespace(num_layers=56, norm_epsilon=1e-5, swiglu=False, normalization="RMSNorm",
                              load=None, betas=[0.9, 0.95], params_dtype=bfloat16, pattern=("M", "*"),
                              big=1 << 100, low=-70000, model_type=Kind.encoder_or_decoder, names={"a"},
                              where=Reduce(device, ("cuda", 0)), shape=Size((2, 3)), self_test=True)
    args.save = Reduce(put("pathlib", "PosixPath", type("PosixPath", (), {})), ("/", "x"))
    array = Reduce(np_reconstruct, (ndarray, (0,), b"b"),
                   (1, (2,), Reduce(np_dtype, ("u4", False, True), (3, "<", None, None, None, -1, -1, 0)),
                    False, b"\0\1\2\3\4\5\6\7"))
    model = collections.OrderedDict()
    model["decoder.weight"] = tensor(Storage("Float", 6), (2, 3))
    model["decoder._extra_state"] = bytes_io
    model["empty"] = b""
    return {"args": args, "iteration": 700000, "checkpoint_version": 3.0, "model": model,
            "rng_state": [{"np_rng_state": ("MT19937", array, 624, 0, 0.0)}],
            "layers": {0: {"a": 1}, 1: {"a": 2}}}


TOP.mkdir(parents=True, exist_ok=True)
save("state", state_dict())
for p in range(2, 6):
    save(f"args{p}", checkpoint(), p)
save("transposed", {"a": {"wide": tensor(Storage("Float", 6), (2, 3), 0, (1, 2))}})
save("big", {"a": tensor(Storage("Float", 6), (2, 3))}, byteorder=b"big")
