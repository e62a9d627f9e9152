#!/usr/bin/env python3
"""Records what HF tokenizers and sentencepiece give, for tests/text.

    record.py --smollm2 DIR --debian DIR --out DIR [--only NAME ...]

DIR of --smollm2 holds tokenizer.json of SmolLM2-135M-Instruct, DIR of --debian holds pages.jsonl and pages.ja.jsonl.
--only records tokenizers of record_small_tokenizers of these names and nothing else: training breaks ties by chance, so that the others would change.
Written with tokenizers 0.23.3, sentencepiece 0.2.3 and transformers 5.24.0.
"""
import argparse
import json
import pathlib
import random

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HARD_STRINGS = [
    "", " ", "  ", "\n", "a", "\ufeffBOM first", "in the \ufeff middle", "line\u2028separator\u2029paragraph", "nul\0nul", "\0", "\u3000full width\u3000\u3000space\u3000",
    "<s>uns", "a:<s>->", "</s>Human", "inform<s>. Hey.       .", "<unk><s></s>", "<s><s>  <s>", " <s> ", "<|endoftext|>", "x<|endoftext|> y<|im_start|>user\nhi<|im_end|>\n",
    "<|endoftext", "<<|endoftext|>>", "<|endoftext|><|endoftext|>", "︰", "ｶﾞ", "㈱", "ガ", "か\u3099", "①②③", "１２個。", "12個", "½ ⅔ Ⅷ ² ³", "٣٤ 𝟛 १२",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🇯🇵 ☕️ ❤", "e\u0301 e\u0301\u0323 \u0301start", "Z\u0351\u036b\u0343\u036a\u0302\u036ba\u0301l\u0358\u0356g\u031c\u0319\u0332o\u0349",
    "\x01\x02\x1f\x7f\x80\x9f", "tab\tand\vvertical\fform", "a\r\nb\rc\nd\n\n\r\n\r\r e", "\u0085next line\u0085", "\u00a0nbsp\u00a0 \u00a0", "\u200bzero\u200cwidth\u200djoin\u2060er",
    "don't I'll we've he's she'd I'm they're 'S 'LL 'tis ''s '", "'s't're've'm'll'd", "x 's y", "  'll", "1st 2nd 3.14 1,000,000 12345678901234567890", "a1b2c3",
    "if (x == 1) {\n\treturn y[0] + -z;\n}\n", "    four\n        eight\n\ttab\n", "trailing spaces   ", "   leading", "a   b    c     d", " \n \n  x", "\n\n\n   \n", "!!!???...,,,;;;",
    "x'ſy 'ſ it'S DON'T we'Re I'LL 'ﬆa 'Vex", "a \n  \n  b\r\n\t\r  c \n", "!!\n\n?\r x\n!",
    "https://www.debian.org/doc/?a=b&c=d#e", "user@example.com", "C++ C# .NET", "日本語の文章です。漢字とかなとカナ、そしてABC123。", "한국어 문장입니다", "Привет, мир", "مرحبا بالعالم", "नमस्ते दुनिया",
    "ไทยไม่มีช่องว่าง", "İstanbul ISTANBUL ıspanak", "ſs ß ẞ ŉ", "ΑΣ Σας", "\ufffd\ufffe\uffff", "\U0001d400\U0001d41a𠮷野家\U0010ffff", "▁▁meta▁space ▁", "<0x0A><0xE3>", "Ġhello Ċ",
    "\u00adsoft\u00adhyphen", "\u0378\u0379unassigned", "\ue000private", "a\u0300\u0301\u0302\u0303b", "\u1100\u1161\u11a8", "ﷺ ﬁ ﬀ Ǆ", "—–‐‑“”‘’«»…", "$ € £ ¥ ₿ © ® ™ ° ± ×", "x" * 200, " " * 100, "1" * 77,
    "ab " * 60, "あいう" * 50, "\t" * 33 + "x", "\n" * 40, "a\u0301" * 40, "👍" * 30, "'" * 25, "- " * 30, "<s>" * 9, "Hello  <|x|>  World<|y|>Day Monday day daymonday  day",
]

LONG_STRINGS = [("あ", 340_000), (" a", 500_000), ("a", 300_000), (" ", 300_000), ("1", 100_000), ("\n", 100_000), ("日本語", 100_000), ("'s", 100_000), ("👍🏽", 20_000)]

ALPHABETS = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJ", "0123456789", "     ", "\n\t\r", ".,:;!?'\"-()[]{}<>|/", "あいうえおかきくけこ", "アイウエオガギ", "日本語漢字文書設定",
             "\u3000。、「」", "éèüñçß", "👍🎉❤\u200d\ufe0f", "\u0301\u0308\u3099", "абвгд", "½²①Ⅷ", "\u00a0\u2028\u0085\ufeff\0\x07"]


# What Oniguruma, which the reference uses, and ICU write alike and understand differently, and patterns of real tokenizers.
REGEXES = [
    r"\p{N}{1,3}+", r"[a-z]{2,3}+", r"(?:\p{L}|\d){2}+", r"\p{L}{1,2}++", r"(a|b(c))\u0301{1,}+|日{1,2}+", r"a{2}?b?", r"\p{N}{1,3}?", r"\w+", r"[\w]+", r"\W", r"[^\w\s]+", r"\w{1,2}+|\W{2}",
    r"\b", r"\b\w+\b", r"\Ba", r"\d{1,3}(?=(?:\d{3})*\b)", r"\h", r"[\h]+|\H{2}", r"\s\Z", r"\s\z", r"\n?\Z", r"\v", r"[\b\v]", r"[[:punct:]]", r"[[:^punct:]a]+", r"[[:xdigit:]]+", r"[[:word:]]+",
    r"\p{Word}+|\P{XDigit}", r"\p{XDigit}", r"(?m:a.)|(?m-i:.\n)", r"(?m).\n", r"(?i)'s|(?i)\p{Lu}+", r"x|(?i)s|k", r"(?<n>a)\k<n>|\R", r"[]a]", r"(?#a)b", r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


def generated_strings(count, seed):
    random_ = random.Random(seed)
    strings = []
    for _ in range(count):
        parts = []
        for _ in range(random_.randint(1, 14)):
            alphabet = random_.choice(ALPHABETS)
            parts.append("".join(random_.choice(alphabet) for _ in range(random_.randint(1, 6))))
            if random_.random() < 0.06:
                parts.append(random_.choice(["<s>", "</s>", "<unk>", "<|x|>", "<|y|>", "Day", "▁", "<0x41>"]))
        strings.append("".join(parts))
    return strings


def fnv1a(data):
    """64-bit hash of bytes, or of ids as 4 bytes each, little-endian."""
    if not isinstance(data, bytes):
        data = b"".join(one.to_bytes(4, "little") for one in data)
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def pages(file):
    return [json.loads(line)["text"] for line in open(file, encoding="utf-8")]


def write(file, value):
    """One entry a line, ASCII only."""
    if isinstance(value, list):
        text = "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value) + "\n]\n"
    else:
        text = json.dumps(value, separators=(",", ":")) + "\n"
    file.write_text(text, encoding="ascii")


def encodings(tokenizer, strings):
    cases = []
    for text in strings:
        tokenizer.encode_special_tokens = True
        as_text = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        as_tokens = tokenizer.encode(text, add_special_tokens=False).ids
        case = {"text": text, "as_tokens": as_tokens, "decoded": tokenizer.decode(as_tokens, skip_special_tokens=True)}
        if as_text != as_tokens:
            case["as_text"] = as_text
        cases.append(case)
    return cases


def record_smollm2(arguments, english, japanese):
    tokenizer = Tokenizer.from_file(str(arguments.smollm2 / "tokenizer.json"))
    for name, corpus in (("en", english), ("ja", japanese)):
        # The text's hash first: a machine may have the corpus from other package versions, and then checks the pages that are the same.
        hashes = [f"{fnv1a(text.encode())} {fnv1a(encoding.ids)}" for text, encoding in zip(corpus, tokenizer.encode_batch(corpus, add_special_tokens=False))]
        (arguments.out / f"smollm2_pages.{name}.txt").write_text("\n".join(hashes) + "\n", encoding="ascii")
    chosen = [text for corpus in (english, japanese) for text in corpus[7 :: len(corpus) // 20] if len(text) < 2000]
    write(arguments.out / "smollm2_strings.json", encodings(tokenizer, HARD_STRINGS + generated_strings(150, 1) + chosen[:24]))
    long = []
    for unit, count in LONG_STRINGS:
        ids = tokenizer.encode(unit * count, add_special_tokens=False).ids
        long.append({"unit": unit, "count": count, "ids": len(ids), "hash": fnv1a(ids)})
    write(arguments.out / "smollm2_long.json", long)


def small_tokenizers(corpus):
    """Name and tokenizer of each kind that SmolLM2's does not cover."""
    specials = ["<unk>", "<s>", "</s>"]

    def bpe(**options):
        return Tokenizer(models.BPE(**options))

    def trained(tokenizer, size, **options):
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False, limit_alphabet=400, **options))
        return tokenizer

    def with_bytes(tokenizer):
        """Puts the 256 byte tokens behind the special ones, as Llama 2 has them."""
        content = json.loads(tokenizer.to_str())
        old = sorted(content["model"]["vocab"].items(), key=lambda entry: entry[1])
        names = [token for token, _ in old[:3]] + [f"<0x{byte:02X}>" for byte in range(256)] + [token for token, _ in old[3:]]
        content["model"]["vocab"] = {token: index for index, token in enumerate(names)}
        return content

    llama2 = bpe(unk_token="<unk>", fuse_unk=True)
    llama2.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama2.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only: words, as SentencePiece has them
    trained(llama2, 900)
    content = with_bytes(llama2)
    content["pre_tokenizer"] = None
    content["model"].update(byte_fallback=True, fuse_unk=True)
    content["decoder"] = json.loads(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]).__getstate__())
    content["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                 "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                                 "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]  # the older spelling
    yield "llama2", content

    for name, scheme, fuse in (("metaspace_always", "always", True), ("metaspace_first", "first", False)):
        metaspace = bpe(unk_token="<unk>", fuse_unk=fuse)
        metaspace.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme)
        metaspace.decoder = decoders.Metaspace("▁", prepend_scheme=scheme)
        trained(metaspace, 700)
        metaspace.add_tokens([AddedToken("<|x|>", lstrip=True, rstrip=True, normalized=False), AddedToken("<|y|>", rstrip=True), AddedToken("Day", single_word=True)])
        yield name, json.loads(metaspace.to_str())

    llama3 = bpe(ignore_merges=True)
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    llama3.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    llama3.decoder = decoders.ByteLevel()
    llama3.post_processor = processors.ByteLevel(trim_offsets=True)
    trained(llama3, 1100, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    llama3.add_tokens([AddedToken("<|x|>", lstrip=True), AddedToken("<|y|>", rstrip=True)])
    content = json.loads(llama3.to_str())
    whole = max(content["model"]["vocab"].values()) + 100  # a word that no merge makes, and a gap in the ids
    content["model"]["vocab"]["Ġaptitude"] = whole
    yield "llama3", content

    gpt2 = bpe()
    gpt2.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(left=True, right=False)])
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    gpt2.decoder = decoders.ByteLevel()
    trained(gpt2, 600)  # without the whole byte alphabet: bytes that the corpus lacks vanish
    gpt2.add_tokens([AddedToken("Day", normalized=True, single_word=True), AddedToken("<|x|>", normalized=False)])
    yield "gpt2_nfkc", json.loads(gpt2.to_str())

    falcon = bpe()
    falcon.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Digits(),
                                                    pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    falcon.decoder = decoders.ByteLevel()
    trained(falcon, 700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    yield "falcon", json.loads(falcon.to_str())

    qwen2 = bpe(byte_fallback=False, fuse_unk=False)
    qwen2.normalizer = normalizers.NFC()
    qwen2.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern.replace("{1,3}", "")), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    qwen2.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    qwen2.post_processor = processors.ByteLevel(add_prefix_space=False, use_regex=False)
    qwen2.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    qwen2.add_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    qwen2.add_tokens([AddedToken("<tool_call>", normalized=False)])
    yield "qwen2", json.loads(qwen2.to_str())

    neox = bpe()  # the class of calm2-7b; runs of spaces are added tokens, found after the normalizer
    neox.normalizer = normalizers.NFC()
    neox.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    neox.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True)
    neox.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    neox.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=900, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    neox.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    yield "gpt_neox", json.loads(neox.to_str())


def encoder_tokenizers(corpus, charsmap):
    """XLM-R's and BERT's: Unigram with SentencePiece's table of characters, and WordPiece."""
    xlm = Tokenizer(models.Unigram())
    xlm.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")])
    xlm.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")])
    xlm.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    xlm.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=2000, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    xlm.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    yield "xlm_roberta", json.loads(xlm.to_str())

    bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer(lowercase=True)
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.decoder = decoders.WordPiece()
    bert.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False, limit_alphabet=400))
    bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    yield "bert", json.loads(bert.to_str())


def record_encoder_tokenizers(arguments, english, japanese):
    model = sentencepiece.SentencePieceProcessor(model_file=str(arguments.out / "sentencepiece_unigram.model"))
    charsmap = charsmap_of(model.serialized_model_proto())
    for name, content in encoder_tokenizers(english[::40] + japanese[::100], charsmap):
        write(arguments.out / f"{name}.tokenizer.json", content)
        tokenizer = Tokenizer.from_file(str(arguments.out / f"{name}.tokenizer.json"))
        # The reference makes special tokens of text that spells them, whatever encode_special_tokens says; dapt does not, and is tested for that by hand.
        special = [token["content"] for token in content["added_tokens"]]
        strings = HARD_STRINGS + ["Ｄａｙ １２ ﾃﾞｰﾀ"] + generated_strings(120, 5) + [text[:600] for text in (english[50], japanese[50])]
        write(arguments.out / f"{name}.strings.json", encodings(tokenizer, [text for text in strings if not any(token in text for token in special)]))


def charsmap_of(proto):
    """normalizer_spec.precompiled_charsmap of a serialized ModelProto: fields 3 and 2, both of wire type 2."""

    def fields(data):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while at < len(data):
            key = varint()
            if key & 7 == 2:
                size = varint()
                yield key >> 3, data[at : at + size]
                at += size
            elif key & 7 == 5:
                at += 4
            elif key & 7 == 1:
                at += 8
            else:
                varint()

    return next(value for number, value in fields(next(value for number, value in fields(proto) if number == 3)) if number == 2)


def record_small_tokenizers(arguments, english, japanese):
    corpus = english[::40] + japanese[::40]
    for name, content in small_tokenizers(corpus):
        if arguments.only and name not in arguments.only:
            continue
        write(arguments.out / f"{name}.tokenizer.json", content)
        tokenizer = Tokenizer.from_file(str(arguments.out / f"{name}.tokenizer.json"))
        strings = HARD_STRINGS + [" aptitude aptitudes", "Ｄａｙ １２ ﾃﾞｰﾀ"] + generated_strings(80, 2) + [text[:600] for text in (english[50], japanese[50])]
        write(arguments.out / f"{name}.strings.json", encodings(tokenizer, strings))


def record_components(arguments):
    """What single components do: hashes of the pieces of pre-tokenizers (each with "|" behind it) and of the text of normalizers; the text of decoders."""
    empty = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
             "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    split = [{"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
             for pattern in ({"String": " "}, {"String": "ab"}, {"Regex": r"\p{N}+|[aeiou]"}, {"Regex": r"(?=x)|^b|\.$"})
             for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous") for invert in (False, True)]
    pre = split + [{"type": "Digits", "individual_digits": each} for each in (False, True)]
    pre += [{"type": "Punctuation", "behavior": behavior} for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")]
    pre += [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}]
    pre += [{"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex} for prefix in (False, True) for regex in (False, True)]
    pre += [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut} for scheme in ("always", "first", "never") for cut in (False, True)]
    pre += [{"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]},
            {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]}]
    for digits in ("{1,3}", "", "+"):
        pre.append({"type": "Split", "behavior": "Isolated", "invert": False,
                    "pattern": {"Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" % digits}})
    pre += [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in REGEXES]
    norm = [{"type": name} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")]
    norm += [{"type": "Strip", "strip_left": left, "strip_right": right} for left in (False, True) for right in (False, True)]
    norm += [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
             {"type": "Replace", "pattern": {"Regex": "a(?=b)"}, "content": "$0\\"}, {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "x "}]}]
    decode = [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"},
              {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Strip", "content": " ", "start": 2, "stop": 1},
              {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                               {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
              {"type": "Sequence", "decoders": []}]
    token_lists = [["▁▁Hey", "▁you▁", "x"], ["<0xE3>", "<0x81>", "<0x82>", "a", "<0xE3>", "<0x81>", "b"], ["<0x0a>", "<0xZZ>", "<0x41>", "<0xF0>"], ["   a  ", " x ", "b "], ["Ġhello", "Ċ", "ÃĤ", "ã", "日本"],
                   ["▁", "▁a"], ["ã", "ģĤ", "Ġ", "ĠÂŃ"], ["b "], ["a"]]
    strings = HARD_STRINGS[:78] + generated_strings(30, 3) + ["ab abab xab.", "b\nb.\nxx.", "a1b22  c", "  ab  ", "İ"]
    strings += ["1234567 12 1", "日日 ²³ x\u200dy\u200c ½", "\u0308\u0301 क्षि", "a\r\n.b\n", "\r\n\n", "a b\n", "$5 <b> ^~|` ☃", "\x08\x0b\x0c\u2028", "XyZ xYz SſKk", "\t0f9GH"]
    cases = []
    for kind, components in (("pre_tokenizer", pre), ("normalizer", norm), ("decoder", decode)):
        for component in components:
            tokenizer = Tokenizer.from_str(json.dumps({**empty, kind: component}))
            if kind == "pre_tokenizer":
                results = [fnv1a("".join(piece + "|" for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)).encode()) for text in strings]
            elif kind == "normalizer":
                results = [fnv1a(tokenizer.normalizer.normalize_str(text).encode()) for text in strings]
            else:
                results = [tokenizer.decoder.decode(list(tokens)) for tokens in token_lists]
            cases.append({"kind": kind, "component": component, "results": results})
    write(arguments.out / "components.json", [{"strings": strings, "token_lists": token_lists}] + cases)


def record_small_cases(arguments):
    """Whole tokenizers for what single components do not show: added tokens of white space, what stands where a normalizer took the start away, a merges.txt header."""
    empty = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
             "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz ▁")}, "merges": []}}

    def added(*tokens):
        return [{"id": 28 + i, "content": content, "single_word": False, "lstrip": "l" in strips, "rstrip": "r" in strips, "normalized": True, "special": False}
                for i, (content, strips) in enumerate(tokens)]

    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    starts = ["\x07ab", " ab", "\u0301ab", "ab\x07", "\x07 ab", "éab", "ab", "\x07<x>ab", "字ab", ""]
    cases = [({"added_tokens": added(("  ", "lr"))}, ["a    b", "a     b", "a  b", "    ", "a b"]),
             ({"added_tokens": added(("day", "r"), ("  ", "lr"))}, ["day  b", "day   b", "day    b", "a  day  "]),
             ({"added_tokens": added(("<x>", "r"), ("  ", ""))}, ["<x>   b", "<x>  b", "<x>    b"]),
             ({"added_tokens": added(("<x>", "r"), (" b", "l"))}, ["<x>  b", "<x> bc", "<x> b b"]),
             ({"model": {"type": "BPE", "vocab": {**empty["model"]["vocab"], "ab": 28}, "merges": ["#version: 0.2", "a b"]}}, ["ab"])]
    for normalizer in ({"type": "Nmt"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKD"}, {"type": "Prepend", "prepend": "x"},
                       {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
                       {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Nmt"}, {"type": "StripAccents"}]}):
        cases.append(({"normalizer": normalizer, "pre_tokenizer": first, "added_tokens": added(("<x>", ""))}, starts))
    result = []
    for parts, texts in cases:
        content = {**empty, **parts}
        result.append({"tokenizer": content, "strings": encodings(Tokenizer.from_str(json.dumps(content)), texts)})
    write(arguments.out / "small_cases.json", result)


def record_behind_tokens(arguments):
    """What transformers' SentencePieceBackend, without `legacy`, makes of text behind a control token."""
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend  # of 5.24.0

    random_ = random.Random(6)
    texts = ["</s> the", "</s>  the", "</s>▁the", "</s>the", "</s>\nthe", "</s> </s>the", "</s> ", "<s>the</s> the  the "]
    texts += ["</s>" + text + random_.choice(["", "</s> the", "<s>  a ", "</s>▁the"]) for text in generated_strings(60, 6) if "<" not in text]
    result = {}
    for name in ("llama", "unigram"):
        tokenizer = SentencePieceBackend(vocab_file=str(arguments.out / f"sentencepiece_{name}.model"), legacy=False, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
        result[f"sentencepiece_{name}"] = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False)} for text in texts]
    write(arguments.out / "sentencepiece_behind.json", result)


def folder_case(arguments, file, files, pre_tokenizer=None):
    """What AutoTokenizer makes of a folder with the tokenizer `file` of this one, maybe with another pre-tokenizer, and `files`."""
    import tempfile

    from transformers import AutoTokenizer

    texts = ["hello world", "本語の文章です。", "a  b", "x\ny", "the</s>the", "<|im_end|>\n<|im_start|>user", "the [x]the", ""]
    with tempfile.TemporaryDirectory() as folder:
        name = "tokenizer.json" if file.endswith(".json") else "tokenizer.model"
        (pathlib.Path(folder) / name).write_bytes((arguments.out / file).read_bytes())
        changed = {name: json.loads((arguments.out / file).read_text()) | {"pre_tokenizer": pre_tokenizer}} if pre_tokenizer else {}
        for other, content in {**files, **changed, "config.json": {"model_type": "llama"}}.items():
            (pathlib.Path(folder) / other).write_text(json.dumps(content))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [{"text": text, "as_tokens": tokenizer.encode(text, add_special_tokens=False)} for text in texts]
    for case in encoded:
        case["decoded"] = tokenizer.decode(case["as_tokens"], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return {"file": file, **({"pre_tokenizer": pre_tokenizer} if pre_tokenizer else {}), "files": files, "eos": tokenizer.eos_token_id, "size": len(tokenizer), "strings": encoded}


def record_folders(arguments):
    """What transformers makes of folders whose other files change the ids: a prefix space that is refused, added tokens that the tokenizer's own file lacks."""
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    chat = {**llama, "eos_token": "<|im_end|>"}
    size = len(json.loads((arguments.out / "llama2.tokenizer.json").read_text())["model"]["vocab"])

    def decoder(*tokens):
        plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        return {"added_tokens_decoder": {str(size + i): {"content": content, **plain, **flags} for i, (content, flags) in enumerate(tokens)}}

    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    added = {"<|im_end|>": 1201, "<|im_start|>": 1200, "[x]": 1202}
    cases = [("sentencepiece_llama.model", {"tokenizer_config.json": {**llama, "legacy": legacy, "add_prefix_space": False}}) for legacy in (False, True)]
    cases += [(file, {"tokenizer_config.json": {**llama, "add_prefix_space": False}}) for file in ("llama2.tokenizer.json", "metaspace_always.tokenizer.json", "metaspace_first.tokenizer.json")]
    cases += [("sentencepiece_llama.model", {"tokenizer_config.json": chat, "added_tokens.json": added}),
              ("sentencepiece_llama.model", {"tokenizer_config.json": llama, "added_tokens.json": added, "special_tokens_map.json": {"extra_special_tokens": ["<|im_start|>"]}}),
              ("llama2.tokenizer.json", {"tokenizer_config.json": {**chat, **fast, **decoder(("<|im_end|>", {}), ("<|im_start|>", {}), ("[x]", {"special": False, "normalized": True}))}}),
              ("llama2.tokenizer.json", {"tokenizer_config.json": {**chat, **fast, **decoder(("<|im_end|>", {"special": False}), ("[x]", {"special": False, "lstrip": True}))}}),
              ("llama2.tokenizer.json", {"tokenizer_config.json": {**chat, **fast}, "added_tokens.json": {"<|im_end|>": size, "[x]": size + 1}})]
    write(arguments.out / "folders.json", [folder_case(arguments, file, files) for file, files in cases])


def record_byte_level_folders(arguments):
    """What transformers makes of `add_prefix_space` where the file's ByteLevel says otherwise."""
    neox = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    cases = [("GPTNeoXTokenizer", True, {"add_prefix_space": False}), ("GPTNeoXTokenizerFast", True, {}), ("GPT2Tokenizer", True, {}), ("GPT2TokenizerFast", False, {"add_prefix_space": True}),
             ("CodeGenTokenizer", True, {}), ("RobertaTokenizerFast", True, {"add_prefix_space": False, **dict.fromkeys(("sep_token", "cls_token", "pad_token", "mask_token"), "<|endoftext|>")})]
    result = []
    for kind, prefix, added in cases:
        byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
        result.append(folder_case(arguments, "gpt_neox.tokenizer.json", {"tokenizer_config.json": {"tokenizer_class": kind, **neox, **added}}, byte_level))
    write(arguments.out / "byte_level_folders.json", result)


def record_roles(arguments):
    """Which of a folder's files transformers takes the special tokens of."""
    import tempfile

    from transformers import AutoTokenizer

    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    empty = {**fast, "bos_token": "", "eos_token": "", "unk_token": ""}  # as Alpaca's day saved them
    decoder = {"added_tokens_decoder": {"1": {"content": "<s>", "normalized": False, "special": True}}}
    cases = [(empty, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}), ({**fast, "eos_token": "<s>", "pad_token": "<unk>"}, {"eos_token": "</s>"}),
             ({**fast, "eos_token": "<s>"}, {"eos_token": {"content": "</s>"}}), ({**fast, "eos_token": "</s>"}, {"eos_token": None}), ({**fast, "eos_token": None}, {"eos_token": "</s>"}),
             ({**fast, **decoder, "eos_token": "<s>"}, {"eos_token": "</s>", "pad_token": "<unk>"}), ({**fast, "added_tokens_decoder": {}, "eos_token": "</s>"}, {"eos_token": "<s>", "unk_token": "<unk>"})]
    result = []
    for config, special_map in cases:
        files = {"tokenizer_config.json": config, "special_tokens_map.json": special_map}
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "tokenizer.json").write_bytes((arguments.out / "llama2.tokenizer.json").read_bytes())
            for name, content in files.items():
                (pathlib.Path(folder) / name).write_text(json.dumps(content))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        result.append({"files": files, **{role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "unk", "pad")}})
    write(arguments.out / "roles.json", result)


def is_tie(model, text):
    """Two segmentations of the same score: rounding decides between them, and versions of the library round differently."""
    best = model.nbest_encode(text, nbest_size=2, return_type="proto").nbests if text else []
    return len(best) == 2 and abs(best[0].score - best[1].score) < 1e-3


def record_sentencepiece(arguments, english, japanese):
    corpus = [line for text in english[::60] + japanese[::60] for line in text.split("\n") if line.strip()]
    common = dict(vocab_size=1200, byte_fallback=True, character_coverage=0.995, num_threads=1, minloglevel=2, user_defined_symbols=["<sep>"])
    kinds = {"llama": dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
             "unigram": dict(model_type="unigram", normalization_rule_name="nmt_nfkc")}
    for name, options in kinds.items():
        prefix = arguments.out / f"sentencepiece_{name}"
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_prefix=str(prefix), **common, **options)
        prefix.with_suffix(".vocab").unlink()
        model = sentencepiece.SentencePieceProcessor(model_file=str(prefix.with_suffix(".model")))
        strings = HARD_STRINGS + ["a<sep>b", "<sep>"] + generated_strings(80, 4) + [text[:800] for text in (english[60], japanese[60])]
        if name == "unigram":
            strings = [text for text in strings if not is_tie(model, text)]
        cases = [{"text": text, "ids": model.encode(text), "decoded": model.decode(model.encode(text))} for text in strings]
        write(prefix.with_suffix(".strings.json"), cases)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("smollm2", "debian", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    english, japanese = pages(arguments.debian / "pages.jsonl"), pages(arguments.debian / "pages.ja.jsonl")
    record_small_tokenizers(arguments, english, japanese)
    if arguments.only:
        return
    record_components(arguments)
    record_small_cases(arguments)
    record_sentencepiece(arguments, english, japanese)
    record_behind_tokens(arguments)
    record_folders(arguments)
    record_byte_level_folders(arguments)
    record_roles(arguments)
    record_encoder_tokenizers(arguments, english, japanese)
    record_smollm2(arguments, english, japanese)


if __name__ == "__main__":
    main()
