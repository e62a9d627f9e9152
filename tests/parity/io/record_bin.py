#!/usr/bin/env python3
"""Records files of torch.save as people have them: state dictionaries, views, shards, and what a reader must refuse.

usage: record_bin.py MODELS_DIR OUT_DIR        needs torch, safetensors (2.11, 0.8 for the committed files); MODELS_DIR is tests/parity/models

types.bin, views.bin                 state dictionaries of every type, and of views that share storages; the same tensors, contiguous, in *.safetensors
llama_grouped, mistral_window        MODELS_DIR's model of that name as pytorch_model.bin: fp32 with the tied head in the file, and bf16
llama_bias                           fp16, in two shards with pytorch_model.bin.index.json
system.bin                           a pickle that runs a command when it is opened in Python
legacy.bin, protocol4.bin, nested.bin, conjugate.bin, compressed.bin      formats and contents that are refused
"""
import collections, json, os, shutil, sys, zipfile
import torch
from safetensors.torch import load_file, save_file

MODELS, OUT = sys.argv[1:]
shutil.rmtree(os.path.join(OUT, "torch_save"), ignore_errors=True)
OUT = os.path.join(OUT, "torch_save")
os.makedirs(OUT)
path = lambda *parts: os.path.join(OUT, *parts)


def record(name, tensors):
    torch.save(tensors, path(name + ".bin"))
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path(name + ".safetensors"))


torch.manual_seed(0)
types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}
record("types", {name: torch.randn(2, 3).to(dtype) for name, dtype in types.items()} | {
    "i64": torch.tensor([-1, 2 ** 40]), "i32": torch.tensor([-7, 7], dtype=torch.int32), "i16": torch.tensor([-300], dtype=torch.int16),
    "i8": torch.tensor([-3], dtype=torch.int8), "u8": torch.tensor([200], dtype=torch.uint8), "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)})

base = torch.arange(24.0).view(4, 6)
layer = torch.nn.Linear(3, 2)
views = collections.OrderedDict(base=base, tied=base, transposed=base.t(), rows=base[1:3], column=base[:, 2], steps=base[::2, 1::3], last=base[3, 5],
                                parameter=torch.nn.Parameter(base[:1]))
views.update(layer.state_dict(prefix="layer."))
views._metadata = layer.state_dict()._metadata  # an attribute of the dictionary, as every state_dict() has it
record("views", views)


def folder(name, convert):
    os.makedirs(path(name))
    shutil.copy(os.path.join(MODELS, name, "config.json"), path(name))
    return {key: convert(value) for key, value in load_file(os.path.join(MODELS, name, "model.safetensors")).items()}


weights = folder("llama_grouped", lambda value: value)
weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
torch.save(weights, path("llama_grouped", "pytorch_model.bin"))
torch.save(folder("mistral_window", lambda value: value.bfloat16()), path("mistral_window", "pytorch_model.bin"))

weights = folder("llama_bias", lambda value: value.half())
shards = [{key: value for key, value in weights.items() if (".layers.1." in key or not key.startswith("model.")) == second} for second in (False, True)]
names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
for name, shard in zip(names, shards):
    torch.save(shard, path("llama_bias", name))
with open(path("llama_bias", "pytorch_model.bin.index.json"), "w", encoding="utf-8") as out:
    size = sum(value.nbytes for value in weights.values())
    json.dump({"metadata": {"total_size": size}, "weight_map": {key: name for name, shard in zip(names, shards) for key in shard}}, out, indent=0)


class Command:
    def __reduce__(self):
        return os.system, ("touch opened-by-pickle",)


x = torch.arange(3.0)
torch.save({"x": x, "y": Command()}, path("system.bin"))
torch.save({"x": x}, path("legacy.bin"), _use_new_zipfile_serialization=False)
torch.save({"x": x}, path("protocol4.bin"), pickle_protocol=4)
torch.save({"state_dict": {"x": x}, "epoch": 3}, path("nested.bin"))
torch.save({"x": torch.view_as_complex(torch.arange(4.0).view(2, 2)).conj().imag}, path("conjugate.bin"))
with zipfile.ZipFile(path("types.bin")) as source, zipfile.ZipFile(path("compressed.bin"), "w", zipfile.ZIP_DEFLATED) as out:
    for entry in source.infolist():
        out.writestr(entry.filename, source.read(entry))
