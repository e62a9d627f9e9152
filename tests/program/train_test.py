"""dapt train: what a run writes and says, that it can be repeated, stopped and gone on with, and what it refuses.

usage: train_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

from program_case import ProgramTest, domain, model, program, run, source
from tiny_model import write_model


class Train(ProgramTest):
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

    def test_an_id_without_an_embedding_is_refused_by_the_items_name_before_the_first_step(self):
        base, cloze, qa, out = self.folder / "base", self.folder / "cloze.jsonl", self.folder / "qa.jsonl", self.folder / "out"
        base.mkdir()
        write_model(base, source, vocabulary=923)
        token = {"content": "frobnicator", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}  # in the tokenizer alone
        (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>", "added_tokens_decoder": {"923": token}}))
        cloze.write_text(json.dumps({"id": "seven", "sentence": "This is a {word}.", "answer": "frobnicator", "candidates": ["package", "frobnicator"]}) + "\n")
        qa.write_text(json.dumps({"id": "eight", "question": "What is a frobnicator?", "answers": ["package"]}) + "\n")
        for metric, name in (("logp_mrr", 'cloze item "seven" with "frobnicator"'), ("qa_exact", 'the prompt of question "eight"')):
            result = self.train(out, "--rank", 2, "--max-steps", 4, "--cloze", cloze, "--qa", qa, "--eval-steps", 2, "--eval-metrics", metric, base=base)
            self.assertRefused(result, f'{name} has a token, "frobnicator", that has the id 923 in the tokenizer, but the model\'s embeddings are for 0 to 922')
            self.assertFalse((out / "log.jsonl").exists())
            task = {"logp_mrr": ("--cloze", cloze), "qa_exact": ("--qa", qa)}[metric]
            self.assertRefused(run("eval", "--model", base, *task, "--dtype", "fp32"), name)

    def test_an_evaluation_that_fails_ends_a_run_with_a_checkpoint_of_its_step(self):
        base, cloze, out = self.folder / "base", self.folder / "cloze.jsonl", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        words = "This tells how dpkg unpacks packages. " * 40000  # a batch of its own, which one of two processes computes
        cloze.write_text(json.dumps({"id": "1", "sentence": words + "{word}", "answer": "dpkg", "candidates": ["dpkg", "apt"]}) + "\n")
        options = ("--rank", 2, "--max-steps", 4, "--cloze", cloze)
        for launcher in ((), ("launch", "-n", 2, "--")):
            result = self.train(out, *options, "--eval-steps", 2, "--eval-metrics", "logp_mrr", base=base, launcher=launcher, mib=1500)
            self.assertRefused(result, "evaluation after step 2: ", "could not be had")
            self.assertEqual([folder.name for folder in (out / "checkpoints").iterdir()], ["step-000000002"])
            self.assertTrue((out / "adapter/adapter_model.safetensors").exists())
            resumed = self.train(out, "--rank", 2, "--max-steps", 4, "--resume", base=base, launcher=launcher)
            self.assertEqual(resumed.returncode, 0, resumed.stderr)
            self.assertEqual(len(self.losses(out)), 4)
            shutil.rmtree(out)

    def test_a_run_that_begins_keeps_nothing_of_evaluations_before_it_and_none_is_asked_for_in_vain(self):
        base, out = self.folder / "base", self.folder / "out"
        base.mkdir()
        write_model(base, source)
        first = self.train(out, "--rank", 2, "--max-steps", 2, "--eval-steps", 1, "--held-out", 0.3, "--keep-best", base=base)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertTrue((out / "best/adapter").exists())
        shutil.rmtree(out / "checkpoints")  # as where it was killed before its first
        second = self.train(out, "--rank", 2, "--max-steps", 1, base=base)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertEqual([(out / name).exists() for name in ("evaluations.jsonl", "best", "adapter")], [False, False, True])
        self.assertRefused(self.train(self.folder / "none", "--rank", 2, "--max-steps", 1, "--eval-steps", 0, "--eval-metrics", "logp_mrr", base=base), "--eval-metrics has no effect with --eval-steps 0")

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
        self.assertIn("power_iterations 1", result.stderr)
        self.assertRefused(self.train(self.folder / "no", "--adapter", "full", "--optimizer", "galore-adamw", "--projector", "exact", "--power-iterations", 2, "--max-steps", 1),
                           "--power-iterations has no effect without --optimizer galore-adamw and --projector randomized")
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

    def test_unwritable_output_is_refused_before_anything_is_trained(self):
        (self.folder / "file").write_text("")
        self.assertRefused(self.train(self.folder / "file" / "out", "--max-steps", 1), "file/out")

    def test_a_device_that_is_not_there_is_refused_by_name(self):
        for device, reason in (("cuda:77", 'device: found "cuda:77", but'), ("gpu", 'device: found "gpu", expected cpu, cuda or cuda:N'),
                               ("cpu,cuda:77", 'device: found "cuda:77", but'), ("cpu,cpu", 'device: found "cpu,cpu", which is one device; name it once')):
            self.assertRefused(self.train(self.folder / "out", "--max-steps", 1, "--device", device), reason)
        result = self.train(self.folder / "out", "--rank", 2, "--targets", "q_proj", "--max-steps", 1, "--device", "cpu")
        self.assertIn("\ndevice: cpu\n", result.stderr)

    def test_a_truncated_model_is_refused_by_name(self):
        folder = self.model_without("model.safetensors")
        whole = (pathlib.Path(model) / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-1])
        result = run("train", "--model", folder, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--max-steps", 1, "--out", self.folder / "out")
        self.assertRefused(result, "model.safetensors")

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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
