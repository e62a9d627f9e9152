#!/usr/bin/env python3
"""Compares a folder that `dapt merge` wrote with what PEFT makes of the same base and adapter: the weights and the logits of 512 tokens.

    compare_merge.py BASE ADAPTER MERGED TEXT_FILE

Weights entry by entry against PEFT's, and three distances of logits, all against base + adapter in fp32, which PEFT computes without merging: of MERGED, of PEFT's merge_and_unload in fp32, and of PEFT's
merge_and_unload in the type that MERGED has. Needs torch 2.11, transformers 5.24, peft 0.21.
"""
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, merged, text = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(base)(open(text, encoding="utf-8").read()[:20000], return_tensors="pt").input_ids[:, :512]


def load(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def merge(dtype):
    return PeftModel.from_pretrained(load(base, dtype), adapter).merge_and_unload()


@torch.no_grad()
def logits(model):
    return model.float()(input_ids=ids).logits


def distance(a, b):
    return f"largest {(a - b).abs().max():.3g}, mean {(a - b).abs().mean():.3g}"


def weights(model):
    return {name: value.detach().float().clone() for name, value in model.named_parameters()}


def farthest(a, b):
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return f"largest {max((a[name] - b[name]).abs().max() for name in a):.3g}, entries that differ {sum((a[name] != b[name]).sum() for name in a)} of {sum(v.numel() for v in a.values())}"


ours = load(merged, "auto")
dtype = ours.dtype
exact = logits(PeftModel.from_pretrained(load(base, torch.float32), adapter))
sums, rounded = weights(merge(torch.float32)), weights(merge(dtype))
once = {name: value.to(dtype).float() for name, value in sums.items()}
print("largest logit", f"{exact.abs().max():.3g}", "type of the merged folder", dtype)
print("weights, merged here and PEFT's fp32 sum rounded once:", farthest(weights(ours), once))
print("weights, PEFT's merge in this type and its fp32 sum rounded once:", farthest(rounded, once))
print("logits, merged here:", distance(logits(ours), exact))
print("logits, PEFT's merge in fp32:", distance(logits(merge(torch.float32)), exact))
print("logits, PEFT's merge in this type:", distance(logits(merge(dtype)), exact))
