"""The dapt program from the outside: what it writes, what it refuses, and that a run can be repeated and interrupted.

usage: dapt_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import csv
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from tiny_model import write_model

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
model = os.environ.get("DAPT_SMOLLM2") or sys.exit("DAPT_SMOLLM2 is not set; tests/run.sh sets it")
domain = source / "examples" / "debian"


def run(*arguments, folder=None):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=folder)


class Program(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.pages = self.folder / "pages.jsonl"
        texts = [f"Page {i} tells how dpkg unpacks package number {i} and how apt asks for its dependencies. " * 8 for i in range(12)]
        self.write_pages([{"work": "w", "page": i, "text": text, "score": i / 12} for i, text in enumerate(texts)])

    def write_pages(self, pages):
        self.pages.write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")

    def train(self, out, *options, base=model, dtype="fp32"):
        return run("train", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", dtype, "--threads", 1, "--out", out, *options)

    def assertRefused(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def losses(self, out):
        return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]

    def test_train_writes_log_and_peft_adapter_and_repeats_bit_for_bit(self):
        for out in ("a", "b"):
            result = self.train(self.folder / out, "--rank", 4, "--max-steps", 3, "--lr", "1e-3")
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout + result.stderr, r'first border of documents: "[^"]*dependencies. " \[0\] "Page \d+ tells how')
        a, b = self.folder / "a", self.folder / "b"
        self.assertEqual(len(self.losses(a)), 3)
        self.assertEqual(self.losses(a), self.losses(b))
        weights = "adapter/adapter_model.safetensors"
        self.assertEqual((a / weights).read_bytes(), (b / weights).read_bytes())
        config = json.loads((a / "adapter/adapter_config.json").read_text())
        self.assertEqual((config["peft_type"], config["r"]), ("LORA", 4))
        self.assertTrue(list(a.glob("events.out.tfevents.*")))
        record = json.loads((a / "log.jsonl").read_text().splitlines()[0])
        for key in ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "peak_memory_bytes", "phase_seconds"):
            self.assertIn(key, record)

    def test_without_a_number_all_cores_of_the_process_compute_bound_to_them_or_not(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        cores = sorted(os.sched_getaffinity(0))
        for name, mask, environment in (("free", cores, {}), ("bound", cores, {"OMP_PROC_BIND": "true"}), ("one", cores[:1], {})):
            out = self.folder / name
            command = [program, "train", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--max-steps", 1, "--out", out]
            result = subprocess.run([*map(str, command)], capture_output=True, text=True, env={**os.environ, **environment}, preexec_fn=lambda: os.sched_setaffinity(0, mask))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"\nthreads: {len(mask)}\n", result.stderr)

    def test_variants_of_lora_reach_the_adapter(self):
        out = self.folder / "variants"
        options = ("--rank", 4, "--max-steps", 2, "--lr", "1e-3", "--targets-regex", r".*\.[01]\..*(q_proj|down_proj)", "--exclude-modules", "1.self_attn.q_proj",
                   "--rank-pattern", "down_proj=2", "--alpha-pattern", r"layers\.0\..*=8", "--alpha-pattern", "down_proj=6", "--use-rslora", "--use-dora",
                   "--init-lora-weights", "gaussian", "--lora-dropout", 0.25, "--modules-to-save", "model.norm")
        result = self.train(out, *options)
        self.assertEqual(result.returncode, 0, result.stderr)
        config = json.loads((out / "adapter/adapter_config.json").read_text())
        for key, value in {"r": 4, "lora_alpha": 4, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {r"layers\.0\..*": 8, "down_proj": 6}, "use_rslora": True, "use_dora": True,
                           "init_lora_weights": "gaussian", "lora_dropout": 0.25, "modules_to_save": ["model.norm"],
                           "target_modules": [f"model.layers.{layer}" for layer in ("0.self_attn.q_proj", "0.mlp.down_proj", "1.mlp.down_proj")], "exclude_modules": None}.items():
            self.assertEqual(config[key], value, key)
        tensors = self.tensors(out / "adapter/adapter_model.safetensors")
        prefix = "base_model.model.model."
        self.assertEqual(sorted({name.removeprefix(prefix).rsplit(".lora_", 1)[0] for name in tensors}),
                         ["layers.0.mlp.down_proj", "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj", "norm.weight"])
        self.assertEqual([tensors[prefix + name]["shape"][0] for name in ("layers.0.mlp.down_proj.lora_A.weight", "layers.0.self_attn.q_proj.lora_A.weight")], [2, 4])
        self.assertIn(prefix + "layers.0.mlp.down_proj.lora_magnitude_vector", tensors)

    def tensors(self, file):
        data = file.read_bytes()
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        header.pop("__metadata__", None)
        return header

    def test_the_learning_rates_of_b_and_of_saved_modules_are_their_own(self):
        common = ("--rank", 2, "--targets", "q_proj", "--max-steps", 3, "--lr", "1e-3", "--modules-to-save", "model.norm")
        losses = []
        for i, options in enumerate([(), ("--loraplus-lr-ratio", 16), ("--modules-to-save-lr", "1e-1"), ("--init-lora-weights", "pissa_niter_2")]):
            result = self.train(self.folder / str(i), *common, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            losses.append(self.losses(self.folder / str(i)))
        self.assertEqual(len({loss[2] for loss in losses}), 4)  # each has an effect
        for loss in losses:
            self.assertAlmostEqual(loss[0], losses[0][0], places=4)  # and none before the first step

    def test_training_goes_on_from_an_adapter(self):
        first, second, merged = self.folder / "first", self.folder / "second", self.folder / "merged"
        result = self.train(first, "--rank", 4, "--alpha", 6, "--targets", "q_proj,v_proj", "--max-steps", 6, "--lr", "1e-2")
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter = first / "adapter"
        result = self.train(second, "--init-adapter", adapter, "--max-steps", 3, "--lr", "1e-2")
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("merge", "--model", model, "--peft", adapter, "--out", self.folder / "base", "--dtype", "fp32")
        self.assertEqual(result.returncode, 0, result.stderr)
        result = self.train(merged, "--rank", 4, "--max-steps", 1, base=self.folder / "base")
        self.assertEqual(result.returncode, 0, result.stderr)
        losses = self.losses(second)
        self.assertAlmostEqual(losses[0], self.losses(merged)[0], delta=1e-5)  # the first batch, before anything moved
        self.assertLess(losses[0], 0.9 * self.losses(first)[0])
        self.assertLess(losses[2], losses[0])

        result = self.train(self.folder / "third", "--init-adapter", adapter, "--max-steps", 1, "--lora-dropout", 0.1)
        self.assertEqual(result.returncode, 0, result.stderr)
        config = json.loads((self.folder / "third/adapter/adapter_config.json").read_text())
        self.assertEqual((config["r"], config["lora_alpha"], config["lora_dropout"], config["target_modules"]), (4, 6, 0.1, ["q_proj", "v_proj"]))

        config_file = adapter / "adapter_config.json"
        config = json.loads(config_file.read_text())
        for change, message in (({"r": 8}, "has shape [4, 576], expected [8, 576]"),
                                ({"target_modules": ["q_proj"]}, "60 keys are unexpected"),
                                ({"target_modules": ["c_attn"]}, 'target "c_attn" ends the name of none')):
            config_file.write_text(json.dumps(config | change))
            self.assertRefused(self.train(self.folder / "no", "--init-adapter", adapter, "--max-steps", 1), message)

    def test_the_header_says_what_trains_and_at_which_rate_before_it_trains(self):
        result = self.train(self.folder / "galore", "--adapter", "full", "--optimizer", "galore-adamw", "--galore-rank", 4, "--projector", "randomized", "--scale", 0.5,
                            "--lr", "1e-4", "--max-steps", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("effective lr: 5e-05 (210 projected matrices: lr * scale), 0.0001 (62 other parameters)", result.stderr)
        result = self.train(self.folder / "lora", "--rank", 2, "--targets", "q_proj", "--lr", "1e-4", "--loraplus-lr-ratio", 4, "--max-steps", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        header = result.stderr[:result.stderr.index("train (LoRA")]
        for line in ("adapter: LoRA rank 2, alpha 2,", "trainable parameters: 69120", "effective lr: 0.0001 (60 parameters)",
                     "lr factor: 1 (30 parameters, the first model.layers.0.self_attn.q_proj.lora_A.weight)",
                     "lr factor: 4 (30 parameters, the first model.layers.0.self_attn.q_proj.lora_B.weight)"):
            self.assertIn(line, header)

    def test_the_write_of_bf16_weights_is_for_the_modules_that_train_beside_lora(self):
        options = ("--rank", 2, "--targets", "q_proj", "--max-steps", 1, "--weight-write", "stochastic")
        result = self.train(self.folder / "out", *options, "--modules-to-save", "model.norm", dtype="bf16")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("weight write: stochastic rounding", result.stderr)
        self.assertRefused(self.train(self.folder / "no", *options, dtype="bf16"), "--weight-write has no effect without --dtype bf16 and --adapter full or --modules-to-save")

    def test_gradient_sums_in_bf16_are_said_and_need_several_micro_batches(self):
        tiny, options = self.folder / "tiny", ("--adapter", "full", "--max-steps", 2, "--gradient-sums", "bf16")
        tiny.mkdir()
        write_model(tiny, source)
        result = self.train(self.folder / "a", *options, base=tiny, dtype="bf16")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("gradient sums: bf16", result.stderr)
        self.assertRefused(self.train(self.folder / "b", *options, "--micro-batch-size", 2, base=tiny, dtype="bf16"), "--gradient-sums bf16 has no effect without more micro-batches a step than processes; found 1 and 1")

    def test_merge_writes_a_folder_that_scores_as_base_and_adapter(self):
        out = self.folder / "trained"
        result = self.train(out, "--rank", 4, "--max-steps", 6, "--lr", "1e-2")
        self.assertEqual(result.returncode, 0, result.stderr)
        for dtype in ("fp32", "base"):
            result = run("merge", "--model", model, "--peft", out / "adapter", "--out", self.folder / dtype, "--dtype", dtype)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("largest rounding error", result.stderr)
            self.assertIn("float32" if dtype == "fp32" else "bfloat16", result.stderr)
        self.pages.write_text("".join(self.pages.read_text().splitlines(True)[:2]))  # enough to score
        results = self.folder / "results.json"
        result = run("eval", "--dtype", "fp32", "--pages", self.pages, "--max-length", 64, "--model", model, "--peft", out / "adapter", "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        base, adapted = self.perplexities(results)
        result = run("eval", "--dtype", "fp32", "--pages", self.pages, "--max-length", 64, "--model", self.folder / "fp32", "--model", self.folder / "base", "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        merged, rounded = self.perplexities(results)
        self.assertLess(adapted, 0.8 * base)
        self.assertAlmostEqual(merged / adapted, 1, delta=1e-5)
        self.assertAlmostEqual(rounded / adapted, 1, delta=0.02)
        self.assertRefused(run("merge", "--model", model, "--peft", out / "adapter", "--out", model), "is the folder the model was loaded from")
        self.assertRefused(run("merge", "--model", model, "--peft", out / "adapter", "--out", out / "adapter" / "."), "is the adapter's folder; expected another one")
        self.assertRefused(run("merge", "--model", model, "--peft", out, "--out", self.folder / "no"), "adapter_config.json")

    def perplexities(self, results):
        return [entry["perplexity"] for entry in json.loads(results.read_text())]

    def test_a_quantised_base_trains_resumes_evaluates_and_merges_and_says_so(self):
        out = self.folder / "nf4"
        options = ("--quantize", "nf4", "--gradient-checkpointing=mlp", "--rank", 4, "--lr", "1e-3", "--targets", "q_proj,v_proj")
        result = self.train(out, *options, "--max-steps", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("frozen base weights: nf4, one fp32 scale for 64 weights: 4.5 bits a weight; embedding, head and norms are not quantised", result.stderr)
        self.assertIn("gradient checkpointing: mlp", result.stderr)
        self.assertLess(sum(file.stat().st_size for file in (out / "checkpoints").rglob("*") if file.is_file()), 8 << 20)  # nothing of the base
        self.assertRefused(self.train(out, *options[2:], "--max-steps", 2, "--resume"), 'quantize is "none" and was "nf4"')
        result = self.train(out, *options, "--max-steps", 2, "--resume")
        self.assertEqual(result.returncode, 0, result.stderr)
        whole = self.folder / "whole"
        self.train(whole, *options, "--max-steps", 2)
        self.assertEqual(self.losses(out), self.losses(whole))

        result = run("merge", "--model", model, "--peft", out / "adapter", "--out", self.folder / "merged", "--dtype", "fp32")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the base's weights are those of nf4, dequantised", result.stderr)
        values = {}
        self.write_pages([{"work": "w", "page": 0, "text": "The package manager unpacks the archive and then asks for its dependencies."}])
        for name, base in {"adapter": ("--model", model, "--peft", out / "adapter", "--quantize", "nf4"), "merged": ("--model", self.folder / "merged"), "plain": ("--model", model)}.items():
            result = run("eval", *base, "--pages", self.pages, "--max-length", 64, "--dtype", "fp32", "--out", self.folder / f"{name}.json")
            self.assertEqual(result.returncode, 0, result.stderr)
            results = json.loads((self.folder / f"{name}.json").read_text())
            values[name] = (results[-1] if isinstance(results, list) else results)["perplexity"]
        self.assertAlmostEqual(values["adapter"], values["merged"], delta=1e-4 * values["merged"])
        self.assertNotAlmostEqual(values["plain"], values["merged"], delta=1e-2 * values["merged"])
        self.assertRefused(self.train(self.folder / "full", "--adapter", "full", "--quantize", "nf4", "--max-steps", 1), "--quantize nf4 freezes the weights that --adapter full trains")

    def test_full_parameter_training_writes_a_folder_that_eval_opens(self):
        out = self.folder / "full"
        result = self.train(out, "--adapter", "full", "--max-steps", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            self.assertTrue((out / "model" / name).exists(), name)
        results = self.folder / "results.json"
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join((domain / "cloze.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]), encoding="utf-8")
        result = run("eval", "--model", model, "--model", out / "model", "--cloze", cloze, "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([len(entry["cloze"]) for entry in json.loads(results.read_text())], [2, 2])

    def test_eval_asks_in_the_layout_that_is_given_and_says_so(self):
        qa, results = self.folder / "qa.jsonl", self.folder / "results.json"
        qa.write_text((domain / "qa.jsonl").read_text(encoding="utf-8").splitlines(True)[0], encoding="utf-8")
        asked = ("eval", "--model", model, "--qa", qa, "--fewshot", domain / "fewshot.jsonl")
        result = run(*asked, "--exemplar-layout", r"Q: {question}\nA:{answer}\n", "--question-layout", r"Q: {question}\nA:", "--stop", r"\n", "--stop", "。", "--normalisation",
                     "nfkc,strip,remove_japanese_punctuation", "--one-by-one", "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        settings = json.loads(results.read_text())["settings"]["qa_exact"]
        self.assertEqual((settings["prompt"], settings["stop"], settings["normalisation"]),
                         ("Q: {question}\nA:{answer}\nQ: {question}\nA:", '["\\n","。"]', "nfkc,strip,remove_japanese_punctuation"))
        qa.write_text(json.dumps({"id": "1", "question": "Which is the longest?", "answers": ["one that has many more tokens than are generated for it here"]}) + "\n")
        result = run(*asked, "--max-new-tokens", 3, "--out", results)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(results.read_text())["settings"]["qa_exact"]["max_new_tokens"], "3")
        self.assertIn("1 of 1 questions accept only answers longer than 3 tokens", result.stderr)
        self.assertRefused(run(*asked, "--stop", r"\x"), "expected n, t or")
        self.assertRefused(run("eval", "--model", model, "--cloze", domain / "cloze.jsonl", "--stop", "x"), "no effect without --qa")

    def test_texts_and_names_in_brackets_stay_as_they_are(self):
        base, qa, results, config = self.folder / "[a,b]", self.folder / "qa.jsonl", self.folder / "results.json", self.folder / "run.toml"
        base.mkdir()
        write_model(base, source)
        qa.write_text(json.dumps({"id": "q", "question": "Which tool unpacks?", "answers": ["dpkg"]}) + "\n")
        stops, layout = ["[END]", "[a,b]", "[]", "%%", "{}"], "[INST] {question} [/INST]"
        asked = ("eval", "--qa", qa, "--dtype", "fp32", "--threads", 1, "--out", results)
        words = (*asked, "--model", "[a,b]", "--question-layout", layout, "--stop", stops[0], stops[1], *(word for stop in stops[2:] for word in ("--stop", stop)))
        config.write_text(f"[eval]\nmodel = '[a,b]'\nquestion-layout = '{layout}'\nstop = {stops}\n")
        for command in (words, ("launch", "-n", 1, "--", *words), (*asked, "--config", config)):
            with self.subTest(command[0] if command != words else "words"):
                results.unlink(missing_ok=True)
                result = subprocess.run([program, *map(str, command)], capture_output=True, text=True, cwd=self.folder)
                self.assertEqual(result.returncode, 0, result.stderr)
                found = json.loads(results.read_text())
                self.assertEqual((found["model"], found["settings"]["qa_exact"]["prompt"].split("\n")[-1]), ("[a,b]", layout))
                self.assertEqual(json.loads(found["settings"]["qa_exact"]["stop"]), stops)
        for before in (("--config", config, "launch"), ("launch", "--config", config)):
            self.assertRefused(run(*before, "-n", 1, "--", *words), "--config has no effect on launch; give it after --")
        self.assertRefused(run("launch", "-n", 1, "check", base), "launch: found no --")

    def test_what_the_system_refuses_is_said_in_plain_words(self):
        loop = self.folder / "loop"
        loop.symlink_to(loop)
        for options, message in [(("--model", loop), f"dapt: error: {loop}/tokenizer.json: Too many levels of symbolic links\n"), (("--model", "m" * 300), f"dapt: error: {'m' * 300}/tokenizer.json: File name too long\n")]:
            self.assertEqual(run("tokenize", *options, "--pages", self.pages).stderr, message)
        small = ("--rank", 2, "--max-steps", 1)
        result = run("train", "--model", model, "--pages", self.pages, "--max-length", 10**18, "--dtype", "fp32", "--out", self.folder / "out", *small)
        self.assertIn("\ndapt: error: out of memory: more memory could not be had; --micro-batch-size, --max-length,", result.stderr)
        for options, message in [(("--rank", 2**40), f"--rank: found {2**40}, expected at most 1048576"), (("--seed", -1), "--seed: found -1, expected a whole number from 0 to 2^64 - 1"),
                                 (("--seed", 2**64), f"--seed: found {2**64}, expected"), (("--max-tokens", 2**63), f"--max-tokens: found {2**63}, expected a whole number from 0 to 2^63 - 1"),
                                 (("--max-tokens", "0100"), "--max-tokens: found 0100, expected a whole number from 0 to 2^63 - 1, without a 0 before it"),
                                 (("--batch-size", 0), "--batch-size: found 0, expected a whole number from 1 to 2^63 - 1"),
                                 (("--rank-timeout", 1e10), "--rank-timeout: found 10000000000.0, expected at most 1000000"), (("--rank-timeout", "nan"), "--rank-timeout: found nan, expected a number above 0"),
                                 (("--modules-to-save", "\udce9"), "--modules-to-save: found \\xE9, expected UTF-8"), (("--start-token", "x\udce9"), "--start-token: found x\\xE9, expected UTF-8")]:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *small, *options), message)
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--packed", "--seed", -1), "--seed: found -1, expected a whole number from 0 to 2^64 - 1")
        self.assertRefused(run("filter", "--pages", self.folder / "none"), f"cannot read pages from {self.folder}/none: no such file or folder")

    def test_memory_that_is_refused_ends_a_run_with_a_checkpoint_and_an_evaluation_with_the_results_before_it(self):
        small, out, results = self.folder / "small", self.folder / "out", self.folder / "results.json"
        small.mkdir()
        write_model(small, source)

        def within(mib, *words):
            limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))
            return subprocess.run([program, *map(str, words), "--threads", "1"], capture_output=True, text=True, preexec_fn=limit)

        self.write_pages([{"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * 20} for i in range(800)])  # 128 x 1,024 tokens take 2 GB
        training = ("train", "--model", small, "--pages", self.pages, "--duplicates", "off", "--max-length", 1024, "--dtype", "fp32", "--rank", 2, "--max-steps", 1, "--out", out)
        result = within(1200, *training, "--batch-size", 128, "--micro-batch-size", 128)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"\ndapt: error: Trainer: out of memory in the (forward|backward) pass of micro-batch 1 of 1 \(128 x 1024 tokens\) at step 1: \d+ MiB more could not be had, the peak was \d+ MiB\."
                                        r".*the weights are those before the step; --micro-batch-size, --max-length, .* lower what a run needs")
        self.write_pages([{"work": "w", "page": 0, "text": "Page 0 tells how dpkg unpacks. " * 8}])
        result = within(1075, "eval", "--model", small, "--model", model, "--pages", self.pages, "--dtype", "fp32", "--max-length", 64, "--out", results)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, rf"dapt: error: out of memory: \d+ MiB more could not be had; .*; 1 of 2 models and adapters were scored before; their results are in {results}\n$")
        self.assertEqual([entry["model"] for entry in json.loads(results.read_text())], [str(small)])

    def test_no_output_takes_the_place_of_an_input_or_is_read_as_pages(self):
        other, folder, terms = self.folder / "other.jsonl", self.folder / "pages", self.folder / "terms"
        other.write_text('{"id": "1", "question": "Which program unpacks?", "answers": ["dpkg"]}\n')
        terms.write_text("dpkg\n")
        (folder / "deep").mkdir(parents=True)
        (folder / "page").write_text("A page.")
        (self.folder / "link").symlink_to(self.pages)
        found, tokenized = ("filter", "--pages", self.pages), ("tokenize", "--model", model)
        scored = (*found, "--scorer", "terms", "--terms", terms, "--min-score", 0)
        small = ("--model", model, "--max-steps", 1, "--out", self.folder / "out")
        refused = {"--findings and --pages are one file": (*found, "--findings", self.folder / "link"), "--out and --qa are one file": (*found, "--qa", other, "--out", other),
                   "--write-scores and --terms are one file": (*scored, "--write-scores", terms), "--out and --pages are one file": (*tokenized, "--pages", self.pages, "--out", self.pages),
                   "--out and --cloze are one file": ("eval", "--model", model, "--cloze", other, "--out", other), "--write-scores and --pages are one file": ("train", *small, "--pages", self.pages, "--write-scores", self.pages)}
        for option, command in {"--out": ("filter", "--out", folder / "deep/kept.jsonl"), "--findings": ("train", *small, "--findings", folder / "found"), "--store": (*tokenized, "--store", folder / "store"),
                                "--out:": ("compare", *small[:-1], folder / "run")}.items():
            refused[f"{option.rstrip(':')}: {command[-1]} is in the folder of --pages, {folder}, and would be read as pages"] = (*command, "--pages", folder)
        refused[f"--out: {self.folder / 'kept.jsonl.gz'} has the name of a compressed file, and is written as it is; leave out .gz"] = (*found, "--out", self.folder / "kept.jsonl.gz")
        before = {file: file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}
        for message, command in refused.items():
            with self.subTest(message):
                self.assertRefused(run(*command), message)
        self.assertEqual({file: file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}, before)
        self.assertEqual(run("filter", "--pages", folder, "--out", folder / ".kept", "--findings", self.folder / "pages-found").returncode, 0)  # no page: hidden, and beside
        for pages, out in (("pages", "kept"), (folder, "kept-too"), ("pages", self.folder / "pages.kept")):  # the same by names from here
            self.assertEqual(run("filter", "--pages", pages, "--out", out, folder=self.folder).returncode, 0)
        self.assertRefused(run("filter", "--pages", folder, "--out", "pages/kept", folder=self.folder), "--out: pages/kept is in the folder of --pages")
        # A link to a file on another disk stays one; the pages themselves may be replaced.
        link, disk = self.folder / "scores", self.folder / "disk"
        link.symlink_to(disk)
        self.assertEqual(run(*scored, "--write-scores", link, "--out", self.pages).returncode, 0)
        self.assertEqual((link.is_symlink(), len(disk.read_text().splitlines()), len(self.pages.read_text().splitlines())), (True, 13, 12))

    def test_ctrl_c_saves_what_was_reached(self):
        out = self.folder / "stopped"
        command = [program, "train", "--model", model, "--pages", self.pages, "--max-length", "64", "--batch-size", "2", "--max-steps", "100000", "--out", out]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        for _ in range(1200):
            if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size > 0:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, messages)
        self.assertIn("stop requested", messages)
        self.assertTrue((out / "adapter/adapter_model.safetensors").exists())

    def test_a_run_that_was_stopped_goes_on_and_is_the_one_that_was_not(self):
        steps = 7
        options = ["--rank", 4, "--lr", "1e-3", "--max-steps", steps, "--checkpoint-steps", 1]
        whole = self.folder / "whole"
        self.assertEqual(self.train(whole, *options).returncode, 0)
        facts = lambda out: [{key: line[key] for key in ("step", "tokens", "loss", "lr", "grad_norm", "fraction")} for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())]
        out = self.folder / "stopped"
        command = ["train", "--model", model, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--out", out, *options]
        process = subprocess.Popen([program, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = out / "log.jsonl"
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait()
        self.assertLess(len(facts(out)), steps, "the run ended before the signal came")
        self.assertRefused(self.train(out, *options), "holds checkpoints of an earlier run", "--resume")
        self.assertRefused(self.train(out, *options, "--resume", "--seed", 9), "seed is", "9", "--allow-changes")
        self.assertRefused(self.train(out, *options, "--resume", "--weight-decay", "0.1"), "the checkpoint is of another setting: optimizer is")
        result = self.train(out, *options, "--resume")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("resumed from: ", result.stderr)
        self.assertEqual(facts(out), facts(whole))
        weights = "adapter/adapter_model.safetensors"
        self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())
        newest = sorted((out / "checkpoints").glob("step-*"))[-1]
        self.assertEqual(newest.name, f"step-{steps:09}")
        state = newest / "state.safetensors"
        whole_state = state.read_bytes()
        state.write_bytes(whole_state[:-1])  # the newest is damaged: the one before it is taken, that is said, and the damaged one is replaced
        result = self.train(out, *options, "--resume")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("checkpoint left out: ", result.stderr)
        self.assertEqual(state.read_bytes(), whole_state)
        self.assertEqual((out / weights).read_bytes(), (whole / weights).read_bytes())

    def test_filter_keeps_by_score_and_says_what(self):
        kept = self.folder / "kept.jsonl"
        result = run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0.5, "--model", model, "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["page"] for line in kept.read_text().splitlines()], [6, 7, 8, 9, 10, 11])
        self.assertIn("kept    6 pages", result.stderr)

    def test_filter_reports_and_drops_copies_and_pages_that_hold_evaluation_items(self):
        text = " ".join(f"word{i}" for i in range(60))
        texts = [text, "Another page.", text.upper() + "\n", text.replace("word30", "other"), "An exercise: WHAT is the name of the low-level package tool of Debian?"]
        (self.folder / "corpus").mkdir()
        self.pages = self.folder / "corpus" / "1.jsonl"
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts[:2])])
        self.pages = self.folder / "corpus" / "2.jsonl"
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts) if i >= 2])
        qa = self.folder / "qa.jsonl"
        qa.write_text('{"id": "q7", "question": "What is the name of the low-level package tool of Debian?", "answers": ["dpkg"]}\n')
        findings, out = self.folder / "findings.jsonl", self.folder / "out.jsonl"

        def filtered(*options):
            result = run("filter", "--pages", self.folder / "corpus", "--qa", qa, "--out", out, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            return [json.loads(line)["page"] for line in out.read_text().splitlines()], result.stderr

        kept, messages = filtered("--findings", findings)
        self.assertEqual(kept, [0, 1, 2, 3, 4])
        self.assertIn("duplicates: 2 of 5 pages are copies of earlier ones (1 exact, 1 near), kept", messages)
        self.assertIn("contamination: 1 of 1 evaluation items stand in 1 pages, kept", messages)
        self.assertIn("2.jsonl:1 (w, page 2) is a copy of", messages)
        found = [json.loads(line) for line in findings.read_text().splitlines()]
        self.assertEqual([(line["found"], line["page"], line["source"].rsplit("/", 1)[1]) for line in found],
                         [("copy", 2, "2.jsonl:1"), ("copy", 3, "2.jsonl:2"), ("evaluation item", 4, "2.jsonl:3")])
        self.assertEqual([line["of"]["source"].rsplit("/", 1)[1] for line in found[:2]], ["1.jsonl:1", "1.jsonl:1"])
        self.assertAlmostEqual(found[1]["jaccard"], 51 / 61)
        self.assertEqual((found[2]["item"], found[2]["share"]), ("qa.jsonl q7", 1))
        self.assertEqual(filtered("--duplicates", "drop")[0], [0, 1, 4])
        self.assertEqual(filtered("--contamination", "drop")[0], [0, 1, 2, 3])
        messages = filtered("--duplicates", "off", "--contamination", "off")[1]
        self.assertNotIn("duplicates:", messages)
        self.assertNotIn("contamination:", messages)

    def test_filter_is_fitted_to_a_part_of_a_large_corpus_and_scores_all_of_it(self):
        words = ["dpkg unpacks the archive and apt asks for what it depends on".split(), "the cook peels an onion and lets it fry in a pan of butter".split()]
        texts = [" ".join(words[i % 2][i * k % 12] for k in range(1, 200)) + f" {i}" for i in range(2400)]
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        terms, kept = self.folder / "terms.txt", self.folder / "kept.jsonl"
        terms.write_text("dpkg\n")
        result = run("filter", "--pages", self.pages, "--scorer", "ngram", "--terms", terms, "--fit-mib", 1, "--duplicates", "off", "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        fitted = int(re.search(r"fitted to (\d+) of 2400 pages", result.stderr)[1])
        self.assertLessEqual(fitted * min(map(len, texts)), 2**20)
        self.assertGreater((fitted + 1) * max(map(len, texts)), 2**20)
        self.assertEqual({json.loads(line)["page"] % 2 for line in kept.read_text().splitlines()}, {0})

    def test_scores_are_looked_at_written_once_and_used_again(self):
        scores, kept = self.folder / "scores.jsonl", self.folder / "kept.jsonl"
        result = run("filter", "--pages", self.pages, "--scorer", "field", "--write-scores", scores)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("scores of 12 pages, from 0 to 0.9166666666666666;", result.stderr)
        self.assertIn("duplicates: none of 12 pages is a copy of an earlier one", result.stderr)
        self.assertIn("no threshold is set", result.stderr)
        scores.unlink()
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 2, "--write-scores", scores), "none of 12 pages")  # and writes them
        self.write_pages([{key: value for key, value in json.loads(line).items() if key != "score"} for line in self.pages.read_text().splitlines()])
        result = run("filter", "--pages", self.pages, "--scores", scores, "--min-score", 0.5, "--show", 1, "--out", kept)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["score"] for line in kept.read_text().splitlines()], [i / 12 for i in range(6, 12)])
        lowest, highest = result.stderr.index("the lowest pages that are kept\n  0.5  w page 6"), result.stderr.index("the highest pages that are dropped\n  0.4166666666666667  w page 5")
        self.assertLess(lowest, highest)
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--out", kept), "--scores needs --min-score")
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--scorer", "field"), "two sources")
        self.write_pages([{"work": "w", "page": 1, "text": "another"}])
        kept.unlink()
        self.assertRefused(run("filter", "--pages", self.pages, "--scores", scores, "--min-score", 0.5, "--out", kept), "no score of work \"w\", page 1", "pages.jsonl:1")
        self.assertEqual(sorted(file.name for file in self.folder.iterdir()), ["pages.jsonl", "scores.jsonl"])

    def test_scores_of_one_fit_do_not_go_on_with_those_of_another(self):
        texts = [f"Page {i} tells how {'dpkg unpacks' if i % 2 else 'an onion fries in'} {i * i} {'packages' if i % 3 else 'pans'}." for i in range(600)]
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        terms, scores = self.folder / "terms.txt", self.folder / "scores.jsonl"
        terms.write_text("dpkg\n")
        filtering = ("filter", "--pages", self.pages, "--scorer", "ngram", "--terms", terms, "--write-scores", scores)
        self.assertEqual(run(*filtering).returncode, 0)
        whole = scores.read_text()
        scores.unlink()
        partial = self.folder / ".scores.jsonl.partial"
        partial.write_text("".join(whole.splitlines(True)[:300]))  # as a run that was stopped leaves it
        self.write_pages([{"work": "w", "page": i, "text": text if i < 599 else "dpkg and an onion in a pan"} for i, text in enumerate(texts)])
        self.assertRefused(run(*filtering), "holds scores of another run")
        self.write_pages([{"work": "w", "page": i, "text": text} for i, text in enumerate(texts)])
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the scores of 256 pages are those of a run that was stopped", result.stderr)
        self.assertEqual(scores.read_text(), whole)

    def test_scores_of_the_field_are_written_anew(self):
        def pages(factor):
            self.write_pages([{"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks {i * i}.", "score": factor * i} for i in range(300)])

        scores = self.folder / "scores.jsonl"
        filtering = ("filter", "--pages", self.pages, "--scorer", "field", "--duplicates", "off", "--write-scores", scores)
        pages(1)
        self.assertEqual(run(*filtering).returncode, 0)
        scores.rename(self.folder / ".scores.jsonl.partial")  # as a run that was stopped leaves it
        pages(2)
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([json.loads(line)["score"] for line in scores.read_text().splitlines()[1:]], [2 * i for i in range(300)])

    def test_two_models_with_other_tokenizers_do_not_score_together(self):
        general, domain = self.folder / "general", self.folder / "domain"
        for folder in (general, domain):
            folder.mkdir()
            write_model(folder, source)
        tokenizer = json.loads((domain / "tokenizer.json").read_text())
        filtering = ("filter", "--pages", self.pages, "--duplicates", "off", "--scorer", "lm", "--domain-model", domain, "--general-model", general)
        (domain / "tokenizer.json").write_text(json.dumps(tokenizer))  # other bytes, the same ids
        result = run(*filtering)
        self.assertEqual(result.returncode, 0, result.stderr)
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (domain / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.assertRefused(run(*filtering), f"the tokenizers of {domain} and {general} differ: other ids for ")
        (domain / "tokenizer.json").write_bytes((general / "tokenizer.json").read_bytes())
        (domain / "tokenizer_config.json").write_text('{"bos_token": "<|padding|>", "add_bos_token": true}')
        self.assertRefused(run(*filtering), "differ: texts begin with another token")

    def test_filter_judges_its_options_and_a_signal_before_it_searches_for_copies(self):
        with self.pages.open("a") as pages:
            pages.write("no page\n")  # which the search comes to first
        terms = self.folder / "terms"
        terms.write_text("dpkg\n")
        scored = ("filter", "--pages", self.pages, "--out", self.folder / "kept.jsonl")
        for options, message in [(("--scorer", "field"), "--scorer field needs --min-score"), (("--scores", terms), "terms:1: no valid JSON"), (("--scorer", "terms", "--terms", self.folder / "none"), "cannot read "),
                                 (("--scorer", "field", "--min-score", 0, "--labels", terms), "terms:1: "), (("--terms", terms), "--terms has no effect"),
                                 (("--show", 3), "--show has no effect with --scorer none"), ((), "pages.jsonl:13: ")]:
            with self.subTest(message):
                self.assertRefused(run(*scored, *options), message)
        labels = self.folder / "labels"
        os.mkfifo(labels)
        process = subprocess.Popen(list(map(str, [program, *scored, "--scorer", "field", "--min-score", 0, "--labels", labels])), stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        with labels.open("w") as writer:  # opened when the program reads
            process.send_signal(signal.SIGTERM)
            writer.write('{"work": "w", "page": 1, "domain": true}\n')
        self.assertIn("stopped before the last page; nothing was written", process.communicate(timeout=60)[1])
        self.assertEqual(process.returncode, 1)

    def test_tokenize_packed_stops_while_it_reads(self):
        pages = self.folder / "pipe"
        os.mkfifo(pages)
        process = subprocess.Popen([program, "tokenize", "--packed", "--model", model, "--pages", pages], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        with pages.open("w") as writer:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            writer.write(self.pages.read_text() + "no page\n")  # which it would come to
        self.assertIn("stopped before the last page", process.communicate(timeout=60)[1])

    def test_evaluation_files_of_any_name_and_items_without_words_are_taken(self):
        qa, findings = os.fsencode(self.folder / "q") + b"\xE9.jsonl", self.folder / "findings.jsonl"
        with open(qa, "w") as file:
            file.write('{"id": "1", "question": "!?", "answers": ["x"]}\n{"id": "2", "question": "Page 3 tells how dpkg unpacks package number 3", "answers": ["x"]}\n')
        result = subprocess.run([program, "filter", "--pages", self.pages, "--qa", qa, "--findings", findings], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("contamination: 1 of 1 evaluation items stand in 1 pages", result.stderr)
        self.assertIn("1 evaluation items without a letter or digit cannot be searched for", result.stderr)
        self.assertEqual(json.loads(findings.read_text())["item"], "q\\xE9.jsonl 2")

    def test_pages_of_a_pipe_are_read_once_and_refused_where_they_are_needed_twice(self):
        terms, kept = self.folder / "terms.txt", self.folder / "kept.jsonl"
        terms.write_text("dpkg\n")

        def filtered(*options):
            command = [program, "filter", "--pages", "/dev/stdin", "--out", kept, *options]
            return subprocess.run(list(map(str, command)), input=self.pages.read_text(), capture_output=True, text=True)

        self.assertRefused(filtered(), "/dev/stdin more than once, as the search for copies needs", "write them to a file or leave the search out (dapt --duplicates off)")
        self.assertRefused(filtered("--duplicates", "off", "--scorer", "ngram", "--terms", terms), "/dev/stdin more than once, as --scorer ngram needs", "write them to a file")
        self.assertEqual(filtered("--duplicates", "off", "--scorer", "field", "--min-score", 0.5).returncode, 0)
        self.assertEqual(len(kept.read_text().splitlines()), 6)

    def test_eval_tells_what_a_tokenizer_that_normalises_never_spells(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "NFKC"}}))
        qa, cloze = self.folder / "qa.jsonl", self.folder / "cloze.jsonl"
        qa.write_text("".join(json.dumps({"id": answer, "question": "Q?", "answers": [answer]}) + "\n" for answer in ("ｄｎａ", "dna")))
        cloze.write_text(json.dumps({"id": "c", "sentence": "It is {word}.", "answer": "ｄｎａ", "candidates": ["ｄｎａ", "dna", "rna"]}) + "\n")
        for options, told in (((), True), (("--normalisation", "strip,casefold,nfkc"), False)):
            result = run("eval", "--model", base, "--dtype", "fp32", "--threads", 1, "--qa", qa, "--cloze", cloze, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual("1 of 2 questions accept only answers that this tokenizer does not spell" in result.stderr, told)
            self.assertIn("1 of 1 sentences have candidates that are the same tokens to this tokenizer", result.stderr)

    def test_eval_shows_the_best_first_and_makes_the_folder_of_its_results(self):
        models = [self.folder / f"model-{seed}" for seed in (1, 2, 3)]
        for seed, folder in enumerate(models):
            folder.mkdir()
            write_model(folder, source, seed=seed + 1)

        def scored(*tasks, order=models):
            result = run("eval", *(f"--model={folder}" for folder in order), "--dtype", "fp32", *tasks)
            self.assertEqual(result.returncode, 0, result.stderr)
            return [list(map(float, line.split()[1:])) for line in result.stdout.splitlines()[1:]]

        perplexities, ranks = scored("--pages", self.pages), scored("--cloze", domain / "cloze.jsonl")
        self.assertEqual(len({row[0] for row in perplexities + ranks}), 6)  # no two alike
        self.assertEqual(perplexities, sorted(perplexities))
        self.assertEqual(perplexities, scored("--pages", self.pages, order=models[::-1]))
        self.assertEqual(ranks, sorted(ranks, reverse=True))
        self.assertEqual(ranks, scored("--cloze", domain / "cloze.jsonl", order=models[::-1]))

        # Models that were scored before one that cannot be are shown and written; one that is not there is told before any is scored.
        results = self.folder / "results.json"
        misshapen = self.folder / "misshapen"
        misshapen.mkdir()
        write_model(misshapen, source)
        config = json.loads((misshapen / "config.json").read_text())
        (misshapen / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
        scoring = ("eval", "--dtype", "fp32", "--pages", self.pages, "--model", models[0])
        result = run(*scoring, "--model", misshapen, "--out", results)
        self.assertRefused(result, "mlp.gate_proj.weight", "1 of 2 models and adapters were scored before; their results are in ")
        self.assertIn(str(models[0]), result.stdout)
        written = json.loads(results.read_text())
        self.assertEqual([(entry["model"], entry["dtype"], entry["quantize"]) for entry in written], [(str(models[0]), "fp32", "none")])
        for option, value in {"--model": self.folder / "nowhere", "--peft": self.folder / "nowhere", "--out": self.folder}.items():
            result = run(*scoring, option, value)
            self.assertNotEqual(result.returncode, 0)
            self.assertEqual(result.stdout, "")
            self.assertNotIn("perplexity", result.stderr)

        self.assertEqual(self.train(self.folder / "trained", "--max-steps", 1, "--rank", 2, base=models[0]).returncode, 0)
        fits, misfit = self.folder / "trained/adapter", self.folder / "misfit"
        shutil.copytree(fits, misfit)
        (misfit / "adapter_config.json").write_text((fits / "adapter_config.json").read_text().replace('"r": 2', '"r": 3'))
        result = run(*scoring, "--peft", fits, "--peft", misfit)
        self.assertRefused(result, f"{misfit}/adapter_model.safetensors", "expected [3, ")
        self.assertNotIn("were scored before", result.stderr)
        self.assertEqual(result.stdout, "")

        cloze = ("eval", "--model", models[0], "--cloze", domain / "cloze.jsonl")
        self.assertEqual(run(*cloze, "--out", self.folder / "new/folder/results.json").returncode, 0)
        self.assertTrue((self.folder / "new/folder/results.json").exists())
        self.assertRefused(run(*cloze, "--out", self.pages / "results.json"), "pages.jsonl: cannot make the folder")
        self.assertRefused(run(*cloze, "--max-length", 512), "--max-length has no effect without --pages")
        self.assertRefused(run("eval", "--model", models[0], "--qa", domain / "qa.jsonl", "--start-token", "a"), "--start-token has no effect without --cloze or pages for the perplexity")

    def test_eval_writes_its_results_though_nobody_reads_the_table(self):
        base, results = self.folder / "base", self.folder / "results.json"
        base.mkdir()
        write_model(base, source)
        command = [program, "eval", "--model", base, "--pages", self.pages, "--dtype", "fp32", "--out", results]
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            self.assertNotEqual(subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE).returncode, 0)
        self.assertEqual(json.loads(results.read_text())["model"], str(base))
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertRefused(result, f"dapt: error: standard output: could not be written to its end; their results are in {results}\n")

    def test_questions_of_a_pipe_are_scored_and_refused_where_they_are_needed_twice(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        def run_with(*command):
            return subprocess.run([program, *map(str, command), "--model", base, "--qa", "/dev/stdin", "--dtype", "fp32"], input='{"id": "1", "question": "Which program unpacks?", "answers": ["dpkg"]}\n', capture_output=True, text=True)
        result = run_with("compare", "--pages", self.pages, "--max-steps", 1, "--out", self.folder / "out")
        self.assertRefused(result, "--qa: /dev/stdin is no file or folder, and it is read twice: to be searched for in the pages, and to score by; write it to a file")
        self.assertFalse((self.folder / "out").exists())
        self.assertEqual(run_with("eval").returncode, 0)

    def test_a_question_and_a_sentence_of_one_id_have_their_own_groups_in_the_report(self):
        base, qa, cloze, out = (self.folder / name for name in ("base", "qa.jsonl", "cloze.jsonl", "out"))
        base.mkdir()
        write_model(base, source)
        qa.write_text('{"id": "a", "question": "Which program unpacks?", "answers": ["dpkg"], "group": "easy"}\n{"id": "b", "question": "Which asks?", "answers": ["apt"]}\n')
        cloze.write_text('{"id": "a", "sentence": "{word} unpacks.", "answer": "dpkg", "candidates": ["dpkg", "apt"], "group": "hard"}\n')
        result = run("compare", "--model", base, "--pages", self.pages, "--qa", qa, "--cloze", cloze, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--max-steps", 1,
                     "--held-out", 0.1, "--out", out, "--setting", "small = --adapter lora --rank 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(out / "questions.csv", newline="") as file:
            rows = {(row["metric"], row["id"]): row["group"] for row in csv.DictReader(file) if row["setting"] == "small"}
        self.assertEqual(rows, {("qa_exact", "a"): "easy", ("qa_exact", "b"): "", ("logp_mrr", "a"): "hard"})

    def test_evaluations_while_training_begin_with_the_token_that_the_report_s_begin_with(self):
        base, out = self.folder / "base", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        common = ("--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--held-out", 0.3, "--lr", "1e-2", "--max-steps", 4)
        result = run("compare", *common, "--start-token", "Ġthe", "--eval-steps", 4, "--out", out, "--setting", "高ランク = --rank 8", "--setting", "低ランク = --rank 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        for setting in ("高ランク", "低ランク"):
            (last,) = map(json.loads, (out / setting / "evaluations.jsonl").read_text().splitlines())
            (metric,) = json.loads((out / setting / "result.json").read_text())["metrics"]
            self.assertEqual(last["perplexity"], metric["value"], setting)
        (base / "tokenizer_config.json").write_text("{}")
        (base / "tokenizer.json").write_text((base / "tokenizer.json").read_text().replace("<|endoftext|>", "<unused>"))
        self.assertRefused(run("train", *common, "--no-eos", "--eval-steps", 4, "--out", self.folder / "no"), "start token: the tokenizer adds no BOS and has no end-of-document token")
        self.assertFalse((self.folder / "no/log.jsonl").exists())
        self.assertEqual(run("train", *common, "--no-eos", "--eval-steps", 4, "--start-token", "Ġthe", "--out", self.folder / "yes").returncode, 0)

    def test_filter_scores_the_lines_of_a_page_by_a_classifier(self):
        recorded, classifier, kept = source / "tests/parity", self.folder / "classifier", self.folder / "kept.jsonl"
        classifier.mkdir()
        for name, file in [("config.json", "encoders/bert/config.json"), ("model.safetensors", "encoders/bert/model.safetensors"), ("tokenizer.json", "text/bert.tokenizer.json")]:
            (classifier / name).symlink_to(recorded / file)
        expected = json.loads((recorded / "encoders/bert/expected.json").read_text())
        good = [logits[2] for logits in expected["logits"]]
        lines = [[3], [4, 5], list(range(1, len(good)))]  # of each page
        self.write_pages([{"work": "w", "page": i, "text": "\n".join(expected["lines"][line] for line in page)} for i, page in enumerate(lines)])
        filtered = ("filter", "--pages", self.pages, "--scorer", "classifier", "--min-score", -100, "--out", kept)
        for rule, of_page in [("mean", lambda scores: sum(scores) / len(scores)), ("max", max)]:
            result = run(*filtered, "--classifier", classifier, "--classifier-label", "good", "--line-rule", rule)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(f"label good, {rule} of the lines", result.stderr)
            found = [json.loads(line)["score"] for line in kept.read_text().splitlines()]
            self.assertEqual(len(found), len(lines))
            for score, page in zip(found, lines):
                self.assertAlmostEqual(score, of_page([good[line] for line in page]), delta=1e-5)
        self.assertRefused(run(*filtered), "needs --classifier")
        self.assertRefused(run(*filtered, "--classifier", classifier), "has 3 labels: poor, fair, good")
        self.assertRefused(run(*filtered, "--classifier", classifier, "--classifier-label", "bad"), "no label")
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0, "--line-rule", "max"), "--line-rule has no effect with --scorer field")

    def test_tokenize_gives_the_ids_of_each_page(self):
        self.write_pages([{"work": "w", "page": 1, "text": "Hello world"}])
        result = run("tokenize", "--model", model, "--pages", self.pages)
        self.assertEqual(json.loads(result.stdout), {"work": "w", "page": 1, "ids": [19556, 905]})  # of HF tokenizers 0.23, encode("Hello world")

    def test_tokenize_packed_gives_the_sequences_that_training_reads(self):
        self.write_pages([{"work": "w", "page": 1, "text": "Hello world"}])
        result = run("tokenize", "--model", model, "--pages", self.pages, "--packed", "--max-length", 5)
        found = json.loads(result.stdout)
        # the page's two ids and the end-of-document token, 0; each label is the id that follows
        self.assertEqual((found["ids"][:3], found["labels"]), ([19556, 905, 0], [905, 0, -100, -100, -100]))
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--max-length", 5), "--packed")

    def test_toml_file_holds_options_and_flags_win(self):
        config = self.folder / "run.toml"
        config.write_text('[train]\nrank = 2\nmax-steps = 1\nlr = 1e-3\ntargets = [\n  "q_proj",\n  "v_proj",\n]\n')
        out = self.folder / "toml"
        result = self.train(out, "--config", config, "--rank", 3)
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter = json.loads((out / "adapter/adapter_config.json").read_text())
        self.assertEqual((adapter["r"], sorted(adapter["target_modules"])), (3, ["q_proj", "v_proj"]))
        self.assertEqual(json.loads((out / "log.jsonl").read_text())["lr"], 1e-3)

    def test_false_flags_and_empty_arrays_of_a_toml_file_are_as_not_given(self):
        config, base = self.folder / "run.toml", self.folder / "base"
        base.mkdir()
        write_model(base, source)
        config.write_text("[train]\nmax-steps = 1\nkeep-best = false\ntargets = []\nuse-dora = false\neos = false\n")
        for adapter in ("lora", "full"):  # with full neither DoRA nor targets have an effect
            result = self.train(self.folder / adapter, "--config", config, "--adapter", adapter, base=base)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("documents joined, between them: none\n", result.stderr)  # --no-eos: a flag that is on by default

    def test_a_broken_toml_file_is_refused_with_its_line(self):
        config = self.folder / "run.toml"
        config.write_text("[train]\nrank = 2\nlr = \n")
        self.assertRefused(self.train(self.folder / "out", "--config", config, "--max-steps", 1), "line 3")
        for text, message in [("[train]\nrank = 2\nlearning-rate = 1\n", 'line 3 of the TOML file: found [train] "learning-rate", which is no option there'),
                              ("[trian]\nrank = 2\n", "line 2 of the TOML file: found [trian], which is no command"),
                              ("rank = 2\n[train]\nlr = 1e-3\n", 'line 1 of the TOML file: found above all sections "rank", which is no option there')]:
            with self.subTest(message):
                config.write_text(text)
                self.assertRefused(self.train(self.folder / "out", "--config", config, "--max-steps", 1), message)
        config.write_text("[train]\nrank = 2\n[compare]\nlr = 1e-3\n")  # of another command: known, and not asked for
        self.assertEqual(self.train(self.folder / "out", "--config", config, "--max-steps", 1).returncode, 0)

    def test_compare_writes_the_report_also_for_a_setting_that_names_its_own_options(self):
        cloze = self.folder / "cloze.jsonl"
        cloze.write_text("".join((domain / "cloze.jsonl").read_text(encoding="utf-8").splitlines(True)[:2]), encoding="utf-8")
        out = self.folder / "compared"
        result = run("compare", "--model", model, "--pages", self.pages, "--cloze", cloze, "--max-length", 64, "--batch-size", 1, "--max-steps", 1, "--out", out,
                     "--setting", "small = --rank 2 --lr 1e-3", "--setting", "GaLore = --adapter full --optimizer galore-adamw --galore-rank 4 --projector randomized",
                     "--setting", "Lion = --adapter full --optimizer lion --state-dtype 8bit --weight-write kahan --lr 1e-5",
                     "--setting", "APOLLO = --adapter full --optimizer apollo-mini", "--setting", "Adafactor = --rank 2 --optimizer adafactor")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("report.html", "report.md", "settings.csv", "steps.csv", "questions.csv"):
            self.assertTrue((out / name).exists(), name)
        self.assertIn("GaLore", (out / "report.md").read_text())

    def test_bad_input_is_refused_with_its_place(self):
        cases = [
            ('{"work": "w", "page": 1, "text": 5}\n', "pages.jsonl:1"),
            ('{"work": "w", "page": 1, "text": "good"}\nno json\n', "pages.jsonl:2"),
            ('{"work": "w", "page": 1, "text": "   "}\n', "no page with text"),
        ]
        for content, message in cases:
            with self.subTest(message):
                self.pages.write_text(content)
                self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), message)
        self.pages.write_bytes(b'{"work": "w", "page": 1, "text": "\xff"}\n')
        self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), "pages.jsonl:1")
        self.pages.unlink()
        self.assertRefused(self.train(self.folder / "out", "--max-steps", 1), str(self.pages))

    def test_bad_input_is_skipped_or_mended_with_counts(self):
        out = self.folder / "out.jsonl"
        self.pages.write_bytes(b'\xef\xbb\xbf{"text": "good"}\r\n{"text": 5}\nno json\n{"text": "\xff"}\n{"text": " "}\n{"text": "a", "text": "b"}\n')
        result = run("filter", "--pages", self.pages, "--on-bad-input", "skip", "--out", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("read: 1 pages, 96 bytes, 1 empty, 1 skipped for their encoding, 2 skipped for their JSON, 1 skipped for their fields\n", result.stderr)
        self.assertEqual([json.loads(line)["text"] for line in out.read_text().splitlines()], ["good"])
        self.pages.write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
        result = run("filter", "--pages", self.pages, "--on-bad-input", "replace", "--out", out)
        self.assertIn("read: 2 pages, 34 bytes, 1 mended with U+FFFD\n", result.stderr)
        self.assertEqual(json.loads(out.read_text().splitlines()[1])["text"], "caf\ufffd")

    def test_no_page_after_the_filter_is_an_error(self):
        self.assertRefused(run("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 2), "none of 12 pages")

    def test_unwritable_output_is_refused_before_anything_is_trained(self):
        (self.folder / "file").write_text("")
        self.assertRefused(self.train(self.folder / "file" / "out", "--max-steps", 1), "file/out")

    def test_a_device_that_is_not_there_is_refused_by_name(self):
        for device, reason in (("cuda:77", 'device: found "cuda:77", but'), ("gpu", 'device: found "gpu", expected cpu, cuda or cuda:N'),
                               ("cpu,cuda:77", 'device: found "cuda:77", but'), ("cpu,cpu", 'device: found "cpu,cpu", which is one device; name it once')):
            self.assertRefused(self.train(self.folder / "out", "--max-steps", 1, "--device", device), reason)
        result = self.train(self.folder / "out", "--rank", 2, "--targets", "q_proj", "--max-steps", 1, "--device", "cpu")
        self.assertIn("\ndevice: cpu\n", result.stderr)

    def test_bos_is_put_before_documents_as_the_user_says(self):
        base = self.folder / "base"
        base.mkdir()
        write_model(base, source)
        settings = json.loads((base / "tokenizer_config.json").read_text()) if (base / "tokenizer_config.json").exists() else {}
        pages = self.folder / "few.jsonl"
        pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": "dpkg unpacks it"}) + "\n" for i in range(4)))
        for adds in (False, True):
            (base / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": adds}))
            for options, between in (((), 2 if adds else 1), (("--bos",), 2), (("--no-bos",), 1), (("--bos", "--no-eos"), 1), (("--no-bos", "--no-eos"), 0)):
                result = run("tokenize", "--model", base, "--pages", pages, "--packed", "--max-length", 64, *options)
                self.assertEqual(result.returncode, 0, result.stderr)
                ids = json.loads(result.stdout)["ids"]
                text = "".join("." if id else "0" for id in ids).strip("0")  # without padding
                self.assertEqual(set(re.findall("0+", text)), {"0" * between} - {""}, (adds, options))
        self.assertRefused(run("tokenize", "--model", base, "--pages", self.pages, "--no-eos"), "without --packed there is no use for --eos and --no-eos")

    def test_a_model_that_is_named_twice_and_a_wrong_environment_are_refused_at_once(self):
        self.assertEqual(run("check", model, "--model", model).returncode, 108)  # CLI11's for options that exclude each other
        for name in ("DAPT_FP32_PRODUCTS", "DAPT_ISA"):
            result = subprocess.run([program, "filter", "--pages", self.pages], capture_output=True, text=True, env=os.environ | {name: "mkl"})
            self.assertRefused(result, f'{name}: found "mkl"')
            self.assertNotIn("read: ", result.stderr)

    def test_options_without_effect_are_refused(self):
        for options, message in [
            (("--adapter", "full", "--rank", 4, "--max-steps", 1), "--rank has no effect"),
            (("--galore-rank", 4, "--max-steps", 1), "--galore-rank has no effect"),
            (("--optimizer", "galore-adamw", "--max-steps", 1), "--adapter full"),
            (("--optimizer", "apollo", "--max-steps", 1), "--adapter full"),
            (("--optimizer", "lion", "--eps", 1e-6, "--max-steps", 1), "--eps has no effect"),
            (("--optimizer", "adafactor", "--beta2", 0.9, "--max-steps", 1), "--beta2 has no effect"),
            (("--optimizer", "adafactor", "--state-dtype", "8bit", "--max-steps", 1), "--state-dtype has no effect"),
            (("--apollo-rank", 4, "--max-steps", 1), "--apollo-rank has no effect"),
            (("--weight-write", "plain", "--max-steps", 1), "--weight-write has no effect"),
            (("--gradient-sums", "bf16", "--max-steps", 1), "--gradient-sums has no effect"),
            (("--gradient-sums", "bf16", "--adapter", "full", "--max-steps", 1), "--gradient-sums has no effect without --dtype bf16"),
            (("--warmup", 0.1, "--max-steps", 1), "--warmup has no effect"),
            ((), "no budget"),
            (("--min-score", 0.5, "--max-steps", 1), "--min-score has no effect"),
            (("--terms", self.pages, "--max-steps", 1), "--terms has no effect"),
            (("--contamination", "drop", "--max-steps", 1), "--contamination drop has no effect"),
            (("--duplicates", "off", "--findings", self.folder / "f", "--max-steps", 1), "--findings has no effect"),
            (("--eval-steps", 0, "--keep-best", "--max-steps", 1), "--keep-best has no effect with --eval-steps 0"),
            (("--eval-steps", 1, "--keep-best=qa_exact", "--held-out", 0.3, "--max-steps", 1), "--keep-best qa_exact has no effect without --eval-metrics qa_exact"),
            (("--eval-steps", 1, "--eval-metrics", "logp_mrr", "--max-steps", 1), "--eval-metrics logp_mrr needs --cloze"),
            (("--eval-steps", 1, "--eval-metrics", "qa_exact", "--held-out", 0.3, "--qa", self.folder / "none", "--max-steps", 1), "--held-out has no effect without --eval-metrics perplexity"),
            (("--fewshot", self.folder / "none", "--eval-steps", 1, "--max-steps", 1), "--fewshot has no effect without --eval-steps and --eval-metrics qa_exact"),
            (("--qa", self.folder / "none", "--contamination", "off", "--max-steps", 1), "--qa has no effect without --eval-steps and --eval-metrics qa_exact"),
            (("--one-by-one", "--max-steps", 1), "--one-by-one has no effect without --eval-steps"),
            (("--eval-steps", 2, "--held-out", 0.5, "--max-steps", 1), "--eval-steps 2 has no effect in 1 steps"),
            (("--start-token", "Ġthe", "--max-steps", 1), "--start-token has no effect without --eval-steps"),
            (("--schedule", "linear", "--warmup", 1, "--max-steps", 1), "found 1, expected 0 or more and less than 1"),
        ]:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *options), message)
        self.assertRefused(run("tokenize", "--model", model, "--pages", self.pages, "--dtype", "fp32"), "--dtype")
        one = self.folder / "one.jsonl"
        scored = ("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 0.5, "--out", one)
        self.assertRefused(run(*scored, "--write-scores", self.folder / "." / "one.jsonl"), "--out and --write-scores are one file")
        self.assertRefused(run(*scored, "--findings", one), "--out and --findings are one file")

    def test_what_cannot_be_compared_is_refused_before_anything_is_scored(self):
        base, out = self.folder / "base", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        compared = ("compare", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--out", out, "--max-steps", 2)
        small, full = ("--setting", "small = --rank 4 --optimizer lion"), ("--setting", "full = --adapter full --optimizer lion")
        for options, message in [((*small, "--setting", "longer = --max-steps 3"), 'setting "longer" has max_steps 3, the first setting has 2'),
                                 ((*small, *full, "--rank", 16), "--rank has no effect outside the settings"),
                                 ((*small, *full, "--warmup", 0.5), "--warmup has no effect outside the settings"),
                                 ((*small, *full, "--eps", 1e-3), "--eps has no effect outside the settings"),
                                 ((*small, "--setting", "b = --targets q_prj"), 'setting "b": Lora: target "q_prj" ends the name of none'),
                                 ((*small, "--setting", "b = --weight-decay -1"), 'setting "b": AdamW: weight_decay is -1'),
                                 ((*small, "--setting", "b = --micro-batch-size 4"), 'setting "b": TrainOptions: batch_size is 2, expected a multiple of micro_batch_size 4'),
                                 ((*small, "--setting", "n" * 256 + " = --rank 4"), '" has 256 bytes, expected 255 at the most')]:
            with self.subTest(message):
                self.assertRefused(run(*compared, *options), message)
                self.assertFalse((out / "base").exists())
        early = ("--setting", "early = --adapter full --optimizer galore-adamw --galore-rank 8 --subspace-source first-micro-batch")
        self.assertRefused(run("launch", "-n", 2, "--", *compared, *small, *early), 'setting "early": --subspace-source first-micro-batch takes subspaces', "each of 2 processes has another")
        self.assertFalse((out / "base").exists())
        # Sequences of one forward pass may differ: each setting sees the same ones in each step.
        result = run(*compared, "--setting", "by one = --rank 4", "--setting", "by two = --rank 4 --micro-batch-size 2")
        self.assertEqual(result.returncode, 0, result.stderr)
        by_one, by_two = (self.losses(out / name) for name in ("by-one", "by-two"))
        for one, two in zip(by_one, by_two, strict=True):
            self.assertAlmostEqual(one, two, delta=1e-5 * one)

    def test_what_a_run_begins_with_is_not_written_over(self):
        base, out = self.folder / "whole/model", self.folder / "whole"
        base.mkdir(parents=True)
        write_model(base, source)
        self.assertRefused(self.train(out, "--adapter", "full", "--max-steps", 1, base=base), f"dapt: error: --model {base}: this run would write what it trained over it; give another --out")
        best, measured = ("--keep-best", "--eval-steps", 1), ("--held-out", 0.3)
        (out / "best").mkdir()
        base = base.rename(out / "best/model")
        self.assertRefused(self.train(out, "--adapter", "full", "--max-steps", 1, *best, *measured, base=base), f"--model {base}: this run would write")
        compared = ("compare", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--max-steps", 1, *measured)
        self.assertRefused(run(*compared, "--out", self.folder, "--setting", "small = --rank 2", "--setting", "whole = --adapter full", *best), f'setting "whole": --model {base}: this run would write')
        self.assertFalse((self.folder / "base").exists())

        one, one_and_two = ("--setting", "one = --rank 2"), ("--setting", "one = --rank 2", "--setting", f"two = --init-adapter {out}/one/adapter")
        result = run(*compared, "--out", out, *one)
        self.assertEqual(result.returncode, 0, result.stderr)
        adapter, bytes_before = out / "one/adapter", (out / "one/adapter/adapter_model.safetensors").read_bytes()
        self.assertRefused(self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, base=base), f"dapt: error: --init-adapter {adapter}: this run would write")
        self.assertEqual((adapter / "adapter_model.safetensors").read_bytes(), bytes_before)
        result = run(*compared, "--out", out, *one_and_two, "--resume")  # what is complete is not written again
        self.assertEqual(result.returncode, 0, result.stderr)
        (out / "one/result.json").unlink()
        self.assertRefused(run(*compared, "--out", out, *one_and_two, "--resume"), f'setting "one": --init-adapter {adapter}: this run would write')

        (out / "one/best").mkdir()
        adapter = adapter.rename(out / "one/best/adapter")
        self.assertRefused(self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, *best, *measured, base=base), f"--init-adapter {adapter}: this run would write")
        result = self.train(out / "one", "--init-adapter", adapter, "--max-steps", 1, base=base)  # which writes no best/
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_lora_options_without_effect_or_that_cannot_be_read_are_refused(self):
        said_by_folder = [("--rank", 4), ("--alpha", 4), ("--targets", "q_proj"), ("--targets-regex", ".*q_proj"), ("--exclude-modules", "q_proj"), ("--layers-to-transform", 1),
                          ("--rank-pattern", "q_proj=2"), ("--alpha-pattern", "q_proj=2"), ("--use-rslora",), ("--use-dora",), ("--init-lora-weights", "pissa"),
                          ("--modules-to-save", "norm")]
        of_the_run = [("--lora-dropout", 0.1), ("--loraplus-lr-ratio", 4), ("--modules-to-save-lr", 1e-5), ("--init-adapter", "folder")]
        cases = [(("--adapter", "full", *option), option[0] + " has no effect without --adapter lora") for option in said_by_folder + of_the_run]
        cases += [(("--init-adapter", "folder", *option), option[0] + " has no effect with --init-adapter") for option in said_by_folder]
        cases += [
            (("--modules-to-save-lr", 1e-5), "--modules-to-save-lr has no effect without --modules-to-save"),
            (("--targets", "q_proj", "--targets-regex", ".*q_proj"), "give one of the two"),
            (("--rank-pattern", "q_proj"), '--rank-pattern: found "q_proj", expected REGEX=NUMBER'),
            (("--rank-pattern", "q_proj=2.5"), '--rank-pattern: found "q_proj=2.5"'),
            (("--alpha-pattern", "=2"), '--alpha-pattern: found "=2"'),
            (("--init-lora-weights", "olora"), '--init-lora-weights: found "olora"'),
            (("--init-lora-weights", "pissa_niter_0"), '--init-lora-weights: found "pissa_niter_0"'),
            (("--init-adapter", self.folder / "nowhere"), "nowhere/adapter_config.json: cannot be opened"),
        ]
        for options, message in cases:
            with self.subTest(message):
                self.assertRefused(self.train(self.folder / "out", *options, "--max-steps", 1), message)

    def test_a_truncated_model_is_refused_by_name(self):
        folder = self.folder / "model"
        folder.mkdir()
        for file in pathlib.Path(model).iterdir():
            if file.name != "model.safetensors":
                (folder / file.name).symlink_to(file.resolve())
        whole = (pathlib.Path(model) / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-1])
        result = run("train", "--model", folder, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--max-steps", 1, "--out", self.folder / "out")
        self.assertRefused(result, "model.safetensors")

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

    def test_a_page_whose_token_has_no_embedding_is_named_before_the_first_step(self):
        base, store, held_out = self.folder / "base", self.folder / "store", self.folder / "held_out.store"
        base.mkdir()
        write_model(base, source, vocabulary=922)  # the tokenizer's last, two spaces, is 922
        clean = [{"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i}. " * 9} for i in range(12)]
        self.write_pages(clean)
        result = self.train(self.folder / "out", "--max-steps", 1, "--rank", 2, base=base)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.write_pages(clean + [{"work": "last", "page": 7, "text": "two  spaces"}])
        for file, share in ((store, 0), (held_out, 0.9)):
            self.assertEqual(run("tokenize", "--model", base, "--pages", self.pages, "--held-out", share, "--store", file).returncode, 0)
        options = ("--model", base, "--max-length", 64, "--batch-size", 1, "--dtype", "fp32", "--threads", 1, "--max-steps", 2)
        self.assertEqual(run("train", *options, "--store", held_out, "--out", self.folder / "not evaluated").returncode, 0)  # the page is one of those held out
        for command, data in (("train", ("--pages", self.pages)), ("train", ("--store", store)), ("compare", ("--store", store)), ("train", ("--store", held_out, "--eval-steps", 2))):
            out = self.folder / "refused"
            result = run(command, *options, *data, "--out", out)
            self.assertRefused(result, str(base), 'work "last", page 7 has a token, "  ", that has the id 922 in the tokenizer', "0 to 921")
            self.assertFalse(list(out.rglob("log.jsonl")) + list(out.rglob("result.json")))

    def test_check_names_all_that_it_refuses(self):
        folder = self.folder / "broken"
        folder.mkdir()
        for file in pathlib.Path(model).iterdir():
            if file.name != "config.json":
                (folder / file.name).symlink_to(file.resolve())
        config = json.loads((pathlib.Path(model) / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu", "quantization_config": {"bits": 4}, "intermediate_size": 1024, "num_hidden_layers": 29}))
        result = run("check", folder)
        self.assertRefused(result, "problems, named above")
        for part in ('hidden_act is "gelu"', "quantization_config", "model.layers.0.mlp.down_proj.weight", "and 28 like it", 'unexpected tensor "model.layers.29.', "perplexity: not measured", "full AdamW"):
            self.assertIn(part, result.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
