#!/usr/bin/env python3
"""Records perplexity.json: negative log likelihood of a few pages in transformers, fp32, one window at a time.

usage: record_perplexity.py MODEL_FOLDER CORPUS_FOLDER OUT.json
Recorded with transformers 5.24 and torch 2.11 from SmolLM2-135M-Instruct and the Debian corpus.

Each page is <|endoftext|> and its tokens. A window holds at most max_length inputs and moves by stride; each token is scored once,
by the first window that reaches it.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# File, least number of characters of the page taken, and rules: max_length, stride. Each token costs the test's time: a long page has no rule twice.
PAGES = [("pages.jsonl", 30, [(1024, 1024), (256, 256), (256, 100)]), ("pages.jsonl", 2000, [(256, 100)]), ("pages.ja.jsonl", 100, [(1024, 1024), (256, 256)])]


@torch.no_grad()
def nll(model, ids, max_length, stride):
    total, scored, targets = 0.0, 0, len(ids) - 1
    while scored < targets:
        end = min(targets, max_length if scored == 0 else scored + stride)
        begin = max(0, end - max_length)
        logits = model(torch.tensor([ids[begin:end]])).logits[0].float()
        log_probs = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[begin + 1:end + 1])[:, None])[:, 0]
        total -= log_probs[scored - begin:].double().sum().item()
        scored = end
    return total


def main():
    model_folder, corpus, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    pages = []
    for file, characters, rules in PAGES:
        for line in (pathlib.Path(corpus) / file).read_text(encoding="utf-8").splitlines():
            page = json.loads(line)
            if len(page["text"]) >= characters and len(page["text"]) < 2 * characters + 1000:
                break
        tokens = tokenizer.encode(page["text"], add_special_tokens=False)
        ids = [tokenizer.convert_tokens_to_ids("<|endoftext|>")] + tokens
        pages.append({"text": page["text"], "tokens": len(tokens),
                      "nll": [{"max_length": m, "stride": s, "nll": nll(model, ids, m, s)} for m, s in rules]})
    with open(out, "w", encoding="utf-8") as f:
        json.dump(pages, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
