"""Two processes with an address each, in network namespaces of their own, are cut off from each other while they train: both end and say so, and the run goes on where the link is back.

usage: link_cut_test.py SOURCE_DIR BUILD_DIR         needs root and the program ip; exit status 77 (skipped) without
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tiny_model import write_model, write_pages

source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
program = build / "bin" / "dapt"
STEPS, PORT = 150, "29500"
spaces = [f"dapt{os.getpid()}_{rank}" for rank in (0, 1)]
links = [f"dapt{os.getpid() % 100000}_{rank}" for rank in (0, 1)]  # a name has at most 15 characters


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


if shutil.which("ip") is None or (made := ip("netns", "add", spaces[0], check=False)).returncode != 0:
    print("skipped: no network namespaces here:", "the program ip is missing" if shutil.which("ip") is None else made.stderr.strip())
    sys.exit(77)
try:
    ip("netns", "add", spaces[1])
    ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
    for rank in (0, 1):
        ip("link", "set", links[rank], "netns", spaces[rank])
        ip("-n", spaces[rank], "addr", "add", f"10.77.0.{rank + 1}/24", "dev", links[rank])
        ip("-n", spaces[rank], "link", "set", "lo", "up")
        ip("-n", spaces[rank], "link", "set", links[rank], "up")
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "model").mkdir()
        write_model(work / "model", source)
        write_pages(work / "pages.jsonl")

        def start(out, *options):
            command = [program, "train", "--model", work / "model", "--pages", work / "pages.jsonl", "--max-length", 64, "--batch-size", 4, "--dtype", "fp32", "--threads", 1, "--adapter", "full",
                       "--lr", "1e-3", "--max-steps", STEPS, "--checkpoint-steps", 5, "--rank-timeout", 5, "--out", work / out, *options]
            processes = []
            for rank in (0, 1):
                variables = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": PORT}
                processes.append(subprocess.Popen(["ip", "netns", "exec", spaces[rank], *map(str, command)], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
            return processes

        def end(processes):
            messages = [process.communicate(timeout=60)[1] for process in processes]
            return [process.returncode for process in processes], messages

        def weights(out):
            return (work / out / "model" / "model.safetensors").read_bytes()

        assert end(start("whole"))[0] == [0, 0]
        processes = start("cut")
        for _ in range(6000):
            if (work / "cut" / "log.jsonl").exists() and len((work / "cut" / "log.jsonl").read_text().splitlines()) >= 12:
                break
            time.sleep(0.01)
        ip("-n", spaces[0], "link", "set", links[0], "down")
        begun = time.monotonic()
        codes, messages = end(processes)
        seconds = time.monotonic() - begun
        assert codes == [1, 1], messages
        for rank in (0, 1):
            assert f"rank {rank} of 2 cannot go on" in messages[rank] and f"; rank {1 - rank} " in messages[rank], messages[rank]
        ip("-n", spaces[0], "link", "set", links[0], "up")
        codes, messages = end(start("cut", "--resume"))
        assert codes == [0, 0], messages
        assert weights("cut") == weights("whole"), "the run that was cut does not end with the weights of the one that was not"
        print(f"both named the other {seconds:.1f} s after the link was cut, and the resumed run has the weights of the whole one")
finally:
    for space in spaces:
        ip("netns", "del", space, check=False)
