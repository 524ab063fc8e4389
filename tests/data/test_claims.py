"""Claims: one owner at a time whatever happens, and a dead owner's piece is taken over once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnssl.data import claims
from nnssl.data.claims import claim, is_claimed, turn

FORK = multiprocessing.get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def make_stale(lock: Path) -> None:
    old = time.time() - claims.DEAD_AFTER_SECONDS - 1
    os.utime(lock, (old, old))


def worker(folder: str, pieces: int, queue: Any, slow: float) -> None:
    """Take every piece that is not done; `done` is written under the claim, as the callers of claims do."""
    for i in range(pieces):
        with claim(Path(folder) / "claims" / f"p{i}") as mine:
            done = Path(folder) / f"p{i}"
            if mine and not done.exists():
                queue.put((i, os.getpid()))
                time.sleep(slow)
                done.touch()


def test_three_processes_and_a_kill_do_every_piece_once(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    pieces, queue = 12, FORK.Queue()
    team = [FORK.Process(target=worker, args=(str(tmp_path), pieces, queue, 0.05)) for _ in range(3)]
    for process in team:
        process.start()
    begun = [queue.get(timeout=60)]
    victim = next(p for p in team if p.pid == begun[0][1])
    os.kill(victim.pid, signal.SIGKILL)  # in the middle of its first piece, or just behind it
    for process in team:
        process.join(60)
    worker(str(tmp_path), pieces, queue, 0.0)  # the next call
    time.sleep(0.1)
    while not queue.empty():
        begun.append(queue.get())
    assert all((tmp_path / f"p{i}").exists() for i in range(pieces))
    of_others = [i for i, pid in begun if pid != victim.pid]
    assert len(of_others) == len(set(of_others)), "a piece was done twice by living processes"
    assert names(tmp_path / "claims") == []


def late(lock: str, queue: Any, go: Any, leave: Any) -> None:
    go.wait(60)
    with claim(Path(lock)) as mine:
        queue.put(bool(mine))
        leave.wait(60)


@pytest.mark.parametrize("content", ["", "elsewhere 1 2 3 4\n"], ids=["empty", "whole"])
def test_a_dead_claim_is_taken_over_whatever_a_full_disk_left_of_it(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "lock"
    lock.write_text(content)
    with claim(lock) as mine:
        assert not mine, "its owner may be about to write its name"
    make_stale(lock)
    with claim(lock) as mine:
        assert mine
    assert names(tmp_path) == []


@pytest.mark.parametrize("round_", range(3))
def test_of_many_that_see_a_dead_owner_one_takes_over(tmp_path: Path, round_: int) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 1 2 3 4\n")
    make_stale(lock)
    queue, go, leave = FORK.Queue(), FORK.Event(), FORK.Event()
    rivals = [FORK.Process(target=late, args=(str(lock), queue, go, leave)) for _ in range(6)]
    for process in rivals:
        process.start()
    go.set()
    got = [queue.get(timeout=60) for _ in rivals]
    leave.set()
    for process in rivals:
        process.join()
    assert sum(got) == 1
    assert names(tmp_path) == [], "the winner takes the dead owner's claim away with its own"


def test_a_slow_rival_does_not_take_a_fresh_claim_for_the_dead_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the dead claim, another took over, and only then it acts."""
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 1 2 3 4\n")
    make_stale(lock)
    alive = claims._alive

    def seen_before_the_other(path: Path) -> bool:
        monkeypatch.setattr(claims, "_alive", alive)
        found = alive(path)
        other.__enter__()
        return found

    other = claim(lock)
    monkeypatch.setattr(claims, "_alive", seen_before_the_other)
    with claim(lock) as mine:
        assert not mine
        assert is_claimed(lock)
    other.__exit__(None, None, None)
    assert not is_claimed(lock)


def before_a_claim_is_made(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """What others do between the moment when a process has looked and the moment when it makes its claim."""
    make = claims._make

    def late(path: Path) -> bool:
        monkeypatch.setattr(claims, "_make", make)
        happens()
        return make(path)

    monkeypatch.setattr(claims, "_make", late)


def test_a_piece_that_was_given_back_meanwhile_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One looks and sees the dead owner; an heir comes and gives back; a rival begins the numbers anew; the first acts."""
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 1 2 3 4\n")
    make_stale(lock)
    rival = claim(lock)

    def others() -> None:
        with claim(lock) as heir:
            assert heir.path == tmp_path / "lock.1"
        assert names(tmp_path) == []
        assert rival.__enter__().path == lock

    before_a_claim_is_made(monkeypatch, others)
    with claim(lock) as mine:
        assert not mine, "the rival has it"
        assert names(tmp_path) == ["lock"], "and nothing stands in its way"
    rival.__exit__(None, None, None)
    assert names(tmp_path) == []


def test_who_saw_nothing_does_not_begin_the_numbers_anew_beside_an_heir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked before anybody came; meanwhile one came, died, and its heir is in the middle of giving back."""
    lock = tmp_path / "lock"
    before_a_claim_is_made(monkeypatch, lambda: (tmp_path / "lock.1").write_text(f"{claims.owner()} x\n") and None)
    with claim(lock) as mine:
        assert not mine
        assert names(tmp_path) == ["lock.1"]


def test_a_claim_that_its_maker_takes_back_is_no_takeover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, passing = tmp_path / "lock", tmp_path / "lock.1"

    class Pauses:
        """Of the beating thread: in the first the other claim comes, in the short one after it it goes."""

        beats = 0

        def wait(self, seconds: float) -> bool:
            if seconds == claims.BEAT_SECONDS:
                self.beats += 1
                passing.write_text("elsewhere 1 2 3 4\n")
            else:
                passing.unlink()
            return self.beats == 3

    with claim(lock) as mine:
        claims._beat(mine, lock, Pauses())  # type: ignore[arg-type]
        assert mine
        assert passing.exists()
        monkeypatch.setattr(claims.time, "sleep", lambda _: passing.unlink())
    assert names(tmp_path) == [], "it was given back all the same"


def test_an_owner_that_was_taken_for_dead_learns_it_and_leaves_the_new_claim_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "owner", lambda: "elsewhere 1 2 3")  # its process cannot be looked for
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.5)
    told: list[str] = []
    lock = tmp_path / "lock"
    with claim(lock, lambda: told.append("lost")) as sleeper:
        make_stale(lock)  # as after a suspension
        with claim(lock) as heir:
            assert heir
            for _ in range(200):
                if told:
                    break
                time.sleep(0.05)
            assert told == ["lost"]
            assert not sleeper
    assert not is_claimed(lock)


def test_a_process_number_that_was_given_out_anew_is_not_the_owner(tmp_path: Path) -> None:
    words = claims.owner().split()
    (tmp_path / "mine").write_text(" ".join(words) + " x\n")
    assert is_claimed(tmp_path / "mine")
    if words[2] == "-":
        pytest.skip("this system does not tell when a process began")
    (tmp_path / "other").write_text(" ".join([*words[:2], "1", words[3], "x"]) + "\n")
    assert not is_claimed(tmp_path / "other")


def test_a_container_of_the_same_name_is_judged_by_its_beat_alone(tmp_path: Path) -> None:
    """Its process numbers mean nothing here."""
    lock = tmp_path / "lock"
    lock.write_text(f"{socket.gethostname()} 999999999 5 another-system x\n")
    assert is_claimed(lock)
    make_stale(lock)
    assert not is_claimed(lock)


def test_a_clock_that_goes_wrong_does_not_kill_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    lock.write_text("elsewhere 1 2 3 4\n")
    now = time.time()
    monkeypatch.setattr(claims.time, "time", lambda: now + 3600)
    assert is_claimed(lock)


def test_where_hard_links_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(claims.os, "link", refuse)
    with claim(tmp_path / "lock") as mine, claim(tmp_path / "lock") as theirs:
        assert mine
        assert not theirs
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []


def one_after_another(lock: str, log: str) -> None:
    with turn(Path(lock)), Path(log).open("a") as file:
        file.write("in ")
        file.flush()
        time.sleep(0.05)
        file.write("out ")


def test_turns_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.02)
    arguments = (str(tmp_path / "lock"), str(tmp_path / "log"))
    team = [FORK.Process(target=one_after_another, args=arguments) for _ in range(3)]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
    assert (tmp_path / "log").read_text() == "in out " * 3


def test_names_with_brackets_are_no_patterns(tmp_path: Path) -> None:
    for _ in range(2):  # a claim that was left behind could not be seen either
        with claim(tmp_path / "t[1]") as mine, claim(tmp_path / "t1") as other:
            assert mine and other
            assert is_claimed(tmp_path / "t[1]")
        assert names(tmp_path) == []


def test_a_claim_in_a_folder_that_is_gone_is_nobodys(tmp_path: Path) -> None:
    assert not is_claimed(tmp_path / "gone" / "lock")
