#!/usr/bin/env python3
"""Records what HF tokenizers gives for 100,000 generated strings and for all pages of both corpora, as checksums, for tests/text/fuzz_test.cpp.

    record_fuzz.py --smollm2 DIR --debian DIR        (writes fuzz.json beside itself; tokenizers 0.23.3)

The generator is a formula (splitmix64), so that the test makes the same strings. A checksum covers 1,000 strings, or 50 pages: CRC-32 of the ids as 4 bytes,
little-endian, with 0xFFFFFFFF after each string; of decoded texts with a zero byte after each.
"""
import argparse
import json
import pathlib
import zlib

from tokenizers import Tokenizer

from record import ALPHABETS

HERE = pathlib.Path(__file__).resolve().parent
INSERTS = ["<s>", "</s>", "<unk>", "<|x|>", "<|y|>", "<|endoftext|>", "<|im_start|>", "[CLS]", "[MASK]", "<mask>", "Day", "▁", "<0x41>", "##a", "don't", "  \n", "http://"]
STRINGS, PAGES = 1000, 50
MASK = (1 << 64) - 1


def splitmix64(key, i):
    z = (key + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def generated(number):
    """The string of this number: 1 to 14 runs of 1 to 6 characters of one alphabet, after one in 16 of them a whole word."""
    draws = 0

    def draw(n):
        nonlocal draws
        draws += 1
        return splitmix64(number, draws - 1) % n

    text = ""
    for _ in range(1 + draw(14)):
        alphabet = ALPHABETS[draw(len(ALPHABETS))]
        for _ in range(1 + draw(6)):
            text += alphabet[draw(len(alphabet))]
        if draw(16) == 0:
            text += INSERTS[draw(len(INSERTS))]
    return text


def checksum_of_ids(encodings):
    return zlib.crc32(b"".join(b"".join(i.to_bytes(4, "little") for i in encoding.ids) + b"\xff\xff\xff\xff" for encoding in encodings))


def chunks(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


parser = argparse.ArgumentParser()
for folder in ("smollm2", "debian"):
    parser.add_argument("--" + folder, type=pathlib.Path, required=True)
arguments = parser.parse_args()
strings = [generated(number) for number in range(100_000)]
corpora = {name: [json.loads(line)["text"] for line in open(arguments.debian / name, encoding="utf-8")] for name in ("pages.jsonl", "pages.ja.jsonl")}
result = {"alphabets": ALPHABETS, "inserts": INSERTS, "strings_a_checksum": STRINGS, "pages_a_checksum": PAGES, "tokenizers": {},
          "texts": {name: [zlib.crc32(b"".join(text.encode() + b"\0" for text in part)) for part in chunks(texts, PAGES)] for name, texts in corpora.items()}}
files = {file.name.split(".")[0]: file for file in sorted(HERE.glob("*.tokenizer.json"))} | {"smollm2": arguments.smollm2 / "tokenizer.json"}
for name, file in files.items():
    tokenizer = Tokenizer.from_file(str(file))
    record = {"as_tokens": [], "as_text": [], "decoded": []}
    if name in ("xlm_roberta", "bert"):  # makes control tokens of page text, whatever encode_special_tokens says
        del record["as_text"]
    for part in chunks(strings, STRINGS):
        if "as_text" in record:
            tokenizer.encode_special_tokens = True
            record["as_text"].append(checksum_of_ids(tokenizer.encode_batch(part, add_special_tokens=False)))
        tokenizer.encode_special_tokens = False
        encodings = tokenizer.encode_batch(part, add_special_tokens=False)
        record["as_tokens"].append(checksum_of_ids(encodings))
        decoded = tokenizer.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=True)
        record["decoded"].append(zlib.crc32(b"".join(text.encode() + b"\0" for text in decoded)))
    if name != "smollm2":  # whose pages record.py has, one by one
        record["pages"] = {corpus: [checksum_of_ids(tokenizer.encode_batch(part, add_special_tokens=False)) for part in chunks(texts, PAGES)] for corpus, texts in corpora.items()}
    result["tokenizers"][name] = record
    print(name, flush=True)
(HERE / "fuzz.json").write_text(json.dumps(result, separators=(",", ":")).replace('"as_t', '\n"as_t') + "\n", encoding="ascii")
