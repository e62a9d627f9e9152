#!/usr/bin/env python3
"""HF tokenizers' encoding alone, and dapt from the file of pages to packed sequences (read, fit the filter, read again, filter, tokenize, pack), in turn: megabytes of text a second on one
thread and on two, medians of the paired runs, and their ratio.

    pages_peer.py BENCH_PAGES_PROGRAM [--runs 3] [--threads 1 2]

Reads the folders from DAPT_SMOLLM2 and DAPT_DEBIAN, as the program does. Needs the Python package tokenizers.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time


def texts():
    return [json.loads(line)["text"] for line in open(pathlib.Path(os.environ["DAPT_DEBIAN"]) / "pages.jsonl", encoding="utf-8")]


def encode():
    """In a process of its own, whose environment says the number of threads."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(pathlib.Path(os.environ["DAPT_SMOLLM2"]) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    pages = texts()
    start = time.time()
    tokenizer.encode_batch(pages, add_special_tokens=False)
    print(sum(len(text.encode()) for text in pages) / (time.time() - start) / 1e6)


def peer_speed(threads):
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
    return float(subprocess.run([sys.executable, __file__, "--encode"], check=True, capture_output=True, text=True, env=environment).stdout)


def own_speed(program, threads):
    output = subprocess.run([program, f"--benchmark_filter=^end_to_end/{threads}/", "--benchmark_format=json"], check=True, capture_output=True, text=True).stdout
    return json.loads(output)["benchmarks"][0]["bytes_per_second"] / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--encode", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.encode:
        return encode()
    for threads in arguments.threads:
        pairs = [(peer_speed(threads), own_speed(arguments.program, threads)) for _ in range(arguments.runs)]
        ratio = statistics.median(own / peer for peer, own in pairs)
        peer, own = (statistics.median(values) for values in zip(*pairs))
        print(f"{threads} threads: HF tokenizers, encoding alone, {peer:.2f} MB/s; dapt, from file to sequences, {own:.2f} MB/s; ratio {ratio:.2f} ({min(o / p for p, o in pairs):.2f}-{max(o / p for p, o in pairs):.2f})", flush=True)


if __name__ == "__main__":
    main()
