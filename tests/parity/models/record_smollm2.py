#!/usr/bin/env python3
"""Records SmolLM2-135M as transformers computes it: 1,024 tokens of a corpus page after page, fp32, and how far its own bf16 is from that.

usage: record_smollm2.py MODEL_DIR PAGES_JSONL OUT_FILE [--compare LOGITS]        needs torch and transformers (2.11, 5.24 for the committed file)

OUT_FILE (safetensors): input_ids [1024], columns [64], logits [1024, 64] at these columns of the vocabulary, logsumexp [1024], argmax [1024];
bf16_mean, bf16_max: mean and largest absolute distance of the full bf16 logits to the full fp32 ones (sdpa attention, the default);
prompt_<i>, continuation_<i>: greedy continuations of 16 tokens in fp32.
--compare: a safetensors file with "logits" [1024, 49152] of the same ids; prints its distance to the full fp32 logits and writes nothing.
"""
import argparse, json
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("model", "pages", "out"):
    arguments.add_argument(name)
arguments.add_argument("--compare")
a = arguments.parse_args()
torch.set_num_threads(1)
LENGTH, COLUMNS = 1024, 64

tokenizer = AutoTokenizer.from_pretrained(a.model)
ids = []
with open(a.pages, encoding="utf-8") as pages:
    for line in pages:
        ids += tokenizer.encode(json.loads(line)["text"], add_special_tokens=False) + [0]
        if len(ids) >= LENGTH:
            break
ids = torch.tensor([ids[:LENGTH]])


def load(dtype):
    return AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).eval()


with torch.no_grad():
    model = load(torch.float32)
    logits = model(ids).logits[0]
    if a.compare:
        other = load_file(a.compare)["logits"].float().view_as(logits)
        distance = (other - logits).abs()
        print("full matrix: mean", distance.mean().item(), "max", distance.max().item(), "largest logit", logits.abs().max().item())
        raise SystemExit
    columns = torch.arange(COLUMNS) * (logits.shape[1] // COLUMNS) + torch.arange(COLUMNS)
    result = {"input_ids": ids[0], "columns": columns, "logits": logits[:, columns], "logsumexp": logits.logsumexp(-1), "argmax": logits.argmax(-1)}
    for i, length in enumerate((60, 41, 60)):
        prompt = ids[:, :length] if i < 2 else torch.cat([ids[:, :40], ids[:, 100:120]], 1)
        answer = model.generate(prompt, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)[:, prompt.shape[1]:]
        result |= {f"prompt_{i}": prompt[0], f"continuation_{i}": answer[0]}
    distance = (load(torch.bfloat16)(ids).logits[0].float() - logits).abs()
    result |= {"bf16_mean": distance.mean(), "bf16_max": distance.max()}
save_file({name: value.contiguous().clone() for name, value in result.items()}, a.out)
print("bf16 distance of transformers: mean", result["bf16_mean"].item(), "max", result["bf16_max"].item())
