"""`python -m benchmarks [TASKS]`: the service's speed and memory, and quality if there are tasks to measure it on."""

from __future__ import annotations

import argparse
import os

from benchmarks import service


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "tasks", nargs="?", default=os.environ.get("IPT_BENCH_TASKS"), help="folder of tasks; else IPT_BENCH_TASKS"
    )
    asked = parser.parse_args()
    service.main([])
    if not asked.tasks:
        print("quality was left out: name a folder of tasks (`python -m benchmarks TASKS`, or IPT_BENCH_TASKS=TASKS)")
        return
    from benchmarks import quality  # brings PyTorch, whose memory and threads the service's figures must do without

    quality.main([asked.tasks])


if __name__ == "__main__":
    main()
