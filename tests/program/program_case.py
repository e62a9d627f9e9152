"""What the tests of the program's commands share: where it is, a model, pages, and a folder for each test. A test is started as NAME_test.py SOURCE_DIR BUILD_DIR; the model folder is in DAPT_SMOLLM2."""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import unittest

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
model = os.environ.get("DAPT_SMOLLM2") or sys.exit("DAPT_SMOLLM2 is not set; tests/run.sh sets it")
domain = source / "examples" / "debian"


def run(*arguments, folder=None, mib=None):
    """`mib` is the most memory that the system gives to a process."""
    limit = None if mib is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=folder, preexec_fn=limit)


class ProgramTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.pages = self.folder / "pages.jsonl"
        texts = [f"Page {i} tells how dpkg unpacks package number {i} and how apt asks for its dependencies. " * 8 for i in range(12)]
        self.write_pages([{"work": "w", "page": i, "text": text, "score": i / 12} for i, text in enumerate(texts)])

    def write_pages(self, pages):
        self.pages.write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")

    def model_without(self, left_out):
        """A folder with links to the model's files but one."""
        folder = self.folder / "model"
        folder.mkdir()
        for file in pathlib.Path(model).iterdir():
            if file.name != left_out:
                (folder / file.name).symlink_to(file.resolve())
        return folder

    def train(self, out, *options, base=model, dtype="fp32", launcher=(), mib=None):
        return run(*launcher, "train", "--model", base, "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", dtype, "--threads", 1, "--out", out, *options, mib=mib)

    def assertRefused(self, result, *parts):
        self.assertNotEqual(result.returncode, 0, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)

    def losses(self, out):
        return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
