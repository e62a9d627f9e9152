"""Writes the seeds of the fuzz targets, tests/fuzz/corpus/TARGET: small sound files, and the same damaged in ways that matter. Python's own library is enough.

    tests/fuzz/make_corpus.py [OUT]

Further files that a run of a fuzzer adds there are inputs like these; crashes/TARGET holds those that once did harm.
"""
import base64
import gzip
import io
import json
import pathlib
import struct
import sys
import zipfile
import zlib

tests = pathlib.Path(__file__).resolve().parent.parent
recorded = tests / "parity"
examples = tests.parent / "examples/debian"
out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tests / "fuzz/corpus")


def put(target, name, data):
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))).encode()
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def deep(levels, key="a"):
    return '{"%s":' % key + "[" * levels + "]" * levels + "}"


# --- safetensors -----------------------------------------------------------------------------------------------------------------------------------

def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


put("safetensors", "types", (recorded / "io/torch_save/types.safetensors").read_bytes())
put("safetensors", "views", (recorded / "io/torch_save/views.safetensors").read_bytes())
put("safetensors", "one", safetensors({"__metadata__": {"format": "pt"}, "x": tensor()}, b"\0" * 8))
put("safetensors", "two_unaligned", safetensors({"x": tensor("U8", [3], [0, 3]), "y": tensor("F64", [1], [3, 11])}, b"\1" * 11))
put("safetensors", "scalar_and_empty", safetensors({"s": tensor("I64", [], [0, 8]), "e": tensor("BF16", [0, 5], [8, 8])}, b"\0" * 8))
put("safetensors", "no_tensors", safetensors(b"{}"))
put("safetensors", "truncated", safetensors({"x": tensor()}, b"\0" * 7))
put("safetensors", "huge_length", safetensors({"x": tensor()}, b"\0" * 8, length=2**63 + 5))
put("safetensors", "overflow", safetensors({"x": tensor("F32", [2**62, 2, 2], [0, 8])}, b"\0" * 8))
put("safetensors", "empty_overflow", safetensors({"x": tensor("F32", [0, 2**40, 2**40], [0, 0])}))
put("safetensors", "many_sizes", safetensors({"x": tensor("F32", [1] * 100, [0, 4])}, b"\0" * 4))
put("safetensors", "negative", safetensors({"x": tensor("F32", [-2], [0, 8])}, b"\0" * 8))
put("safetensors", "overlap", safetensors({"x": tensor(), "y": tensor(offsets=(4, 12))}, b"\0" * 12))
put("safetensors", "deep", safetensors(deep(500).encode()))
put("safetensors", "twice", safetensors(b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"a"))

# --- PyTorch's .bin --------------------------------------------------------------------------------------------------------------------------------

for name in ("compressed", "conjugate", "legacy", "nested", "protocol4", "system", "types", "views"):
    data = (recorded / f"io/torch_save/{name}.bin").read_bytes()
    put("pytorch_bin", name, data)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
            put("tensor_pickle", name, archive.read(pickles[0]))


def stored_zip(entries, wide=False):
    files = directory = b""
    for name, data in entries:
        name = name.encode()
        sizes = struct.pack("<LLLHH", 0, len(data), len(data), len(name), 0)
        extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), len(files)) if wide else b""
        listed = struct.pack("<LLLHH", 0, 2**32 - 1, 2**32 - 1, len(name), len(extra)) if wide else sizes
        directory += b"PK\1\2" + bytes(12) + listed + bytes(10) + struct.pack("<L", 2**32 - 1 if wide else len(files)) + name + extra
        files += b"PK\3\4" + bytes(10) + sizes + name + data
    end = b"PK\5\6" + bytes(4) + struct.pack("<HHLLH", len(entries), len(entries), len(directory), len(files), 0)
    if wide:
        directory_end = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), len(directory), len(files))
        end = directory_end + struct.pack("<4sLQL", b"PK\6\7", 0, len(files) + len(directory), 1) + b"PK\5\6" + bytes(4) + struct.pack("<HHLLH", 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return files + directory + end


def text(value):
    return b"X" + struct.pack("<L", len(value)) + value.encode()


def whole(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def pickled(numel=6, offset=0, shape=(2, 3), strides=(3, 1), storage="FloatStorage"):
    numbers = lambda values: b"(" + b"".join(whole(value) for value in values) + b"t"
    place = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text("0") + text("cpu") + whole(numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + whole(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"


def dictionary(**items):
    return b"\x80\2}" + b"".join(text(name) + value + b"s" for name, value in items.items()) + b"."


floats = struct.pack("<6f", *range(6))
pickles = {"small": dictionary(x=pickled()), "view": dictionary(x=pickled(offset=1, shape=(2, 2), strides=(3, 1)), y=pickled()),
           "parameter": dictionary(x=b"ctorch._utils\n_rebuild_parameter\n(" + pickled() + b"\x88NtR"), "beyond": dictionary(x=pickled(offset=1)),
           "strides": dictionary(x=pickled(strides=(2**61, 2**62))), "shape": dictionary(x=pickled(shape=(2**40, 2**40), strides=(0, 0))), "negative": dictionary(x=pickled(offset=-4)),
           "circle": b"\x80\2}q\0" + text("x") + b"h\0s.", "self_list": b"\x80\2]q\0h\0a.", "marks": b"\x80\2" + b"(" * 300 + b".", "global": b"\x80\2cos\nsystem\n" + text("true") + b"\x85R.",
           "many": b"\x80\2" + b"N" * 300 + b"t."}
for name, data in pickles.items():
    put("tensor_pickle", name, data)
    put("pytorch_bin", name, stored_zip([("a/data.pkl", data), ("a/data/0", floats)]))
put("pytorch_bin", "zip64", stored_zip([("a/data.pkl", pickles["small"]), ("a/data/0", floats), ("a/byteorder", b"little")], wide=True))
put("pytorch_bin", "big_endian", stored_zip([("a/data.pkl", pickles["small"]), ("a/data/0", floats), ("a/byteorder", b"big")]))
put("pytorch_bin", "cut", stored_zip([("a/data.pkl", pickles["small"]), ("a/data/0", floats)])[:-9])

# --- index of shards -------------------------------------------------------------------------------------------------------------------------------

put("weight_index", "sound", {"metadata": {"total_size": 9}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
put("weight_index", "one_shard", {"weight_map": {"c": "2.safetensors"}})
for name, shard in (("outside", "../1.safetensors"), ("absolute", "/etc/passwd"), ("folder", "."), ("itself", "model.safetensors.index.json"), ("nul", "1.safetensors\0x"), ("number", 1), ("none", "")):
    put("weight_index", name, {"weight_map": {"a": shard, "b": "1.safetensors", "c": "2.safetensors"}})
put("weight_index", "deep", deep(500, "weight_map"))
put("weight_index", "empty", {"weight_map": {}})

# --- tokenizers ------------------------------------------------------------------------------------------------------------------------------------

def token(id, content, special=True, **options):
    return {"id": id, "content": content, "special": special, **options}


letters = {c: i for i, c in enumerate("abcdehlorstw▁Ġ<>/.,'!?")}


def bpe(**options):
    vocab = {**letters, "he": 22, "ll": 23, "hell": 24, "<s>": 25, "</s>": 26, "<unk>": 27, "hello": 28}
    return {"type": "BPE", "vocab": vocab, "merges": ["h e", ["l", "l"], "he ll", "hell o"], **options}


def tokenizer(model, **parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": parts.pop("added_tokens", []), "normalizer": None, "pre_tokenizer": None, "post_processor": None,
            "decoder": None, **parts, "model": model}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


specials = [token(25, "<s>"), token(26, "</s>", lstrip=True, rstrip=True), token(29, "wor", special=False, normalized=True, single_word=True)]
bytes_of = [{"<0x%02X>" % byte: 40 + byte} for byte in range(256)]
byte_tokens = {key: value for item in bytes_of for key, value in item.items()}
by_type = lambda *names: [{"type": name} for name in names]
put("tokenizer_json", "bpe", tokenizer(bpe(unk_token="<unk>", fuse_unk=True), added_tokens=specials, normalizer=sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                                       post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                                                       "special_tokens": {"<s>": {"id": "<s>", "ids": [25], "tokens": ["<s>"]}}},
                                       decoder=sequence("decoders", {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})))
put("tokenizer_json", "bpe_fallback", tokenizer({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, **byte_tokens}, "merges": ["a b"], "byte_fallback": True}, decoder={"type": "ByteFallback"}))
put("tokenizer_json", "bpe_bytes", tokenizer(bpe(ignore_merges=True), pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, decoder={"type": "ByteLevel"}, post_processor={"type": "ByteLevel"}))
put("tokenizer_json", "bpe_split", tokenizer(bpe(), pre_tokenizer=sequence("pretokenizers", {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s(?!\\S)|[^a-z]{1,3}"}, "behavior": "Isolated", "invert": False}, {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False})))
put("tokenizer_json", "gpt4_split", tokenizer(bpe(), pre_tokenizer={"type": "Split", "pattern": {"Regex": json.loads((recorded / "text/llama3.tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]}, "behavior": "Isolated"}))
for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    put("tokenizer_json", "split_" + behavior, tokenizer(bpe(), pre_tokenizer={"type": "Split", "pattern": {"Regex": "l|"}, "behavior": behavior, "invert": True}))
put("tokenizer_json", "unigram", tokenizer({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -2.5], ["a", -3], ["hello", -1e30], ["▁wo", -4.25e-7], ["l", -5], ["o", -5]], "byte_fallback": False},
                                           pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}, decoder={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
                                           normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<5L", 16, 1024 << 1, 0, 0x80000000, 97) + b"ab\0c\0").decode()}))
put("tokenizer_json", "wordpiece", tokenizer({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "hello": 1, "##ld": 2, "wor": 3, "[CLS]": 4, "[SEP]": 5, "[MASK]": 6, ",": 7}},
                                             added_tokens=[token(4, "[CLS]"), token(6, "[MASK]", lstrip=True)], normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
                                             pre_tokenizer={"type": "BertPreTokenizer"}, post_processor={"type": "BertProcessing", "sep": ["[SEP]", 5], "cls": ["[CLS]", 4]}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}))
put("tokenizer_json", "normalizers", tokenizer(bpe(), normalizer=sequence("normalizers", *by_type("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"), {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Replace", "pattern": {"Regex": "(l+)"}, "content": "rr"})))
put("tokenizer_json", "pre_tokenizers", tokenizer(bpe(), pre_tokenizer=sequence("pretokenizers", *by_type("Whitespace", "WhitespaceSplit", "UnicodeScripts"), {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "CharDelimiterSplit", "delimiter": "l"}, {"type": "FixedLength", "length": 3}), decoder={"type": "BPEDecoder", "suffix": "</w>"}))
put("tokenizer_json", "post_sequence", tokenizer(bpe(), post_processor=sequence("processors", {"type": "ByteLevel"}, {"type": "RobertaProcessing", "sep": ["</s>", 26], "cls": ["<s>", 25]})))
for name, empty in (("strip", {"type": "Strip", "content": "", "start": 2**62, "stop": 0}), ("metaspace", {"type": "Metaspace", "replacement": ""}), ("suffix", {"type": "BPEDecoder", "suffix": ""})):
    put("tokenizer_json", "empty_" + name, tokenizer(bpe(), decoder=empty))
put("tokenizer_json", "empty_replacement", tokenizer(bpe(), pre_tokenizer={"type": "Metaspace", "replacement": ""}))
put("tokenizer_json", "slow_regex", tokenizer(bpe(), pre_tokenizer={"type": "Split", "pattern": {"Regex": "(.*.*.*.*.*)*x"}, "behavior": "Isolated"}))
put("tokenizer_json", "growing", tokenizer(bpe(), normalizer=sequence("normalizers", *[{"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 40}] * 6)))
put("tokenizer_json", "old", {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})
put("tokenizer_json", "far_id", tokenizer({"type": "BPE", "vocab": {"a": 16777215}, "merges": []}))
put("tokenizer_json", "wide_id", tokenizer({"type": "BPE", "vocab": {"a": 4294967296}, "merges": []}))
put("tokenizer_json", "id_twice", tokenizer({"type": "BPE", "vocab": {"a": 1, "b": 1}, "merges": []}))
put("tokenizer_json", "deep", '{"model":' + "[" * 400 + "]" * 400 + "}")
put("tokenizer_json", "deep_sequence", '{"normalizer":' + '{"type":"Sequence","normalizers":[' * 200 + "]}" * 200 + ',"model":{"vocab":{"a":0},"merges":[]}}')
put("tokenizer_json", "no_json", "not JSON")
units = {ord("l"): ord("l") | 1 << 8 | 1 << 10, ord("l") ^ 1: 1 << 31}  # a table whose only character becomes a long text
charsmap = struct.pack("<129L", 4 * 128, *(units.get(unit, 0) for unit in range(128))) + b"x" * 2000 + b"\0"
put("tokenizer_json", "charsmap_long", tokenizer(bpe(), normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}))
put("tokenizer_json", "parts", tokenizer(bpe(), added_tokens=specials, normalizer={"type": "Prepend", "prepend": "he" * 700}, decoder={"type": "Replace", "pattern": {"String": "l"}, "content": "o" * 700}))
put("tokenizer_json", "charsmap_short", tokenizer(bpe(), normalizer={"type": "Precompiled", "precompiled_charsmap": "AAA="}))

for target in ("tokenizer_config", "sentencepiece_folder"):
    put(target, "roles", {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "unk_token": None, "add_bos_token": True, "add_eos_token": True, "legacy": False})
    put(target, "ids", {"bos_token_id": 3, "eos_token_id": [4, 3], "pad_token_id": None})
    put(target, "added", {"added_tokens_decoder": {"0": token(0, "<unk>"), "9": token(9, "<added>", special=False, lstrip=True)}, "tokenizer_class": "LlamaTokenizer"})
    put(target, "added_far", {"added_tokens_decoder": {"99999999": token(0, "<far>")}})
    put(target, "wrong_types", {"bos_token": 1, "add_bos_token": "yes", "added_tokens_decoder": []})
    put(target, "wide_id", {"bos_token_id": 2**40, "eos_token_id": 2**63 + 1})
    behind = 5 if target == "tokenizer_config" else 8
    put(target, "added_ids", {"<added>": behind, "<more>": behind + 1})
    put(target, "added_later", {"<added>": behind + 2})
    put(target, "added_id_wide", {"<added>": 2**40})
    put(target, "array", [])
    put(target, "broken", '{"bos_token": "<s>')


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def number(id, value):
    return varint(id << 3) + varint(value)


def piece(content, score, kind=1):
    return field(1, field(1, content.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind))


def charsmap():
    units = [0] * 256
    units[0] = 1 << 10  # the root's children stand at 1 ^ byte
    units[1 ^ ord("h")] = ord("h") | 1 << 8 | 2 << 10
    units[1 ^ ord("h") ^ 2] = 1 << 31 | 2
    return struct.pack("<257L", 1024, *units) + b"b\0c\0"


def sentencepiece(model_type, pieces, trainer=b"", normalizer=b"\x18\1\x20\1\x28\1"):
    control = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    return control + b"".join(pieces) + field(2, number(3, model_type) + trainer) + field(3, normalizer)


small = [piece(content, -1.0 - i) for i, content in enumerate(("▁", "h", "e", "l", "o", "he", "ll", "▁w", "hello"))]
for kind, name in ((1, "unigram"), (2, "bpe"), (3, "word"), (4, "char")):
    put("sentencepiece", name, sentencepiece(kind, small))
put("sentencepiece", "user_defined", sentencepiece(1, small + [piece("<sep>", 0, 4), piece("gone", 0, 5)]))
put("sentencepiece", "byte_fallback", sentencepiece(2, small + [piece("<0x%02X>" % byte, 0, 6) for byte in range(256)], trainer=number(35, 1)))
put("sentencepiece", "charsmap", sentencepiece(1, small, normalizer=field(2, charsmap()) + b"\x18\1"))
put("sentencepiece", "charsmap_beyond", sentencepiece(1, small, normalizer=field(2, struct.pack("<5L", 16, 1024 << 1, 0, 0x80000000, 97) + b"ab\0c\0") + b"\x18\1"))
put("sentencepiece", "charsmap_damaged", sentencepiece(1, small, normalizer=field(2, struct.pack("<L", 4000) + b"abcd") + b"\x18\1"))
put("sentencepiece", "twice", sentencepiece(1, small + small[:1]))
put("sentencepiece", "no_pieces", field(2, number(3, 1)) + field(3, b"\x18\1"))
put("sentencepiece", "cut", sentencepiece(1, small)[:-3])
put("sentencepiece", "empty_piece", sentencepiece(1, small + [piece("", 0)]))
put("sentencepiece", "nan", sentencepiece(1, small + [piece("n", float("nan")), piece("i", float("inf"))]))
put("sentencepiece", "no_unknown", piece("a", 0) + field(2, number(3, 1)) + field(3, b"\x18\1"))
put("sentencepiece", "recorded", (recorded / "text/sentencepiece_llama.model").read_bytes()[:3000])  # cut; the whole is 16 KiB
put("sentencepiece", "wide_type", sentencepiece(2**31 - 1, small))

# --- pages, scores, lists --------------------------------------------------------------------------------------------------------------------------

lines = '{"text":"One page, ends.","work":"w","page":1,"score":0.5}\n{"text":"日本語 \\u00e9 \\ud83d\\ude00","page":-2,"other":[{"deep":[1,2]}]}\r\n\n{"text":"  "}\n'
put("pages", "lines", lines)
put("pages", "byte_order_mark", "\ufeff" + lines)
put("pages", "gzip", gzip.compress(lines.encode(), mtime=0))
put("pages", "gzip_twice", gzip.compress(lines.encode(), mtime=0) * 2)
put("pages", "gzip_cut", gzip.compress(lines.encode(), mtime=0)[:-9])
put("pages", "zstd", bytes([0x28, 0xB5, 0x2F, 0xFD, 0x20, 15]) + bytes([15 << 3 | 1, 0, 0]) + b'{"text":"zstd"}')
put("pages", "zstd_skippable", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + bytes([0x28, 0xB5, 0x2F, 0xFD, 0x20, 15]) + bytes([15 << 3 | 1, 0, 0]) + b'{"text":"zstd"}')
put("pages", "zstd_window", bytes([0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xF8, 0, 0, 0]))
put("pages", "lone_surrogate", '{"text":"a\\ud800b\\\\udc00"}\n{"text":"\\udc00"}\n')
put("pages", "ill_formed", b'{"text":"a\xff\xc3b\xed\xa0\x80"}\n')
put("pages", "nul", b'{"text":"a\0b"}\n{"text":"\\u0000"}\n')
put("pages", "twice", '{"text":"a","text":"b"}\n')
put("pages", "wrong_types", '{"text":1}\n{"text":"a","page":"1"}\n{"text":"a","page":1e400}\n{"text":"a","page":18446744073709551615,"score":-0}\n[]\n3\n"x"\n')
put("pages", "deep", '{"text":"a","x":' + "[" * 600 + "]" * 600 + "}\n")
put("pages", "long", '{"text":"' + "x" * 3000 + '"}\n')
put("pages", "kinds", b"PK\3\4")
put("pages", "parquet", b"PAR1\x15\4")
put("pages", "bzip2", b"BZh91AY&SY")
put("pages", "xz", b"\xfd7zXZ\0")


def fnv(text):
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in text.encode():
        value = (value ^ byte) * 0x0000000001000000000000000000013B % 2**128
    return "%032x" % value


scores = [{"work": "w", "page": 1, "hash": fnv("w\0001\0" + content), "score": 0.5} for content in ("first", "second", "third")]
jsonl = lambda *items: "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
put("score_file", "sound", jsonl({"dapt_scores": 1, "scorer": "ngram", "min_score": 0.1}, *scores))
put("score_file", "more_pages", jsonl({"dapt_scores": 1, "scorer": "ngram"}, {"hash": "0", "score": 1}, *scores))
put("score_file", "others", jsonl({"dapt_scores": 1, "scorer": "ngram"}, scores[1]))
put("score_file", "version", jsonl({"dapt_scores": 2, "scorer": "ngram"}))
put("score_file", "wrong_types", jsonl({"dapt_scores": 1, "scorer": 5}))
put("score_file", "wrong_lines", jsonl({"dapt_scores": 1, "scorer": "x"}, {"hash": 1}, [1], None))
put("score_file", "deep", deep(300, "dapt_scores"))
put("score_file", "none", "")

# --- token_store: the target sets the checksums ----------------------------------------------------------------------------------------------------

def token_store(ids=(1, 2, 3, 400), ends=(3, 4), works=b"w", held_out=b'{"work":"v","page":2,"text":"t"}\n', description=b'[["pages","a"]]', vocabulary=500, width=2, tokens=None, version=1, names=((0, 1), (0, 1))):
    padded = lambda data: data + bytes(-len(data) % 8)
    header = struct.pack("<8sIIQQ8Q7I", b"dapt-ids", version, width, 1, 2, vocabulary, len(ends), 0, len(ids) if tokens is None else tokens, len(works), held_out.count(b"\n"), len(held_out), len(description), *[0] * 7)
    documents = b"".join(struct.pack("<QQIIq", end, *name, 0, number) for number, (end, name) in enumerate(zip(ends, names)))
    return header + bytes(4) + padded(struct.pack(f"<{len(ids)}{'H' if width == 2 else 'I'}", *ids)) + bytes(8) + documents + padded(works) + padded(held_out) + padded(description)


put("token_store", "sound", token_store())
put("token_store", "wide", token_store(width=4, vocabulary=70000, ids=(1, 2, 3, 66000)))
put("token_store", "id_beyond_vocabulary", token_store(vocabulary=400))
put("token_store", "negative_id", token_store(width=4, ids=(1, 2, 3, 1 << 31), vocabulary=70000))
put("token_store", "ends_backwards", token_store(ends=(4, 3)))
put("token_store", "ends_early", token_store(ends=(1, 2)))
put("token_store", "name_outside", token_store(names=((0, 1), (1, 1))))
put("token_store", "held_out_damaged", token_store(held_out=b'{"work":5}\n'))
put("token_store", "description_deep", token_store(description=b"[" * 200))
put("token_store", "description_wrong", token_store(description=b'[["a"]]'))
put("token_store", "many_tokens", token_store(tokens=1 << 62))
put("token_store", "version", token_store(version=2))
put("token_store", "cut", token_store()[:150])

put("task_files", "questions", "".join((examples / "fewshot.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]))
put("task_files", "groups", "".join((examples / "qa.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]))
put("task_files", "cloze", "".join((examples / "cloze.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]))
put("task_files", "byte_order_mark", '\ufeff{"id":"1","question":"q","answers":["a"]}\n \n')
put("task_files", "empty_texts", '{"id":"1","question":" ","answers":[]}\n')
put("task_files", "twice", '{"id":"1","id":"2","question":"q","answers":["a"]}\n')
put("task_files", "no_word", '{"id":"1","sentence":"s","answer":"a","candidates":["a","b"]}\n')
put("task_files", "not_among", '{"id":"1","sentence":"{word}{word}","answer":"c","candidates":["a","b"]}\n')
put("task_files", "deep", deep(300, "id"))
put("task_files", "wrong_types", '{"id":1,"question":[],"answers":{"a":1}}\n[]\n')

put("word_lists", "labels", jsonl({"work": "w", "page": 1, "domain": True}, {"work": "w", "page": 2, "domain": False}))
put("word_lists", "terms", "apt\n  dpkg  \n\nword list\nsome words\n")
put("word_lists", "answers", jsonl({"answers": ["apt", "dpkg"]}, {"answer": "words"}))
put("word_lists", "labels_twice", jsonl({"work": "w", "page": 1, "domain": True}) * 2)
put("word_lists", "wrong_types", jsonl({"work": 1, "page": "1", "domain": 0}, {"answers": "x"}, {"answers": {"a": "b"}}, [1]))
put("word_lists", "large_page", '{"work":"w","page":1e300,"domain":true}\n{"work":"w","page":18446744073709551615,"domain":true}\n')
put("word_lists", "deep", deep(300, "answers"))
put("word_lists", "nothing", " \n")

after_header = jsonl(*({**score, "hash": fnv("w\0001\0" + content)} for score, content in zip(scores, ("first", "second"))))
put("score_journal", "sound", after_header)
put("score_journal", "whole", jsonl({"dapt_scores": 1, "scorer": "ngram"}).replace(" ", "") + after_header)
put("score_journal", "cut", after_header[:-9])
put("score_journal", "others", jsonl(scores[2], scores[1]))
put("score_journal", "wrong_types", jsonl({"hash": 1}, []))
put("score_journal", "nul", b"\0\0\n\0\n")

put("evaluations", "sound", jsonl(*({"step": step, "perplexity": 9.5, "qa_exact": 0.25, "checksums": {"perplexity": "1", "qa_exact": "2"}} for step in (4, 8))))
put("evaluations", "before", jsonl({"step": 4, "perplexity": None, "checksum": "x"}))
put("evaluations", "cut", jsonl({"step": 4, "perplexity": 9.5})[:-1])
put("evaluations", "wide_step", jsonl({"step": 2**64 - 1, "perplexity": 9.5}, {"step": -4, "perplexity": 9.5}, {"step": 1e300, "perplexity": 9.5}))
put("evaluations", "wrong_types", jsonl({"step": "4", "perplexity": 9.5}, {"step": 4, "perplexity": "9"}, [4], None))
put("evaluations", "large", '{"step":4,"perplexity":1e400}\n')
put("evaluations", "deep", '{"step":4,"perplexity":1,"x":' + "[" * 600 + "]" * 600 + "}\n")

metric = {"name": "logp_mrr", "value": 0.5, "higher_is_better": True, "details": {"top1": 0.5, "loss": "inf"}, "settings": {"ties": "mean"},
          "items": [{"id": "c1", "value": 0.5, "prediction": "dpkg", "rank": 1.5, "scores": [["z", -0.5], ["a", "-inf"]], "scores_per": {"token": [-0.1, None]}}]}
trained = {"steps": 3, "skipped": 1, "tokens": 1000, "first_loss": 2.5, "last_loss": None, "seconds": 1.5, "optimizer_seconds": 0.5, "peak_memory_bytes": 10**9, "device_peak_memory_bytes": [["cuda:0", 10**9]],
           "trainable_parameters": 7, "state_bytes": 56, "rank_state_bytes": [28, 28], "rank_weight_bytes": [], "stopped_because": "max_steps"}
result = {"version": 1, "name": "LoRA 8", "description": "rank 8", "header": [["lr", "1e-4"]], "train": trained, "metrics": [metric], "run": [["model", "m"], ["model", "n"]]}
put("setting_result", "sound", result)
put("setting_result", "older", {**result, "train": {key: value for key, value in trained.items() if not isinstance(value, list)}, "metrics": []})
for name, change in {"steps_large": {"steps": 1e300}, "steps_wide": {"steps": 2**63}, "bytes_fraction": {"rank_state_bytes": [0.5]}, "devices": {"device_peak_memory_bytes": [["cuda:0"]]}, "devices_number": {"device_peak_memory_bytes": 5}}.items():
    put("setting_result", name, {**result, "train": {**trained, **change}})
for name, change in {"version": {"version": 2}, "version_large": {"version": 1e300}, "header": {"header": {"a": 1}}, "metrics": {"metrics": [1]}, "scores": {"metrics": [{**metric, "items": [{**metric["items"][0], "scores": [[]]}]}]},
                     "infinite": {"metrics": [{**metric, "value": "Infinity"}]}}.items():
    put("setting_result", name, {**result, **change})
put("setting_result", "deep", deep(300, "version"))

event = b"\x09" + struct.pack("<d", 1.5) + b"\x10\2" + b"\x2a\x0b" + b"\x0a\x09" + b"\x0a\2ab\x15" + struct.pack("<f", 0.5)
put("event_file", "event", event)
put("event_file", "later", event.replace(b"\x10\2", b"\x10\7"))
put("event_file", "long_step", b"\x10" + b"\xff" * 9 + b"\1")
put("event_file", "long_field", b"\x2a" + b"\xff" * 9 + b"\1ab")
put("event_file", "group", b"\x0b\x0c")
put("event_file", "endless_number", b"\xff" * 12)
put("event_file", "length", struct.pack("<Q", 2**63) + b"abcdefgh")
put("event_file", "cut", struct.pack("<Q", 9) + b"abcd" + b"123456789")

put("step_log", "sound", jsonl(*({"step": step, "tokens": 512 * step, "loss": 2.5, "lr": 1e-4, "phase_seconds": {"forward": 0.1}} for step in range(1, 6))))
put("step_log", "whole", jsonl(*({"step": step, "tokens": 512 * step, "loss": 2.5, "lr": 1e-4, "grad_norm": None, "tokens_per_second": 9.5, "peak_memory_bytes": 10**9, "seconds": 1.5 * step,
                                  "phase_seconds": {"forward": 0.1}, "skipped": False, "skipped_steps": 0, "fraction": 0.1 * step} for step in range(1, 6))))
put("step_log", "cut", '{"step":1,"loss":2}\n{"step":2,"lo')
put("step_log", "wrong_type", '{"step":"1"}\n')
put("step_log", "large", '{"step":1e300}\n')
put("step_log", "other", "[1]\n{}\n")
put("step_log", "deep", deep(300, "step") + "\n")

# --- configurations --------------------------------------------------------------------------------------------------------------------------------

shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
for model in ("llama", "mistral", "qwen2", "qwen3"):
    put("llama_config", model, {"architectures": ["X"], "model_type": model, **shape, "rms_norm_eps": 1e-5, "tie_word_embeddings": model == "qwen2"})
ropes = {"linear": {"type": "linear", "factor": 2.0}, "dynamic": {"rope_type": "dynamic", "factor": 4.0}, "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
         "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "truncate": False}}
for name, rope in ropes.items():
    put("llama_config", name, {"model_type": "llama", **shape, "rope_theta": 500000.0, "rope_scaling": rope})
put("llama_config", "rope_parameters", {"model_type": "llama", **shape, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
put("llama_config", "windows", {"model_type": "qwen2", **shape, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"]})
put("llama_config", "biases", {"model_type": "llama", **shape, "attention_bias": True, "mlp_bias": True, "head_dim": 8})
put("llama_config", "many_layers", {"model_type": "qwen2", **{**shape, "num_hidden_layers": 10**12}, "use_sliding_window": True})
put("llama_config", "wide", {"model_type": "llama", **{**shape, "hidden_size": 2**62, "vocab_size": 2**62}})
put("llama_config", "wraps", {"model_type": "llama", **{**shape, "hidden_size": 2**64 - 16}})
put("llama_config", "head_dim", {"model_type": "llama", **shape, "head_dim": 2**62})
put("llama_config", "zero_heads", {"model_type": "llama", **{**shape, "num_attention_heads": 0}})
put("llama_config", "original_zero", {"model_type": "llama", **shape, "rope_scaling": {**ropes["yarn"], "original_max_position_embeddings": 0, "factor": None}})
put("llama_config", "wrong_types", {"model_type": "llama", **{**shape, "hidden_size": "16"}})
put("llama_config", "deep", '{"model_type":"llama","hidden_act":' + "[" * 600 + "]" * 600 + "}")
put("llama_config", "array", [1])

encoder = {**{key: shape[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}, "max_position_embeddings": 64}
for model in ("bert", "luke", "roberta", "xlm-roberta"):
    put("encoder_config", model, json.loads((recorded / f"encoders/{model}/config.json").read_text(encoding="utf-8")))
put("encoder_config", "labels", {"model_type": "bert", **encoder, "num_labels": 3, "hidden_act": "gelu_new"})
put("encoder_config", "many_labels", {"model_type": "bert", **encoder, "num_labels": 10**12})
put("encoder_config", "no_labels", {"model_type": "bert", **encoder, "id2label": {"1": "x"}})
put("encoder_config", "padding", {"model_type": "roberta", **encoder, "pad_token_id": 2**63 - 1})
put("encoder_config", "wide", {"model_type": "bert", **{**encoder, "hidden_size": 2**62}})
put("encoder_config", "wrong_types", {"model_type": "bert", **{**encoder, "hidden_size": 1.5}})
put("encoder_config", "deep", '{"model_type":"bert","id2label":' + "[" * 600 + "]" * 600 + "}")

# --- adapter, checkpoint, options ------------------------------------------------------------------------------------------------------------------

lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["up_proj"], "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True}
put("peft_adapter", "sound", lora)
for name, change in {"regex": {"target_modules": ".*up_proj"}, "all_linear": {"target_modules": "all-linear"}, "patterns": {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"mlp\\.up_proj": 8.0}}, "rslora": {"use_rslora": True},
                     "dora": {"use_dora": True}, "pissa": {"init_lora_weights": "pissa"}, "layers": {"layers_to_transform": [0], "layers_pattern": "layers"}, "saved": {"modules_to_save": ["lm_head"]}, "excluded": {"exclude_modules": ["lm_head", "none"]},
                     "no_targets": {"target_modules": None}, "other_type": {"peft_type": "IA3"}, "bias": {"bias": "all"}, "large_rank": {"r": 10**8}, "huge_rank": {"r": 10**18}, "negative_rank": {"r": -1}, "rank_fraction": {"r": 1e300},
                     "bad_regex": {"target_modules": "(((a"}, "slow_regex": {"target_modules": "(.*.*.*.*.*)*x"}, "long_regex": {"target_modules": "(" * 500 + "a" + ")" * 500}, "wrong_types": {"target_modules": {"a": 1}},
                     "layer_number": {"layers_to_transform": 1e300}}.items():
    put("peft_adapter", name, {**lora, **change})
put("peft_adapter", "deep", '{"peft_type":' + "[" * 600 + "]" * 600 + "}")


def checkpoint(tensors, **changes):
    header, data, sums = {}, b"", {}
    for name, values in tensors.items():
        header[name] = tensor("F32", [len(values) // 4], [len(data), len(data) + len(values)])
        data += values
        sums[name] = zlib.crc32(values)
    progress = {"windows": 2, "steps": 2, "skipped": 0, "tokens": 64, "seconds": 1.5, "optimizer_seconds": 0.5, "first_loss": 3.0, "last_losses": [2.5, None], "position": {"epoch": 0, "sequence": 4}}
    described = {"version": 1, "progress": {**progress, **changes.pop("progress", {})}, "numbers": {"seed": 1}, "crc32": sums, "header": [["adapter", "lora"]], "run": [["lr", "1e-4"]], **changes}
    return json.dumps(described, separators=(",", ":")).encode() + b"\n" + safetensors(header, data)


state = {"w": struct.pack("<2f", 1, 2), "state/w/exp_avg": struct.pack("<2f", 3, 4)}
put("checkpoint", "sound", checkpoint(state))
put("checkpoint", "no_tensors", checkpoint({}))
put("checkpoint", "version", checkpoint(state, version=2))
put("checkpoint", "sums", checkpoint(state, crc32={"w": 1}))
put("checkpoint", "sums_wrong", checkpoint(state, crc32={"w": -1.5e300, "state/w/exp_avg": 1}))
put("checkpoint", "sums_array", checkpoint(state, crc32=[1]))
put("checkpoint", "large_number", checkpoint(state, version=1e300))
put("checkpoint", "steps", checkpoint(state, progress={"steps": -1, "windows": 2**63}))
put("checkpoint", "losses", checkpoint(state, progress={"last_losses": "x", "first_loss": None}))
put("checkpoint", "header", checkpoint(state, header={"a": 1}))
put("checkpoint", "damaged", checkpoint(state)[:-1] + b"x")
put("checkpoint", "cut", checkpoint(state)[:-3])
put("checkpoint", "deep", deep(600, "version"))

put("toml_options", "quickstart", (examples / "quickstart.toml").read_bytes())
put("toml_options", "kinds", '[train]\nlr = 1e-4\nseed = 0x1F\nname = "a\\u00e9"\nliteral = \'b\'\nlist = [1, 2.5, true]\nbig = 9223372036854775807\ninf = inf\n')
put("toml_options", "nested", "[a.b]\nc.d = 1\n[a.e]\nf = [\n  'x',\n  'y' ]\n")
put("toml_options", "inline", "a = { b = 1, c = [ [1], {d = 2} ] }\n")
put("toml_options", "dates", "a = 2024-01-01T00:00:00Z\n")
put("toml_options", "twice", "a = 1\na = 2\n")
put("toml_options", "deep", "a = " + "[" * 300 + "]" * 300 + "\n")
put("toml_options", "deep_keys", "a" + ".a" * 300 + " = 1\n")
put("toml_options", "strings", "a.\"=\".c = \"\"\"x\n# \\\" y\"\"\"\nb = {x = '''\n# ''', y.z = 1}\n")
put("toml_options", "broken", "[train\nlr = \n")
put("toml_options", "ill_formed", b"a = '\xff'\n")
