#!/usr/bin/env python3
"""HF tokenizers and dapt in turn on one thread: megabytes a CPU second on both corpora, medians of the paired runs, and their ratio.

    tokenizer_peer.py BENCH_TOKENIZER_PROGRAM [--runs 5]

Reads the folders from DAPT_SMOLLM2 and DAPT_DEBIAN, as the program does. Needs the Python package tokenizers.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
from tokenizers import Tokenizer  # noqa: E402  (reads the variables above)

CORPORA = {"english": "pages.jsonl", "japanese": "pages.ja.jsonl"}


def peer_speed(tokenizer, texts):
    size = sum(len(text.encode()) for text in texts)
    start = time.process_time()
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    seconds = time.process_time() - start
    return size / seconds / 1e6, sum(len(encoding.ids) for encoding in encodings)


def own_speed(program, corpus):
    output = subprocess.run([program, f"--benchmark_filter=pages/{corpus}$", "--benchmark_format=json"], check=True, capture_output=True, text=True).stdout
    result = json.loads(output)["benchmarks"][0]
    return result["bytes_per_second"] / 1e6, int(result["tokens"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(pathlib.Path(os.environ["DAPT_SMOLLM2"]) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    for corpus, file in CORPORA.items():
        texts = [json.loads(line)["text"] for line in open(pathlib.Path(os.environ["DAPT_DEBIAN"]) / file, encoding="utf-8")]
        pairs = []
        for _ in range(arguments.runs):
            peer, peer_tokens = peer_speed(tokenizer, texts)
            own, own_tokens = own_speed(arguments.program, corpus)
            assert peer_tokens == own_tokens, f"{corpus}: {peer_tokens} tokens by HF, {own_tokens} by dapt"
            pairs.append((peer, own))
        ratio = statistics.median(own / peer for peer, own in pairs)
        peer, own = (statistics.median(values) for values in zip(*pairs))
        print(f"{corpus}: HF tokenizers {peer:.1f} MB/s, dapt {own:.1f} MB/s, ratio {ratio:.1f}, {peer_tokens} tokens in both")


if __name__ == "__main__":
    main()
