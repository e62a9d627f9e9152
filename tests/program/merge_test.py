"""dapt merge: an adapter in its base, which may be quantised.

usage: merge_test.py SOURCE_DIR BUILD_DIR        the model folder is in DAPT_SMOLLM2
"""
import json
import sys
import unittest

from program_case import ProgramTest, model, run


class Merge(ProgramTest):
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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
