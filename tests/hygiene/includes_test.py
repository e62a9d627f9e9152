"""Do includes go one way? The allowed edges stand here; everything else is an error."""
import pathlib
import re
import sys

# Each folder may include itself, these, and nothing else of dapt.
BASE = {"core", "concepts"}
ALLOWED = {
    "core": set(),
    "concepts": {"core"},
    "text": BASE,
    "data": BASE,
    "kernels": BASE,
    "models": BASE | {"kernels"},
    "adapters": BASE | {"kernels"},
    "io": BASE | {"models", "adapters"},  # it uses what it stores
    "optim": BASE,
    "metrics": BASE,
    "report": BASE,
    "dist": BASE,
    "train": BASE,  # no concrete policy: that proves that policies are pluggable
}
ANYTHING = {"testing", "dapt.hpp"}
# Seconds of every user's compile time: the narrow headers cost a tenth.
HEAVY = re.compile(r"(torch/(torch|all|extension)\.h|ATen/ATen\.h|ATen/Functions\.h|bits/stdc\+\+\.h|c10d/.*)")

root = pathlib.Path(sys.argv[1]) / "include/dapt"
problems = []
included = {}  # of each header of dapt, those that it includes
for path in sorted(root.rglob("*.hpp")):
    name = path.relative_to(root)
    owner = name.parts[0]
    text = path.read_text(encoding="utf-8")
    if "#pragma once" not in text:
        problems.append(f"{name}: no #pragma once")
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        include = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not include:
            continue
        quote, target = include.groups()
        if HEAVY.fullmatch(target):
            problems.append(f"{where}: includes <{target}>; take the narrow header")
        if quote == '"':
            problems.append(f'{where}: "{target}": write <dapt/...>')
        if not target.startswith("dapt/"):
            continue
        included.setdefault(f"dapt/{name}", []).append(target)
        if owner in ANYTHING:
            continue
        other = target.split("/")[1]
        if other == "version.hpp":
            continue
        if owner not in ALLOWED:
            problems.append(f"{where}: includes <{target}>, but {owner} is a folder without a place in the order; write it into {sys.argv[0]}")
        elif other != owner and other not in ALLOWED[owner]:
            problems.append(f"{where}: {owner} may not include {other} (<{target}>)")
        elif not (root.parent / target).exists():
            problems.append(f"{where}: <{target}> does not exist")



def refuse_cycles(header, path, done):
    """Each header once: `path` leads to it."""
    if header in path:
        problems.append(" includes ".join([*path[path.index(header):], header]))
    elif header not in done:
        for target in included.get(header, []):
            refuse_cycles(target, [*path, header], done)
        done.add(header)


done = set()
for header in sorted(included):
    refuse_cycles(header, [], done)

print("\n".join(problems) or f"{len(list(root.rglob('*.hpp')))} headers: includes go one way")
sys.exit(bool(problems))
