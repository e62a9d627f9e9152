#!/usr/bin/env python3
"""Records tiny random sequence classifiers of four families as transformers computes them in fp32, on lines that it tokenizes.

usage: record.py TEXT_DIR OUT_DIR      needs torch, transformers (2.11, 5.24 for the committed files); TEXT_DIR is tests/parity/text

OUT_DIR/<family>/config.json, model.safetensors    the model folder, weights in fp16 to be read as fp32, without tokenizer
OUT_DIR/<family>/expected.json                     tokenizer (file of TEXT_DIR), max_length, lines; for each line its ids, cut to max_length, and its logits
"""
import json
import pathlib
import shutil
import sys

import torch
from transformers import (BertConfig, BertForSequenceClassification, LukeConfig, LukeForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig,
                          RobertaForSequenceClassification, XLMRobertaConfig, XLMRobertaForSequenceClassification)

torch.set_num_threads(1)
text_dir, out = map(pathlib.Path, sys.argv[1:3])
SMALL = dict(hidden_size=20, intermediate_size=36, num_attention_heads=4)
# file of the tokenizer, its padding token, class, configuration
FAMILIES = {
    "bert": ("bert", "[PAD]", BertForSequenceClassification,
             BertConfig(vocab_size=900, num_hidden_layers=2, hidden_act="gelu_new", max_position_embeddings=40, type_vocab_size=2, pad_token_id=0,
                        id2label={0: "poor", 1: "fair", 2: "good"}, label2id={"poor": 0, "fair": 1, "good": 2}, **SMALL)),
    # padding is id 0, so that positions begin at 1; two labels without names
    "roberta": ("bert", "[PAD]", RobertaForSequenceClassification,
                RobertaConfig(vocab_size=901, num_hidden_layers=3, hidden_act="relu", max_position_embeddings=33, type_vocab_size=1, pad_token_id=0, layer_norm_eps=1e-5, **SMALL)),
    "xlm-roberta": ("xlm_roberta", "<pad>", XLMRobertaForSequenceClassification,
                    XLMRobertaConfig(vocab_size=2002, num_hidden_layers=2, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, id2label={0: "clean", 1: "toxic"},
                                     label2id={"clean": 0, "toxic": 1}, **SMALL)),
    # the shape of the moderation model of the experiment: one label, entity-aware attention, a few entities
    "luke": ("xlm_roberta", "<pad>", LukeForSequenceClassification,
             LukeConfig(vocab_size=2002, num_hidden_layers=2, max_position_embeddings=50, type_vocab_size=1, layer_norm_eps=1e-5, entity_vocab_size=4, entity_emb_size=8,
                        use_entity_aware_attention=True, num_labels=1, problem_type="regression", **SMALL)),
}
LINES = [
    "", "a", "\u3042", "The package manager unpacks the archive.", "\u30d1\u30c3\u30b1\u30fc\u30b8\u3092\u66f4\u65b0\u3057\u307e\u3059\u3002",
    "apt-get update && apt-get install -y build-essential", "  two  spaces\tand a tab ", "\U0001f600 na\u00efve caf\u00e9, Stra\u00dfe; \uff21\uff22\uff23\uff11\uff12\uff13 \uff76\uff9e",
    "A line of some length about mirrors, keyrings and the sources list, " * 2, "\u8a2d\u5b9a\u30d5\u30a1\u30a4\u30eb\u306e\u5834\u6240\u306f\u6b21\u306e\u901a\u308a\u3067\u3059\u3002" * 3,
    "word " * 300, "\u9577\u3044\u884c" * 200,
]

for number, (name, (tokenizer_name, padding, cls, config)) in enumerate(FAMILIES.items()):
    torch.manual_seed(number)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = cls(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "LayerNorm.weight" in key else 0.0, 0.25)
    model.half().save_pretrained(folder)
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    first = 0 if name == "bert" else config.pad_token_id + 1
    max_length = config.max_position_embeddings - first
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(text_dir / f"{tokenizer_name}.tokenizer.json"), pad_token=padding)
    ids, logits = [], []
    with torch.no_grad():
        for line in LINES:
            encoded = tokenizer(line, truncation=True, max_length=max_length, return_tensors="pt")
            ids.append(encoded["input_ids"][0].tolist())
            logits.append(model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0].tolist())
        together = tokenizer(LINES, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        batch = model(input_ids=together["input_ids"], attention_mask=together["attention_mask"]).logits
    expected = {"tokenizer": tokenizer_name, "max_length": max_length, "lines": LINES, "ids": ids, "logits": logits}
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=True) + "\n", encoding="utf-8")
    print(name, "largest score", torch.tensor(logits).abs().max().item(), "batched differs by", (batch - torch.tensor(logits)).abs().max().item(),
          "lengths", [len(row) for row in ids])
