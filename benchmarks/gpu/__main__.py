"""``python -m benchmarks.gpu``: Python alone is needed here, and what else is missing is found part by part."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.report import printed
from benchmarks.gpu.running import run_parts

PARTS = {
    "machine": ("benchmarks.gpu.machine:machine", 45.0),
    "cifar": ("benchmarks.gpu.engines:cifar_engines", 60.0),
    "resnet50": ("benchmarks.gpu.engines:resnet50_engines", 60.0),
    "search": ("benchmarks.gpu.searching:searching", 90.0),
    "index": ("benchmarks.gpu.indexing:indexing", 90.0),
    "serve": ("benchmarks.gpu.serving:serving", 75.0),
    "efficientnet": ("benchmarks.gpu.engines:efficientnet_engines", 60.0),
    "paper": ("benchmarks.gpu.paper:paper", 150.0),
    "graphs": ("benchmarks.gpu.graphs:graphs", 150.0),
}
"""Where each is, and its seconds at most; in the order in which they matter."""
SECONDS = 540.0
"""For all of them: under ten minutes with the start."""


def options() -> argparse.ArgumentParser:
    """What can be asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Measure this machine's GPU: engines held to the processor's, an index, exact search, answers "
        "under load, CUDA graphs, the paper's table. PyTorch and numpy are enough. Exit 0 only if all that could run "
        "agreed.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script itself")
    parser.add_argument("--quick", action="store_true", help="small and soon over: times say nothing")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where cifar-10-batches-py lies; else made images")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="the author's .h5 files, for the paper's table")
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="this part only; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts (default: %(default)g)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes; else it is not kept")
    return parser


def main() -> int:
    """Run, write and print; 0 where everything that could run agreed."""
    parser = options()
    given = parser.parse_args()
    for module in ("torch", "numpy"):
        if find_spec(module) is None:
            parser.error(f"{module} is not installed for {sys.executable}: run this with a Python that has it")
    plan = Plan(given.device, given.quick, given.data, given.weights)
    parts = {name: where for name, where in PARTS.items() if not given.part or name in given.part}
    outcomes = run_parts(parts, plan, given.seconds, lambda line: print(line, file=sys.stderr, flush=True))
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": given.device,
        "quick": given.quick,
        "parts": {outcome.part: outcome.as_dict() for outcome in outcomes},
        "agrees": all(outcome.is_good for outcome in outcomes),
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(content, indent=1) + "\n")
    print(printed(outcomes))
    return 0 if content["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
