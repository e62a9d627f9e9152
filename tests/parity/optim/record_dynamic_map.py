#!/usr/bin/env python3
"""Records bitsandbytes' dynamic 8-bit maps, for tests/optim/stored_state_test.cpp.

usage: record_dynamic_map.py OUT_FILE        needs torch and bitsandbytes (2.11, 0.50.2 for the committed file)

Only the maps: the codes that bitsandbytes finds on the CPU are not always those of the nearest number (0 becomes 2e-5 of the block's largest).
"""
import json, sys
import bitsandbytes.functional as bnb

with open(sys.argv[1], "w") as file:
    json.dump({name: bnb.create_dynamic_map(signed=name == "signed").tolist() for name in ("signed", "unsigned")}, file, separators=(",", ":"))
