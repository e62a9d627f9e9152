#!/usr/bin/env python3
"""Compares, item by item, what `dapt eval` and eval_hf.py (transformers + PEFT) say of the same adapter.

usage: compare_adapter.py DAPT_RESULTS HF_RESULTS        needs nothing but Python

  dapt train --adapter lora ... --out RUN
  dapt eval --model MODEL --peft RUN/adapter --dtype fp32 ... --out DAPT_RESULTS
  eval_hf.py MODEL --adapter RUN/adapter --dtype float32 --out HF_RESULTS        (examples/debian/eval_hf.py)

Prints how many predictions and ranks are the same and the largest difference of a candidate's sum of log probabilities; exit status 1 where an item differs.
"""
import json, sys


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


ours, reference = load(sys.argv[1]), load(sys.argv[2])["dev"]
if isinstance(ours, list):  # of several models the last one, the adapter
    ours = ours[-1]
predictions = sum(a["id"] == b["id"] and a["prediction"] == b["got"] for a, b in zip(ours["qa"], reference["qa"], strict=True))
ranks = sum(a["id"] == b["id"] and a["rank"] == b["rank"] for a, b in zip(ours["cloze"], reference["cloze"], strict=True))
largest = max(abs(score - b["logp"][name]) for a, b in zip(ours["cloze"], reference["cloze"]) for name, score in a["scores"].items())
print(f"predictions: {predictions} of {len(reference['qa'])} the same; ranks: {ranks} of {len(reference['cloze'])}; largest difference of a sum: {largest:.2e}")
sys.exit(predictions != len(reference["qa"]) or ranks != len(reference["cloze"]))
