"""Records which pages of a corpus are copies, found by datasketch and checked by comparing all pairs, and which evaluation items stand in it.

usage: record_duplicates.py QA.jsonl CLOZE.jsonl PAGES.jsonl... > duplicates.json        needs datasketch (2.0.0 made the recorded file) and numpy

The words are made here from the stated rule, in Python: NFKC and case folding without default-ignorable characters; a run of letters and digits is a
word, from U+2E80 on each character, any other character but white space too. The n-grams are 5 words; a page is a copy of the most similar earlier page
that is none itself, at a Jaccard similarity of at least 0.8. Items are compared without punctuation, by n-grams of 8 words or of all their words.
"""
import json
import pathlib
import sys
import unicodedata

from datasketch import MinHash, MinHashLSH

IGNORABLE = {0xAD, 0x34F, 0x61C, 0xFEFF, *range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFE00, 0xFE10)}


def folded(text):
    text = "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if ord(c) not in IGNORABLE)
    return unicodedata.normalize("NFKC", text)


def words(text):
    run = ""
    for c in folded(text):
        if ord(c) < 0x2E80 and (unicodedata.category(c)[0] == "L" or unicodedata.category(c) == "Nd"):
            run += c
            continue
        if run:
            yield run
        run = ""
        if not c.isspace():
            yield c
    if run:
        yield run


def shingles_of(w, n):
    return {tuple(w[i:i + n]) for i in range(max(1, len(w) - n + 1))}


def shingles(text, n=5):
    return shingles_of(list(words(text)), n)


def jaccard(a, b):
    return len(a & b) / len(a | b)


def copies(sets, candidates):
    kept, found = set(), []
    for page in range(len(sets)):
        alike = [(jaccard(sets[other], sets[page]), -other) for other in candidates(page) if other in kept]
        if alike and max(alike)[0] >= 0.8:
            found.append([page, -max(alike)[1], max(alike)[0]])
        else:
            kept.add(page)
    return found


def plain_words(text):
    return [word for word in words(text) if unicodedata.category(word[0])[0] in "LM" or unicodedata.category(word[0]) == "Nd"]


def overlaps(items, texts):
    """[item, page, share] wherever an item and a page have an n-gram in common."""
    grams = []
    for item in items:
        w = plain_words(item["question"] if "question" in item else item["sentence"].replace("{word}", item["answer"]))
        grams.append((min(len(w), 8), shingles_of(w, min(len(w), 8))))
    found = []
    for page, text in enumerate(texts):
        w = plain_words(text)
        of_page = {n: shingles_of(w, n) for n in {n for n, _ in grams}}
        found += [[item, page, len(wanted & of_page[n]) / len(wanted)] for item, (n, wanted) in enumerate(grams) if wanted & of_page[n]]
    return found


record, items = {}, []
for name in sys.argv[1:3]:
    with open(name, encoding="utf-8") as lines:
        items += map(json.loads, lines)
for name in sys.argv[3:]:
    with open(name, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    sets = [shingles(text) for text in texts]

    lsh = MinHashLSH(threshold=0.8, num_perm=128, params=(25, 5))
    near = []
    for page, grams in enumerate(sets):
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch(["\0".join(gram).encode() for gram in grams])
        near.append(lsh.query(sketch))
        lsh.insert(page, sketch)
    by_datasketch = copies(sets, lambda page: near[page])

    def similar_size(page):
        size = len(sets[page])
        return [other for other in range(page) if 0.8 * size <= len(sets[other]) <= size / 0.8]

    by_all_pairs = copies(sets, similar_size)
    assert by_datasketch == by_all_pairs, (by_datasketch, by_all_pairs)
    record[pathlib.Path(name).name] = {"pages": len(sets), "copies": by_all_pairs, "overlaps": overlaps(items, texts)}
json.dump(record, sys.stdout, indent=1)
print()
