"""A large corpus through filter, tokenizer and packer on two processes, each of which takes every second page: no page is lost or doubled, and the memory does not grow with the corpus.

usage: load_test.py SOURCE_DIR BUILD_DIR [PAGES]        PAGES of the large corpus, 6,000 by default; the model folder is in DAPT_SMOLLM2, the corpus in DAPT_DEBIAN

The pages are pieces of real ones, 300 to 3,000 characters, no two equal. Which ones the filter keeps, and the hashes of them all, are computed here while they are written.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import zlib

build = pathlib.Path(sys.argv[2]).resolve()
pages = int(sys.argv[3]) if len(sys.argv) > 3 else 6_000
program = build / "bin" / "dapt_load_pages"
model, debian = (os.environ.get(name) or sys.exit(f"{name} is not set; tests/run.sh sets it") for name in ("DAPT_SMOLLM2", "DAPT_DEBIAN"))
TERM = "debian"
GROWTH = 8 << 20  # of the peak, at most, from the small corpus to the large one


def splitmix64(key):
    mask = 2**64 - 1
    z = (key + 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def write_corpus(file, count, texts):
    """The pages that hold TERM as a word of its own: their number, and the sum of their hashes."""
    draw, word = random.Random(count), re.compile(rf"(?<![a-z0-9]){TERM}(?![a-z0-9])", re.IGNORECASE | re.ASCII)
    kept = total = 0
    with open(file, "w", encoding="utf-8", buffering=1 << 20) as out:
        for i in range(count):
            text, length = texts[draw.randrange(len(texts))], draw.randint(300, 2_990)
            begin = draw.randrange(max(1, len(text) - length))
            text = f"{text[begin:begin + length]} {i:07}"
            work = f"work {i // 50}"
            out.write(json.dumps({"work": work, "page": i, "text": text}, ensure_ascii=False) + "\n")
            if word.search(text):
                bytes_of_page = f"{work}\0{i}\0{text}".encode()
                total += splitmix64(zlib.crc32(bytes_of_page) << 32 | zlib.adler32(bytes_of_page))
                kept += 1
    return kept, total % 2**64


def run(file, size):
    start = time.time()
    processes = [subprocess.Popen([program, file, model, TERM, str(rank), str(size)], stdout=subprocess.PIPE, text=True) for rank in range(size)]
    results = [json.loads(process.communicate()[0] or "{}") for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return results, time.time() - start


def check(count, texts, folder):
    file = folder / "pages.jsonl"
    start = time.time()
    kept, expected = write_corpus(file, count, texts)
    print(f"{count} pages written in {time.time() - start:.0f} s: {file.stat().st_size / 1e6:.0f} MB, {kept} with \"{TERM}\"", flush=True)
    results, seconds = run(file, 2)
    file.unlink()
    for rank, result in enumerate(results):
        assert result["read"] == count, f"rank {rank} read {result['read']} pages"
        assert result["tokenized"] == result["packed"], f"rank {rank}: {result['tokenized']} behind the tokenizer, {result['packed']} behind the packer"
        assert result["kept"]["pages"] == result["tokenized"]["pages"] == (kept + 1 - rank) // 2, f"rank {rank}: {result}"
    found = sum(result["kept"]["sum"] for result in results) % 2**64
    assert found == expected, f"the pages behind the filter have the hash {found}, those that were written {expected}"
    peaks = [result["peak_memory_bytes"] for result in results]
    print(f"  two processes: {seconds:.0f} s, {kept} pages each once, {sum(result['tokens'] for result in results)} tokens in {sum(result['sequences'] for result in results)} sequences, peaks "
          + " and ".join(f"{peak / 2**20:.1f} MiB" for peak in peaks), flush=True)
    return max(peaks)


with open(pathlib.Path(debian) / "pages.jsonl", encoding="utf-8") as corpus:
    texts = [text for text in (json.loads(line)["text"] for line in corpus) if len(text) >= 300]
with tempfile.TemporaryDirectory() as name:
    small = check(min(10_000, pages // 2), texts, pathlib.Path(name))
    large = check(pages, texts, pathlib.Path(name))
    print(f"the peak grew by {(large - small) / 2**20:.1f} MiB")
    assert large - small <= GROWTH, f"the peak grew by {large - small} bytes, expected at most {GROWTH}"
