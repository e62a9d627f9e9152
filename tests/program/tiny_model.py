"""A model that trains in a second, for tests of the program."""
import json
import math
import random
import struct


def write_model(folder, source, spoiled=(), seed=1, hidden=64, inner=128, layers=2, vocabulary=1024):
    """A small Llama with random fp32 weights and GPT-NeoX's small tokenizer, in a folder that is there. A page with one of the tokens `spoiled` has the loss NaN."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
              "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": not spoiled, "torch_dtype": "float32"}
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + "self_attn.q_proj.weight": [hidden, hidden], at + "self_attn.k_proj.weight": [hidden // 2, hidden], at + "self_attn.v_proj.weight": [hidden // 2, hidden],
                   at + "self_attn.o_proj.weight": [hidden, hidden], at + "mlp.gate_proj.weight": [inner, hidden], at + "mlp.up_proj.weight": [inner, hidden],
                   at + "mlp.down_proj.weight": [hidden, inner], at + "input_layernorm.weight": [hidden], at + "post_attention_layernorm.weight": [hidden]}
    if spoiled:
        shapes["lm_head.weight"] = [vocabulary, hidden]
    draw, header, data = random.Random(seed), {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [1.0] * count if "norm" in name else [draw.gauss(0, 0.1) for _ in range(count)]
        if name == "model.embed_tokens.weight":
            for token in spoiled:
                values[token * hidden] = math.nan
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += struct.pack(f"<{count}f", *values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((source / "tests/parity/text/gpt_neox.tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')


def write_pages(file):
    """Forty pages of one kind, which a model learns within a few steps."""
    file.write_text("".join(json.dumps({"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * 20}) + "\n" for i in range(40)))
