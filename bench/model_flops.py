"""Model FLOP of training, as bench/compare_with_peers.py and bench/cost_growth.py count them."""


def flop_per_token(config, method, context):
    """Of one token that sees `context` tokens on average, for a Llama's config.json and the method "full", "lora:RANK" or another with all weights: products alone, nothing recomputed, no
    gradient of a frozen weight."""
    width, inner, layers, heads = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"))
    head = width // heads
    shapes = 2 * [(width, heads * head)] + 2 * [(width, config["num_key_value_heads"] * head)] + 3 * [(width, inner)]
    linear = layers * sum(into * out for into, out in shapes) + config["vocab_size"] * width
    trained = linear
    kind, _, rank = method.partition(":")
    if kind == "lora":
        trained = layers * int(rank.partition(":")[0]) * sum(into + out for into, out in shapes)
        linear += trained
    return 4 * linear + 2 * trained + 3 * layers * 4 * heads * head * context
