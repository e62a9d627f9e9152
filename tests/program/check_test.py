"""dapt check: what it tells of a model folder, what it plans, and that it refuses what train refuses.

usage: check_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import pathlib
import subprocess
import sys
import unittest

from program_case import ProgramTest, model, program, run, source
from tiny_model import write_model


class Check(ProgramTest):
    def test_check_says_what_is_there_and_plans_from_a_configuration_alone(self):
        result = run("check", model, "--sample", "Hello world", "--sample", "", "--setting", "small = --rank 2", "--max-length", 64)
        self.assertEqual(result.returncode, 0, result.stderr)
        for part in ("134515008 parameters in 30 layers", "tied to the embedding", "tokenizer.json (BPE)", "272 tensors", "all of the model's tensors", '2 tokens: 19556 "Hello" 905 " world"', "  0 tokens:\n", "the token store, 2 bytes a token"):
            self.assertIn(part, result.stdout)
        self.assertNotIn("nan", result.stdout)
        self.assertLess(float(result.stdout.split("perplexity ")[1].split()[0]), 49152)
        self.assertIn("small", result.stdout)

        folder = self.folder / "llama-2-7b"
        folder.mkdir()
        config = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-5}
        (folder / "config.json").write_text(json.dumps(config))
        result = run("check", folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        for part in ("6738415616 parameters", "tokenizer: absent", "weights: absent", "GaLore 512"):
            self.assertIn(part, result.stdout)
        full = next(line for line in result.stdout.splitlines() if line.startswith("full AdamW")).split()
        self.assertEqual(full[2:7], ["6738.4", "12.55", "0.00", "75.31", "25.10"])  # 6,738,415,616 weights: in bf16, of 12 bytes of state, in fp32

        # Each of two devices has half of the layers, and the weight of the embedding or that of the head: (6,738,415,616 - 4,096) / 2 = 3,369,205,760, and the last norm's 4,096 on the second.
        result = run("check", folder, "--devices", 2, "--setting", "all = --adapter full")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [line.split() for line in result.stdout.splitlines() if line.startswith("all, device ")]
        self.assertEqual([row[2:6] for row in rows], [["0", "3369.2", "6.28", "0.00"], ["1", "3369.2", "6.28", "0.00"]])
        self.assertIn("cuda:0: embedding, layers 0 to 15; cuda:1: layers 16 to 31, norm and head", result.stdout)
        self.assertRefused(run("check", folder, "--devices", 2, "--ranks", 2), "each of --ranks 2 processes has one device")

    def test_check_plans_what_train_takes(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        self.assertEqual(self.train(self.folder / "out", "--rank", 2, "--layers-to-transform", 1, "--max-steps", 1, base=base).returncode, 0)
        for options in (("--layers-to-transform", 1), ("--rank-pattern", r"layers\.1\..*=4"), ("--targets-regex", r".*layers\.1\..*q_proj"), ("--modules-to-save", "layers.1.input_layernorm"),
                        ("--init-adapter", self.folder / "out/adapter")):
            with self.subTest(options):
                result = run("check", base, "--adapter", "lora", "--max-length", 64, "--threads", 1, *options)
                self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
                self.assertIn("LoRA ", result.stdout)
        self.assertRefused(run("check", base, "--setting", "a = --adapter full", "--rank", 4), "--rank has no effect outside the settings")
        result = run("check", base, "--setting", "bad = --beta1 1", "--setting", "good = --rank 2", "--max-length", 64, "--threads", 1)
        self.assertRefused(result, "1 problem, named above")
        self.assertIn('refused: setting "bad": AdamW: beta1 is 1', result.stdout)
        self.assertRegex(result.stdout, r"\ngood +0\.0 ")
        with open("/dev/full", "w") as full:
            result = subprocess.run([program, "check", base, "--threads", "1"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertRefused(result, "standard output: could not be written to its end")
        (base / "model.safetensors").unlink()
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"hidden_size": 320, "intermediate_size": 320}))
        result = run("check", base, "--rank", 129, "--init-lora-weights", "pissa", "--max-length", 64, "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
        self.assertRefused(run("launch", "-n", 2, "--", "check", base), "dapt check is the work of one process")

    def test_check_tells_special_tokens_without_an_embedding_from_text_s(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        added = {f"<added {i}>": i for i in range(923, 1025)}  # behind the tokenizer's own
        (base / "added_tokens.json").write_text(json.dumps(added))
        result = run("check", base)
        self.assertRefused(result, "1 problem, named above")
        self.assertIn("the tokenizer has 1025 ids, the model only 1024 embeddings", result.stdout)
        (base / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": list(added)}))
        result = run("check", base)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the tokenizer has 1025 ids, the model only 1024 embeddings; those without are special tokens", result.stdout)

    def test_check_and_train_refuse_the_same_tokens_of_each_document_that_have_no_embedding(self):
        for i, (added, eos, roles, named, border) in enumerate([("<|im_end|>", "<|im_end|>", {}, "between documents", None),
                                                                ("<|endoftext|>", "</s>", {}, "", "[0]"),  # what has no embedding never stood between documents: </s> did
                                                                ("<s>", "</s>", {"bos_token": "<s>", "add_bos_token": True}, "before each document", None),
                                                                ("[PAD]", "</s>", {"pad_token": "[PAD]"}, "", "[0]")]):
            base = self.folder / str(i)
            base.mkdir()
            write_model(base, source, vocabulary=923)
            (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<|endoftext|>", "</s>"))
            token = {"content": added, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "added_tokens_decoder": {"923": token}} | roles))
            result = run("check", base, "--threads", 1, "--max-length", 64, "--rank", 2)
            trained = self.train(self.folder / f"out{i}", "--max-steps", 1, "--rank", 2, base=base)
            if named:
                self.assertRefused(result, "named above")
                self.assertRegex(result.stdout, f"{named} has the id 923, the model embeddings for 0 to 922")
                self.assertRefused(trained, str(base), named, "the id 923 ", "0 to 922")
                self.assertFalse((self.folder / f"out{i}/log.jsonl").exists())
            else:
                self.assertEqual((result.returncode, trained.returncode), (0, 0), result.stdout + result.stderr + trained.stderr)
                self.assertIn(border, trained.stderr.split("first border of documents: ")[1].splitlines()[0])

    def test_check_names_all_that_it_refuses(self):
        folder = self.model_without("config.json")
        config = json.loads((pathlib.Path(model) / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu", "quantization_config": {"bits": 4}, "intermediate_size": 1024, "num_hidden_layers": 29}))
        result = run("check", folder)
        self.assertRefused(result, "problems, named above")
        for part in ('hidden_act is "gelu"', "quantization_config", "model.layers.0.mlp.down_proj.weight", "and 28 like it", 'unexpected tensor "model.layers.29.', "perplexity: not measured", "full AdamW"):
            self.assertIn(part, result.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
