#!/usr/bin/env python3
"""Writes tests/golden/io: files of torch.save and safetensors, good and bad, that io's tests read.

Each good torch file <name>.pt has <name>.expected.safetensors beside it, with the same tensors made contiguous and
written by the safetensors package. Run with the versions that manifest.json names:

    tools/make_golden_io.py [--seeds tests/fuzz/corpus] tests/golden/io
"""

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import numpy
import safetensors
import safetensors.torch
import torch

DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
          "float32", "float64"]


def values(shape, dtype, start=0):
    count = int(numpy.prod(shape))
    base = torch.arange(start, start + count, dtype=torch.float64) * 0.37 - 5.0
    if dtype == torch.bool:
        return (torch.arange(count) % 3 == 0).reshape(shape)
    if not dtype.is_floating_point:
        bits = torch.arange(start, start + count, dtype=torch.int64) * 7 + 1
        return bits.to(dtype).reshape(shape)
    return base.to(dtype).reshape(shape)


def all_dtypes():
    tensors = collections.OrderedDict()
    for i, name in enumerate(DTYPES):
        tensors[f"t.{name}"] = values((3, 5), getattr(torch, name), i)
    tensors["scalar"] = torch.tensor(1.25)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["nan"] = torch.tensor([float("nan"), float("inf"), -0.0])
    return tensors


def views():
    base = values((6, 7), torch.float32)
    half = values((4, 3, 5), torch.bfloat16)
    tied = values((5, 4), torch.float16)
    return collections.OrderedDict(
        whole=base, transposed=base.t(), row=base[3], column=base[:, 2], block=base[1:5:2, 2:6:3], tail=base[4:],
        permuted=half.permute(2, 0, 1), half=half, one=half[1:2, 2:3, 4:5], none=base[2:2],
        tied_a=tied, tied_b=tied)


def small():
    return {"w": values((2, 3), torch.float32), "b": values((3,), torch.float32)}


def module_state():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(values(parameter.shape, parameter.dtype, 10 * i))
    return module.state_dict()  # an OrderedDict with _metadata


def parameters():
    marked = torch.nn.Parameter(values((2, 2), torch.float32))
    marked._no_weight_decay = True
    return {"plain": torch.nn.Parameter(values((3,), torch.float32)), "marked": marked}


def trained():
    state = small()
    return {"epoch": 3, "lr": 1e-3, "name": "run", "betas": (0.9, 0.95), "history": [1, 2.5, None, True, 2**70, -2**70],
            "size": torch.Size([2, 3]), "device": torch.device("cpu"), "rng": torch.zeros(4, dtype=torch.uint8),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "state_dict": state}


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Inner:
    def __reduce__(self):
        return (dict, (), None, None, iter([("x", Call(os.system, "true"))]))


def torch_zip(records, compress=zipfile.ZIP_STORED, folder="archive"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as archive:
        for name, data in records:
            info = zipfile.ZipInfo(f"{folder}/{name}", (2024, 1, 1, 0, 0, 0))
            info.compress_type = compress
            archive.writestr(info, data)
    return out.getvalue()


def with_pickle(pickled):
    return torch_zip([("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")])


def repacked(data, compress, replace=None, drop=()):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(i.filename.split("/", 1)[1], archive.read(i)) for i in archive.infolist()]
    records = [(name, (replace or {}).get(name, content)) for name, content in records if name not in drop]
    return torch_zip(records, compress)


def saved(value, protocol=2):
    out = io.BytesIO()
    torch.save(value, out, pickle_protocol=protocol)
    return out.getvalue()


def expected(value):
    state = value.get("state_dict", value)
    return safetensors.torch.save({k: v.detach().clone().contiguous() for k, v in state.items()}, {"format": "pt"})


def good_files():
    yield "all_dtypes", all_dtypes(), saved(all_dtypes())
    yield "all_dtypes_protocol5", all_dtypes(), saved(all_dtypes(), 5)
    yield "views", views(), saved(views())
    yield "views_deflated", views(), repacked(saved(views()), zipfile.ZIP_DEFLATED)
    yield "module_state", module_state(), saved(module_state())
    yield "parameters", parameters(), saved(parameters(), 4)
    yield "trained", trained(), saved(trained(), 3)


def unsafe_files():
    state = small()
    yield "system_protocol2", with_pickle(pickle.dumps(Call(os.system, "true"), 2))
    yield "system_protocol5", with_pickle(pickle.dumps(Call(os.system, "true"), 5))
    yield "eval", with_pickle(pickle.dumps({**{"w": 1}, "x": Call(eval, "1+1")}, 2))
    yield "nested", with_pickle(pickle.dumps({"w": [Inner()]}, 4))
    yield "getattr", with_pickle(pickle.dumps(Call(getattr, "text", "format"), 4))
    yield "object", with_pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.")
    yield "float8", saved({"w": state["w"].to(torch.float8_e4m3fn)})
    yield "complex", saved({"w": torch.complex(state["w"], state["w"])})
    yield "big_endian", repacked(saved(state), zipfile.ZIP_STORED, {"byteorder": b"big"})
    yield "no_storage", repacked(saved(state), zipfile.ZIP_STORED, drop=("data/1",))
    yield "short_storage", repacked(saved(state), zipfile.ZIP_STORED, {"data/0": b"\0" * 20})
    yield "single_tensor", saved(state["w"])
    yield "no_tensors", saved({"epoch": 1, "name": "x"})
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    yield "legacy", legacy.getvalue()
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), script)
    yield "torchscript", script.getvalue()


def safetensors_file(header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seeds", type=pathlib.Path)
    options = parser.parse_args()
    files = {}
    for name, value, data in good_files():
        files[f"{name}.pt"] = data
        files[f"{name}.expected.safetensors"] = expected(value)
    for name, data in unsafe_files():
        files[f"refused_{name}.pt"] = data
    files["python.safetensors"] = safetensors.torch.save(dict(all_dtypes()), {"format": "pt", "made by": "öäü \n"})
    float8 = {"w": small()["w"].to(torch.float8_e4m3fn)}
    files["refused_float8.safetensors"] = safetensors.torch.save(float8)
    files["manifest.json"] = (json.dumps(
        {"torch": torch.__version__, "safetensors": safetensors.__version__, "numpy": numpy.__version__,
         "files": sorted(f for f in files)}, indent=1) + "\n").encode()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (options.out / name).write_bytes(data)
    if options.seeds:
        write_seeds(options.seeds, files)


def write_seeds(folder, files):
    seeds = {"safetensors": {}, "torch": {}}
    for name, data in files.items():
        if name.endswith(".safetensors") and name.count(".") == 1:
            seeds["safetensors"][name] = data
        elif name.endswith(".pt") and len(data) < 10_000:
            seeds["torch"][name] = data
            if name != "refused_legacy.pt":  # the pickle alone: the archive's CRC hides it from the fuzzer
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    pickled = [n for n in archive.namelist() if n.endswith("/data.pkl")]
                    seeds["torch"][name.replace(".pt", ".pkl")] = archive.read(pickled[0])
    for name, header, data in [
            ("two", {"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                     "a": {"dtype": "U8", "shape": [3, 1], "data_offsets": [8, 11]}}, b"\0" * 11),
            ("empty", {}, b""),
            ("overlap", {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                         "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}, b"\0" * 6),
            ("metadata", {"__metadata__": {"format": "pt"}}, b"")]:
        seeds["safetensors"][f"{name}.safetensors"] = safetensors_file(header, data)
    for kind, contents in seeds.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            (folder / kind / name).write_bytes(data)


if __name__ == "__main__":
    main()
