"""A disk that fails, by a library in LD_PRELOAD and by small file systems: the run says path and reason and goes on or stops as chosen, nothing half-written is taken, and after the
repair the run ends as the one whose disk was good.

usage: disk_test.py SOURCE_DIR BUILD_DIR
"""
import collections
import itertools
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import unittest

from tiny_model import write_model

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
library = next(build.rglob("libdapt_faulty_disk.so"))
STEPS = 6
REASON = {"ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded", "EROFS": "Read-only file system", "EACCES": "Permission denied", "EIO": "Input/output error"}
WALL = {"seconds", "tokens_per_second", "phase_seconds", "peak_memory_bytes"}


class Disk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.work = pathlib.Path(folder.name)
        (cls.work / "model").mkdir()
        write_model(cls.work / "model", source)
        cls.pages = cls.work / "pages.jsonl"
        cls.pages.write_text("".join(json.dumps({"work": "w", "page": i, "text": f"Page {i} tells how dpkg unpacks package {i * i}. " * 20, "score": i}) + "\n" for i in [*range(12), 0]))
        result = cls.train(cls.work / "whole")
        assert result.returncode == 0, result.stderr

    @classmethod
    def run_program(cls, *arguments, fault=None, trace=None):
        environment = dict(os.environ)
        if fault:
            environment |= {"LD_PRELOAD": str(library), "FAULTY_DISK": fault}
        if trace:
            environment |= {"LD_PRELOAD": str(library), "FAULTY_DISK_TRACE": str(trace)}
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, errors="backslashreplace", env=environment)

    @classmethod
    def train(cls, out, *options, fault=None, trace=None):
        return cls.run_program("train", "--model", cls.work / "model", "--pages", cls.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--adapter", "full",
                               "--optimizer", "galore-adamw", "--galore-rank", 8, "--update-proj-gap", 3, "--lr", "1e-3", "--max-steps", STEPS, "--checkpoint-steps", 1, "--out", out, *options,
                               fault=fault, trace=trace)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def log(self, out):
        return [{key: value for key, value in json.loads(line).items() if key not in WALL} for line in (out / "log.jsonl").read_text().splitlines()]

    def checkpoints(self, out):
        return sorted(folder.name for folder in (out / "checkpoints").iterdir() if folder.name.startswith("step-"))

    def assertSaid(self, result, reason, *parts):
        for part in (REASON[reason], *parts):
            self.assertIn(part, result.stderr)

    def assertWhole(self, out):
        """The run in `out` ended as the one whose disk was good."""
        self.assertEqual(self.log(out), self.log(self.work / "whole"))
        for file in ("model.safetensors", "config.json", "tokenizer.json"):
            self.assertEqual((out / "model" / file).read_bytes(), (self.work / "whole" / "model" / file).read_bytes(), file)
        self.assertEqual(self.checkpoints(out), [f"step-{step:09}" for step in (STEPS - 1, STEPS)])
        self.assertEqual([file for file in out.rglob(".*")], [])  # nothing half-written is left

    def assertResumes(self, out, **options):
        result = self.train(out, "--resume", **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertWhole(out)

    def test_a_checkpoint_that_cannot_be_written_stops_the_run_or_does_not_as_chosen(self):
        third = "step-000000003"
        for fault, part in [(f"mkdir EROFS .{third} 0 0", ".tmp: cannot make the folder"), (f"open EACCES .{third} 0 0", "state.safetensors: cannot create a file"),
                            (f"write ENOSPC .{third} 5000 0", "state.safetensors: cannot write"), (f"write EDQUOT .{third} 0 0", "state.safetensors: cannot write"),
                            (f"write EIO {third}.tmp/.checkpoint.json 100 0", "checkpoint.json: cannot write"), (f"fsync EIO {third} 0 0", "state.safetensors: cannot flush to the disk"),
                            (f"fsync EIO {third} 1 0", ".tmp: cannot flush the folder to the disk"), (f"rename EIO {third} 2 0", f"{third}: cannot rename the finished checkpoint"),
                            (f"rename EROFS {third}.tmp 1 0", "checkpoint.json: cannot rename the finished file")]:
            with self.subTest(fault):
                reason = fault.split()[1]
                out = self.folder / str(len(list(self.folder.iterdir())))
                result = self.train(out / "stop", fault=fault)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertSaid(result, reason, "checkpoint cannot be written, the run stops: ", str(out / "stop" / "checkpoints"), part, "dapt: error: stopped, because checkpoint")
                self.assertTrue({"step-000000002", "step-000000004", "step-000000005"} & set(self.checkpoints(out / "stop")))
                self.assertNotIn(third, self.checkpoints(out / "stop"))
                self.assertLess(len(self.log(out / "stop")), STEPS)
                self.assertTrue((out / "stop" / "model" / "model.safetensors").exists())  # what was reached is saved
                self.assertResumes(out / "stop")
                result = self.train(out / "continue", "--on-write-error", "continue", fault=fault)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertSaid(result, reason, "checkpoint cannot be written, the run goes on: ", str(out / "continue" / "checkpoints"), part)
                self.assertWhole(out / "continue")

    def test_when_no_checkpoint_can_be_written_any_more_the_newest_one_stays_and_the_result_is_written(self):
        out = self.folder / "out"
        result = self.train(out, fault="open EACCES .step-000000003 0 0")
        self.assertEqual(result.returncode, 1, result.stderr)
        before = self.checkpoints(out)
        result = self.train(out, "--resume", "--on-write-error", "continue", fault="write ENOSPC /checkpoints/ 1000 0")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertSaid(result, "ENOSPC", "checkpoint could not be written to its end: ")
        self.assertEqual(self.checkpoints(out), before)
        self.assertEqual((out / "model/model.safetensors").read_bytes(), (self.work / "whole/model/model.safetensors").read_bytes())
        result = self.train(out, "--resume", "--on-write-error", "continue", fault=f"open EACCES .step-{STEPS:09} 0 0")  # the last one: its line is not begun before it is there
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr, "(?m)^checkpoint cannot be written, the run goes on: ")
        self.assertResumes(out)

    def test_a_log_that_cannot_be_written_stops_the_run_or_is_completed_when_it_can_be(self):
        for name, part, what in [("log.jsonl", "log.jsonl: cannot write", "log"), ("tfevents", "events.out.tfevents.", "TensorBoard events")]:
            with self.subTest(name):
                out = self.folder / what[:3]  # a fault's name in the path would be one in every file
                result = self.train(out / "stop", fault=f"write ENOSPC {name} 700 0")
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertSaid(result, "ENOSPC", part, f"{what} cannot be written, the run stops", f"{what} could not be written to its end", f"dapt: error: stopped, because {what}")
                stopped = self.log(out / "stop")  # each line of it is whole
                whole = self.log(self.work / "whole")
                self.assertLess(len(stopped), STEPS)
                self.assertEqual(stopped, whole[:len(stopped)])
                result = self.train(out / "stop", "--resume")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual((out / "stop/model/model.safetensors").read_bytes(), (self.work / "whole/model/model.safetensors").read_bytes())
                if name == "log.jsonl":  # the step at which the run stopped is the one that no log holds, and that is said
                    self.assertIn(f"log.jsonl: holds {len(stopped)} of the {len(stopped) + 1} steps before the checkpoint", result.stderr)
                    self.assertEqual(self.log(out / "stop"), whole[:len(stopped)] + whole[len(stopped) + 1:])
                else:
                    self.assertWhole(out / "stop")
                result = self.train(out / "unflushed", fault=f"fsync EIO {name} 0 1")  # as a checkpoint is about to get its name
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertSaid(result, "EIO", part.replace("cannot write", "cannot flush to the disk"), f"{what} cannot be written, the run stops", f"dapt: error: stopped, because {what}")
                self.assertResumes(out / "unflushed")
                result = self.train(out / "later", "--on-write-error", "continue", fault=f"write EDQUOT {name} 700 3")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertSaid(result, "EDQUOT", part, f"{what} cannot be written, the run goes on")
                self.assertNotIn("could not be written to its end", result.stderr)
                self.assertWhole(out / "later")
                result = self.train(out / "never", "--on-write-error", "continue", fault=f"fsync EIO {name} 0 0")  # as a network file system tells of a lost write
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertSaid(result, "EIO", f"{what} could not be written to its end", "cannot flush to the disk")
                self.assertWhole(out / "never")

    def test_a_checkpoint_gets_its_name_once_all_that_is_said_of_its_steps_is_flushed(self):
        """Whenever the power is cut: no checkpoint is newer than the log."""
        out, trace = (self.folder / "out").resolve(), self.folder / "trace"
        result = self.train(out, "--held-out", 0.3, "--eval-steps", 2, trace=trace)
        self.assertEqual(result.returncode, 0, result.stderr)
        events = next(out.glob("events.out.tfevents.*"))
        ends = {file: list(itertools.accumulate(len(line) for line in (out / file).read_bytes().splitlines(keepends=True))) for file in ("log.jsonl", "evaluations.jsonl")}
        self.assertEqual([len(ends["log.jsonl"]), len(ends["evaluations.jsonl"])], [STEPS, STEPS // 2])
        data, at, ends[events.name] = events.read_bytes(), 0, []
        while at < len(data):
            at += 16 + struct.unpack_from("<Q", data, at)[0]
            ends[events.name].append(at)
        self.assertEqual(len(ends[events.name]), 1 + STEPS + STEPS // 2)  # the version comes first
        last_of = lambda step: {"log.jsonl": step, "evaluations.jsonl": step // 2, events.name: 1 + step + step // 2}
        written, begun, flushed, named = collections.Counter(), {}, collections.Counter(), []
        for line in trace.read_text().splitlines():
            call, size, path = line.split(" ", 2)
            if call == "write":
                written[path] += int(size)
            elif call == "fsync":
                begun[path] = written[path]
            elif call == "flushed":
                flushed[path] = begun[path]
            elif found := re.fullmatch(re.escape(f"{out}/checkpoints/step-") + r"(\d+)", path):
                named.append(int(found[1]))
                for file, count in last_of(named[-1]).items():
                    self.assertGreaterEqual(flushed[f"{out}/{file}"], ends[file][count - 1] if count else 0, (file, named[-1]))
        self.assertEqual(named, list(range(1, STEPS + 1)))

    def test_folders_and_files_whose_names_are_no_utf_8(self):
        name = os.fsdecode(b"caf\xe9")
        os.rename(self.work / "model", self.work / name)
        self.addCleanup(os.rename, self.work / name, self.work / "model")
        (self.folder / name).mkdir()
        for line in self.pages.read_text().splitlines():
            page = json.loads(line)
            (self.folder / name / f"{name}{page['page']}").write_text(page["text"])
        (self.folder / name / "copy").write_text(page["text"])
        model, pages, out = self.work / name, self.folder / name, self.folder / "out"

        def succeeds(*arguments):
            result = self.run_program(*arguments)
            self.assertEqual(result.returncode, 0, result.stderr)

        options = ("--model", model, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--checkpoint-steps", 1)
        succeeds("train", "--pages", pages, *options, "--max-steps", 2, "--out", out)
        succeeds("train", "--pages", pages, *options, "--max-steps", 4, "--out", out, "--resume")
        self.assertEqual(len(self.log(out)), 4)
        store, findings, kept = (self.folder / f"{name}.{kind}" for kind in ("store", "findings", "kept"))
        succeeds("tokenize", "--model", model, "--pages", pages, "--store", store, "--held-out", 0.3)
        succeeds("train", "--store", store, *options, "--max-steps", 2, "--out", self.folder / "stored")
        succeeds("filter", "--pages", pages, "--findings", findings, "--out", kept)
        self.assertEqual(json.loads(kept.read_text().splitlines()[0])["work"], "caf\\xE90")
        self.assertIn("caf\\xE9", json.loads(findings.read_text().splitlines()[0])["source"])

    def test_a_log_that_cannot_be_opened_is_told_before_anything_is_trained(self):
        for fault in ("open EROFS log.jsonl 0 0", "open EACCES tfevents 0 0"):
            result = self.train(self.folder / "out", fault=fault)
            self.assertEqual(result.returncode, 1)
            self.assertSaid(result, fault.split()[1], fault.split()[2])
            self.assertFalse((self.folder / "out/model").exists())

    def test_a_result_that_cannot_be_written_is_an_error_and_the_checkpoint_has_what_was_trained(self):
        for fault in ("mkdir EROFS /model 0 0", "open EACCES model/.model.safetensors 0 0", "write ENOSPC model/.model.safetensors 5000 0", "fsync EIO model/.model.safetensors 0 0",
                      "rename EIO model/model.safetensors 0 0", "write EDQUOT model/.config.json 10 0"):
            with self.subTest(fault):
                out = self.folder / str(len(list(self.folder.iterdir())))
                result = self.train(out, "--on-write-error", "continue", fault=fault)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertSaid(result, fault.split()[1], "dapt: error: " + str(out / "model"))
                self.assertEqual(self.checkpoints(out)[-1], f"step-{STEPS:09}")
                self.assertFalse((out / "model/config.json").exists())
                self.assertEqual((out / "model/model.safetensors").exists(), "config" in fault)
                self.assertResumes(out)

    def test_an_adapter_that_cannot_be_written_is_an_error(self):
        command = ["train", "--model", self.work / "model", "--pages", self.pages, "--max-length", 64, "--batch-size", 2, "--dtype", "fp32", "--threads", 1, "--max-steps", 1]
        for fault in ("mkdir EROFS /adapter 0 0", "write ENOSPC .adapter_model.safetensors 1000 0", "rename EIO adapter_config.json 0 0"):
            result = self.run_program(*command, "--out", self.folder / "out", fault=fault)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertSaid(result, fault.split()[1], "dapt: error: " + str(self.folder / "out/adapter"))
            self.assertFalse((self.folder / "out/adapter/adapter_config.json").exists())
            command += ["--resume"] if "--resume" not in command else []
        result = self.run_program(*command, "--out", self.folder / "out")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue((self.folder / "out/adapter/adapter_config.json").exists())

    def test_files_of_the_other_commands_appear_whole_or_stay_as_they_were(self):
        out = self.folder / "out.jsonl"
        model = ("--model", self.work / "model")
        commands = [("tokenize", *model, "--pages", self.pages, "--out", out), ("tokenize", *model, "--pages", self.pages, "--packed", "--max-length", 16, "--out", out),
                    ("filter", "--pages", self.pages, "--scorer", "field", "--min-score", 3, "--out", out), ("filter", "--pages", self.pages, "--scorer", "field", "--write-scores", out),
                    ("filter", "--pages", self.pages, "--findings", out), ("eval", *model, "--pages", self.pages, "--max-length", 64, "--dtype", "fp32", "--out", out)]
        for command in commands:
            for fault in ("open EACCES .out.jsonl 0 0", "write ENOSPC .out.jsonl 100 0", "write EIO .out.jsonl 0 0", "fsync EDQUOT .out.jsonl 0 0", "rename EROFS out.jsonl 0 0"):
                with self.subTest(command=command[0], fault=fault):
                    out.write_text("as it was")
                    result = self.run_program(*command, fault=fault)
                    self.assertEqual(result.returncode, 1, result.stderr)
                    self.assertSaid(result, fault.split()[1], str(out))
                    self.assertEqual(out.read_text(), "as it was")
                    self.assertEqual([file.name for file in self.folder.iterdir()], ["out.jsonl"])
            out.unlink()
            out.mkdir()
            result = self.run_program(*command)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn(f"{out}: is no regular file", result.stderr)
            out.rmdir()

    def mount(self, size):
        disk = self.folder / "disk"
        disk.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True).returncode != 0:
            self.skipTest("a small file system can be made by root only")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        return disk

    def test_a_full_file_system_and_one_that_becomes_read_only(self):
        size = sum(file.stat().st_size for file in (self.work / "whole/checkpoints").rglob("*.*")) // 2
        disk = self.mount(5 * size // 2)  # two checkpoints fit, the third before the first is removed does not
        result = self.train(disk / "out")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertSaid(result, "ENOSPC", str(disk / "out"))
        self.assertNotEqual(self.checkpoints(disk / "out"), [])
        remount = lambda options: subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
        remount("ro,size=20m")
        result = self.train(disk / "out", "--resume")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn(f"{disk / 'out'}: cannot be written to", result.stderr)
        remount("rw,size=20m")
        self.assertResumes(disk / "out")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
