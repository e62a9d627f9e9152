#!/usr/bin/env python3
"""Trains as people do today: transformers, PEFT, galore_torch, torch's AdamW. One process, one line of JSON.

usage: train_hf.py MODEL_DIR ROWS METHOD [--dtype bf16|fp32] [--micro 1] [--accumulate 4] [--steps 3] [--lr 1e-4] [--threads 2] [--tuned]

ROWS    what `dapt tokenize --packed` writes: ids and labels of each sequence, in order
METHOD  full | lora:RANK | lora:RANK:nf4 | lora:RANK:int8 | galore:RANK; over nf4 and int8 the base is bitsandbytes' (its LLM.int8 computes products in 8 bits, too)
--tuned what a careful user would set: LoRA's factors in bf16 (PEFT keeps them in fp32 by default), and an allocator that keeps freed memory

Prints losses [steps], seconds of each step, and seconds in the optimizer of each. The caller takes the peak memory.
"""
import argparse
import json
import os
import sys
import time

parser = argparse.ArgumentParser()
for name in ("model", "rows", "method"):
    parser.add_argument(name)
parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
for name, value in (("micro", 1), ("accumulate", 4), ("steps", 3), ("threads", 2)):
    parser.add_argument("--" + name, type=int, default=value)
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--tuned", action="store_true")
a = parser.parse_args()
if a.tuned and "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read by the C library when the process starts
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(1 << 30), MALLOC_TRIM_THRESHOLD_=str(1 << 32))
    os.execv(sys.executable, [sys.executable] + sys.argv)

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
torch.set_num_threads(a.threads)
torch.manual_seed(0)
dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[a.dtype]
kind, rank, quantization = (a.method.split(":") + ["", ""])[:3]
options = {}
if quantization:
    from transformers import BitsAndBytesConfig
    options["quantization_config"] = (BitsAndBytesConfig(load_in_8bit=True) if quantization == "int8" else
                                      BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype))
    options["device_map"] = "cpu"
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa", **options)
model.train()
model.config.use_cache = False

if kind == "lora":
    from peft import LoraConfig, get_peft_model
    config = LoraConfig(r=int(rank), lora_alpha=2 * int(rank), target_modules=list(LINEAR), task_type="CAUSAL_LM")
    model = get_peft_model(model, config, autocast_adapter_dtype=not a.tuned)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=a.lr, weight_decay=0)
elif kind == "galore":
    from galore_torch import GaLoreAdamW
    projected = [p for name, p in model.named_parameters() if p.dim() == 2 and any(linear in name for linear in LINEAR)]
    others = [p for p in model.parameters() if not any(p is q for q in projected)]
    optimizer = GaLoreAdamW([{"params": others}, {"params": projected, "rank": int(rank), "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}],
                            lr=a.lr, weight_decay=0)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, weight_decay=0)

with open(a.rows, encoding="utf-8") as file:
    lines = (json.loads(line) for line in file)
    rows = [row for row, _ in zip(lines, range(a.steps * a.accumulate * a.micro))]
batches = [(torch.tensor([row["ids"] for row in part]), torch.tensor([row["labels"] for row in part]))
           for part in (rows[i:i + a.micro] for i in range(0, len(rows), a.micro))]

losses, seconds, optimizer_seconds = [], [], []
for step in range(a.steps):
    start, total = time.perf_counter(), 0.0
    for ids, labels in batches[step * a.accumulate:(step + 1) * a.accumulate]:
        # labels are shifted already: transformers takes such under a second name
        loss = model(input_ids=ids, labels=labels, shift_labels=labels).loss / a.accumulate
        loss.backward()
        total += loss.item()
    before = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    losses.append(total)
    seconds.append(end - start)
    optimizer_seconds.append(end - before)
print(json.dumps({"losses": losses, "seconds": seconds, "optimizer_seconds": optimizer_seconds}))
