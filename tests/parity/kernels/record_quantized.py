#!/usr/bin/env python3
"""Records what bitsandbytes makes of weights in int8 and nf4, for tests/kernels/quantized_weight_test.cpp.

usage: record_quantized.py OUT_FILE        needs torch, bitsandbytes, safetensors (2.11, 0.50.2 for the committed file); runs on a CPU

Rows are multiples of 64: with others bitsandbytes' dequantize_4bit on the CPU counts blocks from the beginning of each row, unlike its quantize_4bit.
"""
import sys

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

torch.manual_seed(0)
weight = torch.randn(24, 192) * torch.logspace(-3, 1, 24).unsqueeze(1)
weight[3, :64] = 0  # a block of zeros
weight[5, 70] = 40  # an outlier
tensors = {"weight": weight}
for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
    typed = weight.to(dtype)
    codes, state = bnb.quantize_4bit(typed, blocksize=64, quant_type="nf4", compress_statistics=False)
    tensors |= {f"nf4.{name}.codes": codes.view(-1), f"nf4.{name}.absmax": state.absmax, f"nf4.{name}.values": bnb.dequantize_4bit(codes, state)}
    codes, absmax, outliers = bnb.int8_vectorwise_quant(typed.clone())
    assert outliers is None
    tensors |= {f"int8.{name}.codes": codes, f"int8.{name}.absmax": absmax, f"int8.{name}.values": bnb.int8_vectorwise_dequant(codes, absmax).to(dtype)}
tensors["nf4.table"] = state.code
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, sys.argv[1])
