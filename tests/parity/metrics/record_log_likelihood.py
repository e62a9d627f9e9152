#!/usr/bin/env python3
"""Records loglikelihoods of lm-evaluation-harness for tests/parity/log_likelihood_test.cpp.

usage: record_log_likelihood.py MODEL_DIR OUT_FILE        needs lm-eval 0.4.13, torch 2.11, transformers

OUT_FILE (JSON lines): context, continuation, max_length, tokens (of the continuation), sum; fp32, one request at a time. MODEL_DIR: SmolLM2-135M-Instruct,
and the same with a tokenizer that adds BOS (`bos` true), made here by a post-processor.
"""
import json
import sys

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

REQUESTS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),  # the space goes to the continuation
    ("The capital of France is  \n", "Paris, as everybody knows."),
    ("The capital of Fra", "nce is Paris"),  # the border is inside a token
    ("", "Debian is a free operating system."),
    ("", "<|im_start|>user\nHello"),  # begins with the token that stands for the context
    ("<|im_start|>user\nWhich license?<|im_end|>\n", "The GPL."),
    ("日本の首都は", "東京です。"),
    ("日本の首都は\u3000", "東京です。"),
    ("a", " b"),
    ("x = [1, 2,\n     3]\n\n", "    return x\n"),
    ("word " * 60, "word word word"),
]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for bos in (False, True):
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        if bos:
            token = tokenizer.bos_token
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.bos_token_id)])
        for max_length in (2048, 24):
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=max_length)
            sums = lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(REQUESTS)], disable_tqdm=True)
            for (context, continuation), (total, _) in zip(REQUESTS, sums, strict=True):
                if context:
                    count = len(lm._encode_pair(context, continuation)[1])
                else:
                    ids = lm.tok_encode(continuation, add_special_tokens=False)
                    count = len(ids) - (ids[0] == lm.prefix_token_id)
                print(json.dumps({"bos": bos, "max_length": max_length, "context": context, "continuation": continuation, "tokens": count, "sum": float(total)}, ensure_ascii=False), file=out)
