#!/usr/bin/env python3
"""Evaluates as lm-evaluation-harness does: cloze sentences as loglikelihood requests, few-shot questions as generate_until, fp32 on the CPU. One process, one line of JSON.

usage: evaluate_lm_eval.py MODEL_DIR DATA_DIR [--batch 16] [--threads 2] [--start-token "<|endoftext|>"]

DATA_DIR holds cloze.jsonl, qa.jsonl and fewshot.jsonl. Needs lm-eval 0.4.13 beside the packages of requirements.txt. Sentences start with the token that is named, SmolLM2's end of document unless told otherwise: dapt
takes that by default where the tokenizer adds no BOS, lm-eval would take the tokenizer's BOS. Prints logp_mrr, qa_exact, and the seconds of both parts and of the whole process.
"""
import time

begin = time.time()

import argparse  # noqa: E402
import json  # noqa: E402
import pathlib  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data", type=pathlib.Path)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--start-token", default="<|endoftext|>")
a = parser.parse_args()

import torch  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

torch.set_num_threads(a.threads)
start_token = AutoTokenizer.from_pretrained(a.model).get_vocab()[a.start_token]
model = HFLM(pretrained=a.model, dtype="float32", device="cpu", batch_size=a.batch, prefix_token_id=start_token)


def lines(name):
    return [json.loads(line) for line in (a.data / name).read_text(encoding="utf-8").splitlines() if line.strip()]


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=argument, idx=i) for i, argument in enumerate(arguments)]


start = time.time()
items = lines("cloze.jsonl")
sentences = [("", item["sentence"].replace("{word}", candidate)) for item in items for candidate in item["candidates"]]
scores = iter(model.loglikelihood(requests("loglikelihood", sentences), disable_tqdm=True))
ranks = []
for item in items:
    of_item = {candidate: next(scores)[0] for candidate in item["candidates"]}
    ranks.append(1 + sum(score > of_item[item["answer"]] for score in of_item.values()))
cloze_seconds = time.time() - start

start = time.time()
questions = lines("qa.jsonl")
exemplars = "".join(f"Question: {shot['question']}\nAnswer: {shot['answers'][0]}\n\n" for shot in lines("fewshot.jsonl"))
prompts = [(f"{exemplars}Question: {item['question']}\nAnswer:", {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}) for item in questions]
answers = model.generate_until(requests("generate_until", prompts), disable_tqdm=True)
matches = [answer.lstrip(" ").split("\n")[0].strip().casefold() in [right.strip().casefold() for right in item["answers"]] for answer, item in zip(answers, questions)]
end = time.time()
print(json.dumps({"logp_mrr": sum(1 / rank for rank in ranks) / len(ranks), "qa_exact": sum(matches) / len(matches), "cloze_seconds": cloze_seconds, "qa_seconds": end - start, "seconds": end - begin}))
