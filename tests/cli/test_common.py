from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import argparse
from nnssl.cli.common import run

def main(a):
    for i in range(100000):
        print("line", i)

run(main, argparse.Namespace(debug=False))
"""


def test_a_closed_pipe_is_no_traceback() -> None:
    """`nnssl_inspect 27 | head` is an ordinary thing to type."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "line 0\n"
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(30) == 141
