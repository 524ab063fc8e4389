"""`nnssl_doctor`: whether this machine and its settings are fit, and how to mend what is not."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict

from nnssl.cli.common import parser, run

DESCRIPTION = """Check the environment: variables, folders, versions, nnU-Net's look-up of trainers, GPUs and their
precision, disks, processors, limits. Every finding says how to mend it. Exit code 1 if there is a problem.

  nnssl_doctor
  nnssl_doctor --data 500        also read every preprocessed file of dataset 500 and compare its checksum"""
MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_doctor", DESCRIPTION)
    p.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="ID",
        help="datasets whose preprocessed files are all read and compared",
    )
    p.add_argument(
        "--quick", action="store_true", help="only what takes no time: no imports, no convolutions, no reading"
    )
    p.add_argument("--json", action="store_true", help="print the findings as one JSON list instead of lines")
    return p


def main_with(a: argparse.Namespace) -> int:
    from nnssl.doctor.run import examine

    found = []
    for finding in examine(a.data, a.quick):
        found.append(finding)
        if not a.json:
            print(f"{MARKS[finding.state]}{finding.about}: {finding.says}", flush=True)
            if finding.mend:
                print(f"        -> {finding.mend}", flush=True)
    counts = Counter(f.state for f in found)
    if a.json:
        json.dump([asdict(f) for f in found], sys.stdout, indent=2)
        print()
    else:
        print(f"{counts['problem']} problem(s), {counts['warning']} warning(s), {counts['ok']} ok")
    return 1 if counts["problem"] else 0


def main() -> None:
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
