"""Runs commands in forked children, which may be killed or given a bad disk: one import of nnU-Net serves them all.

`python -m tests.reliability.nursery` reads one JSON object per line and answers each with one. It never computes anything
itself, because a process that has run torch's threads must not be forked.

{"arguments": [...], "log": FILE, "plan": {...}}  ->  {"code": -9, "seconds": 1.2}

A plan holds at most one way to die or to be stopped, and any faults:

kill_at_event: N          SIGKILL before the N-th change below `watch` (open to write, rename, remove, ...)
kill_in_write: N          SIGKILL when half of the N-th torch file is written
kill_in_step: N           SIGKILL in the N-th step, between backward pass and optimiser
kill_after: SECONDS       SIGKILL from outside
stop_in_step: N           SIGTERM in the N-th step, as a scheduler sends it
kill_reader: N            SIGKILL for a reading process in the N-th step
disk: {errno, from, to}   changes number from..to below `watch` fail with this error
count: FILE               write the number of changes here at the end, and what they were
nan_steps: [N, ...]       the views of these steps (epoch * iterations + step) hold NaN
nan_once: true            only until the run has gone back
rss: FILE                 append resident memory (MB) and the number of open files after every epoch
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
events = 0
seen: list[str] = []


def _changes(event: str, arguments: tuple) -> str | None:
    """The path that an audited event is about to change."""
    if event in CHANGES:
        return str(arguments[0])
    if event == "open" and isinstance(arguments[0], str):
        mode, flags = arguments[1:3]
        writes = any(c in mode for c in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return arguments[0] if writes else None
    return None


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(plan: dict[str, Any]) -> None:
    below, kill_at, disk = plan.get("watch", ""), plan.get("kill_at_event"), plan.get("disk")

    def hook(event: str, arguments: tuple) -> None:
        global events
        path = _changes(event, arguments)
        if path is None or below not in path or "training_log" in path:  # the log is opened for every line
            return
        events += 1
        if "count" in plan:
            seen.append(f"{event} {path}")
        if events == kill_at:
            _die()
        if disk and disk["from"] <= events <= disk["to"]:
            raise OSError(disk["errno"], os.strerror(disk["errno"]), path)

    sys.addaudithook(hook)


def _sabotage(plan: dict[str, Any]) -> None:
    """Wrap what the plan wants to break; production code has no switches for it."""
    import torch
    from nnssl.trainers.pretraining import nnsslTrainer

    from nnssl.transfer import torch_files

    calls = {"write": 0, "step": 0}
    write, optimise, views = torch_files.write, nnsslTrainer._optimiser_step, nnsslTrainer._views

    def torn(content: dict, file: Any) -> None:
        calls["write"] += 1
        if calls["write"] == plan.get("kill_in_write"):
            whole = io.BytesIO()
            write(content, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            _die()
        write(content, file)

    def stepped(self: Any) -> Any:
        calls["step"] += 1
        if calls["step"] == plan.get("kill_in_step"):
            _die()
        if calls["step"] == plan.get("stop_in_step"):
            os.kill(os.getpid(), signal.SIGTERM)
        if calls["step"] == plan.get("kill_reader"):
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
        return optimise(self)

    def poisoned(self: Any, batch: Any, stream: int, step: int) -> Any:
        made = views(self, batch, stream, step)
        over = plan.get("nan_once", False) and self.state.rollbacks > 0
        if stream == 0 and step in plan.get("nan_steps", ()) and not over:
            made = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in made.items()}
        return made

    torch_files.write, nnsslTrainer._optimiser_step, nnsslTrainer._views = torn, stepped, poisoned  # type: ignore[assignment, method-assign]
    if "rss" in plan:
        finish = nnsslTrainer._finish_epoch

        def measured(self: Any, *given: Any) -> None:
            finish(self, *given)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            with open(plan["rss"], "a") as file:  # noqa: PTH123  not below the watched folder
                file.write(f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} {len(os.listdir('/proc/self/fd'))}\n")  # noqa: PTH208

        nnsslTrainer._finish_epoch = measured  # type: ignore[method-assign]


def _child(task: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from nnssl.cli.pretrain import main

        _sabotage(task["plan"])
        _watch(task["plan"])
        sys.argv = ["nnssl_pretrain", *task["arguments"]]
        main()
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:  # what pytest shows of a child is its log
        traceback.print_exc()
    finally:
        if "count" in task["plan"]:
            Path(task["plan"]["count"]).write_text("\n".join([str(events), *seen]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _attend(child: int, kill_after: float | None) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    end = None if kill_after is None else time.monotonic() + kill_after
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            end = None
        time.sleep(0.005)


def _serve() -> None:
    import timm.optim  # noqa: F401

    from nnssl.methods import METHODS, get_method

    for name in METHODS:
        get_method(name)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(task)
        code = _attend(child, task["plan"].get("kill_after"))
        print(json.dumps({"code": code, "seconds": time.monotonic() - begin}), flush=True)


if __name__ == "__main__":
    _serve()
