"""Save and load ten models in another process and compare bit for bit: docs/saved.md.

python tools/saved.py --out docs/saved.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from fxplastic.zoo import rows
from tests.saved_models import MODELS, STEPS, differences, make

HEAD = f"""# Saved and loaded

Ten models of different families: each is trained a little, turned over, grown by a quarter, pruned
by a quarter (three plans, with training in between), saved with its optimizer, and loaded in a new
process. There and here it then gives outputs in eval and train mode and takes {STEPS} further steps
of the optimizer; the last column counts the tensors (outputs, and all of the state afterwards) in
which a single bit differs. `make saved` writes this table.

| model | optimizer | parameters before | after | tensors that differ |
| --- | --- | --- | --- | --- |
"""


def main() -> int:
    """Write the table; the exit status is 1 where a model differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    lines, bad = [], 0
    with tempfile.TemporaryDirectory() as place:
        for name, folder in [(n, Path(place) / n.replace("/", "-")) for n in MODELS]:
            made = make(name, folder)
            command = [sys.executable, "-m", "tests.saved_models", str(folder)]
            subprocess.run(command, check=True)
            found = differences(folder)
            bad += bool(found)
            before, after = made["parameters"]
            lines.append(
                f"| {name} | {made['optimizer']} | {before:,} | {after:,} | {len(found)} |"
            )
            print(lines[-1], flush=True)
    origin = rows.origin()
    versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items() if k != "transformers")
    foot = f"\n\n{versions}; {origin['machine']}; commit {origin['commit']}.\n"
    out.write_text(HEAD + "\n".join(lines) + foot, encoding="utf-8")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
