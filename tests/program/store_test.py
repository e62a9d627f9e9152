"""Token stores of the program: training from one is training from the pages, and what is not the pages' store is refused.

usage: store_test.py SOURCE_DIR BUILD_DIR
"""
import fcntl
import gzip
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from tiny_model import write_model

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
TRAINING = ("--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--lr", "1e-3", "--adapter", "full")


class Store(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = pathlib.Path(folder.name)
        cls.model = cls.work / "model"
        cls.model.mkdir()
        write_model(cls.model, source)
        cls.pages = cls.work / "pages.jsonl.gz"
        lines = [json.dumps({"work": f"w{i // 7}", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * (1 + i % 9), "score": i % 5}) for i in range(600)]
        cls.pages.write_bytes(gzip.compress("\n".join(lines).encode()))
        cls.filter = ("--scorer", "field", "--min-score", 1, "--held-out", 0.1)
        cls.store = cls.work / "pages.store"
        cls.messages = cls.succeed("tokenize", "--model", cls.model, "--pages", cls.pages, *cls.filter, "--threads", 2, "--store", cls.store)

    @classmethod
    def run_program(cls, *arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)

    @classmethod
    def succeed(cls, *arguments):
        result = cls.run_program(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assertRefused(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def train(self, out, *options, steps=4):
        return self.run_program("train", "--model", self.model, *TRAINING, "--max-steps", steps, "--out", self.folder / out, *options)

    def outcome(self, out):
        """What a run leaves, without times: losses, perplexities, weights."""
        folder = self.folder / out
        losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        evaluations = folder / "evaluations.jsonl"
        return losses, evaluations.read_text() if evaluations.exists() else "", (folder / "model/model.safetensors").read_bytes()

    def header(self, messages):
        return {key: value for key, _, value in (line.partition(": ") for line in messages.splitlines())}

    def test_training_from_a_store_is_training_from_the_pages(self):
        evaluating = ("--eval-steps", 2, "--isolate-documents")
        left = self.folder / "pages"  # by processes that were killed, of a run of more of them than this one; but not what is written just now, or is the user's
        left.mkdir()
        for name in (".tokens.0.store", ".tokens.3.store", "..tokens.3.store.1234.tmp", "..tokens.2.store.1234.tmp", ".tokens.own.store"):
            (left / name).write_text("half")
        held = (left / "..tokens.2.store.1234.tmp").open()
        self.addCleanup(held.close)
        fcntl.flock(held, fcntl.LOCK_EX)
        from_pages = self.train("pages", "--pages", self.pages, *self.filter, *evaluating)
        from_store = self.train("store", "--store", self.store, *evaluating)
        for result in (from_pages, from_store):
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.outcome("store"), self.outcome("pages"))
        self.assertEqual(len(self.outcome("store")[1].splitlines()), 2)
        pages, store = self.header(from_pages.stderr), self.header(from_store.stderr)
        self.assertEqual(store["token store"], str(self.store))
        for key in ("pages", "pages read", "page filter", "pages kept", "pages dropped", "training data", "first border of documents", "held-out pages"):
            self.assertEqual(store[key], pages[key])
        self.assertEqual({file.name for file in (self.folder / "pages").iterdir() if file.name.startswith(".")}, {"..tokens.2.store.1234.tmp", ".tokens.own.store"})
        # the run's own store has no name

    def test_a_run_goes_on_from_a_store_where_it_began_with_the_pages(self):
        self.assertEqual(self.train("whole", "--store", self.store, steps=6).returncode, 0)
        first = self.train("parts", "--pages", self.pages, *self.filter, "--eval-steps", 3)  # which holds the same pages out
        self.assertEqual(first.returncode, 0, first.stderr)
        second = self.train("parts", "--store", self.store, "--resume", steps=6)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertIn("after step 4", second.stderr)
        self.assertEqual(self.outcome("parts")[2], self.outcome("whole")[2])
        other = self.folder / "other.store"
        self.succeed("tokenize", "--model", self.model, "--pages", self.pages, "--store", other)
        self.assertRefused(self.train("parts", "--store", other, "--resume", steps=8), "--resume: ", "checksum of the training data")

    def test_two_processes_train_from_the_pages_and_from_a_store(self):
        for out, data in (("pages", ("--pages", self.pages, *self.filter[:4])), ("store", ("--store", self.store))):
            self.succeed("launch", "-n", 2, "--", "train", "--model", self.model, *TRAINING, "--max-steps", 4, "--out", self.folder / out, *data)
        whole = self.folder / "whole.store"  # train holds no page out without --eval-steps
        self.succeed("tokenize", "--model", self.model, "--pages", self.pages, *self.filter[:4], "--held-out", 0, "--store", whole)
        self.succeed("launch", "-n", 2, "--", "train", "--model", self.model, *TRAINING, "--max-steps", 4, "--out", self.folder / "all", "--store", whole)
        self.assertEqual(self.outcome("all"), self.outcome("pages"))
        self.assertNotEqual(self.outcome("all")[0], self.outcome("store")[0])

    def test_a_comparison_reads_a_store(self):
        for out, data in (("pages", ("--pages", self.pages, *self.filter)), ("store", ("--store", self.store))):
            self.succeed("compare", "--model", self.model, *TRAINING[:-2], "--max-steps", 3, "--out", self.folder / out, *data, "--setting", "small = --adapter lora --rank 2")
        results = [json.loads((self.folder / out / "small/result.json").read_text()) for out in ("pages", "store")]
        self.assertEqual(results[0]["metrics"], results[1]["metrics"])
        self.assertEqual(results[0]["metrics"][0]["name"], "perplexity")

    def test_the_header_shows_the_first_border_of_documents(self):
        def border(texts, *options, length=8):
            pages = self.folder / "few.jsonl"
            pages.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            result = self.run_program("train", "--model", self.model, "--pages", pages, "--max-length", length, "--batch-size", 1, "--dtype", "fp32", "--threads", 1, "--max-steps", 1, "--out", self.folder / "out", *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            shutil.rmtree(self.folder / "out")
            return self.header(result.stderr)["first border of documents"]

        texts = ["one two three", "four five", "six"]
        self.assertEqual(border(texts), '"one two three" [0] "four five"')
        self.assertEqual(border(texts, "--no-eos"), '"one two three" | "four five"')
        self.assertEqual(border(texts[:1]), "none in one document")
        self.assertEqual(border(texts, length=1), '"one two three" [0] "four five"')  # no row holds it

    def test_tokenize_says_what_the_store_holds(self):
        ids = [json.loads(line)["ids"] for line in self.succeed("tokenize", "--model", self.model, "--pages", self.pages).splitlines() if line.startswith("{")]
        self.assertEqual(len(ids), 600)
        header = self.store.read_bytes()[:128]
        documents, empty, tokens, _, held_out = struct.unpack_from("<5Q", header, 40)
        self.assertEqual(documents + held_out + empty, 480)  # of 600 pages a fifth has score 0
        self.assertGreater(held_out, 20)
        self.assertIn(f"{documents} pages, {tokens} tokens of 2 bytes, {held_out} pages held out", self.messages)
        self.assertLess(tokens, sum(map(len, ids)))

    def test_what_is_no_store_of_this_model_is_refused(self):
        other = self.folder / "other"
        other.mkdir()
        write_model(other, source)
        text = (other / "tokenizer.json").read_text()
        (other / "tokenizer.json").write_text(text + "\n")
        self.assertRefused(self.run_program("train", "--model", other, *TRAINING, "--max-steps", 4, "--out", self.folder / "out", "--store", self.store), str(self.store), "of the tokenizer", "byte 16")
        damaged = self.folder / "damaged"
        stored = bytearray(self.store.read_bytes())
        stored[200] ^= 4
        damaged.write_bytes(stored)
        self.assertRefused(self.train("out", "--store", damaged), str(damaged), "damaged between byte 128 and")
        damaged.write_bytes(stored[:5000])
        self.assertRefused(self.train("out", "--store", damaged), str(damaged), "ends at byte 5000")
        damaged.write_bytes(gzip.decompress(self.pages.read_bytes()))
        self.assertRefused(self.train("out", "--store", damaged), str(damaged), "no token store")
        self.assertFalse((self.folder / "out/log.jsonl").exists())

    def test_options_without_effect_are_refused(self):
        self.assertRefused(self.train("out"), "--pages, or --store")
        for option in (("--pages", self.pages), ("--scorer", "field"), ("--held-out", 0.1), ("--on-bad-input", "skip"), ("--duplicates", "drop")):
            self.assertRefused(self.train("out", "--store", self.store, "--eval-steps", 1, *option), option[0], "--store")
            if option[0] not in ("--pages", "--on-bad-input"):
                self.assertRefused(self.run_program("tokenize", "--model", self.model, "--pages", self.pages, *option), option[0], "--store")
        tokenize = ("tokenize", "--model", self.model, "--pages", self.pages, "--store", self.folder / "none")
        self.assertRefused(self.run_program(*tokenize, "--packed"), "--packed")
        self.assertRefused(self.run_program(*tokenize, "--out", self.folder / "ids.jsonl"), "--out")
        self.assertRefused(self.run_program(*tokenize, "--scorer", "field", "--min-score", 9), "none of 600 pages")
        self.assertEqual(list(self.folder.glob("*none*")), [])
        without = self.folder / "without.store"
        self.succeed("tokenize", "--model", self.model, "--pages", self.pages, "--held-out", 0, "--store", without)
        self.assertRefused(self.train("out", "--store", without, "--eval-steps", 1), str(without), "holds out no page")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
