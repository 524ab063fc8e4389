"""How far values of a file lie in one another, and how many they are to one who follows every reference."""

from __future__ import annotations

from typing import Any

DEEPEST = 200
"""Dictionaries and lists in one another; files of ours have ten. Python itself gives up below a thousand."""
ENDLESS = 2**62

_HOLDERS = (list, tuple, dict, set, frozenset)


def depth_of_tree(value: Any) -> int:
    """How deep dictionaries and lists lie in one another, where nothing is there twice, as in JSON; at most one too deep."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        level = [c for v in level for c in _inside(v) if isinstance(c, _HOLDERS)]
        depth += 1
    return depth


def extent(value: Any) -> tuple[int, int]:
    """Number of values, and how deep, for one who follows every reference, as a copy or a text does.

    In YAML and pickle a list may be in another many times, which costs nothing until it is written out: thirty lists of ten
    references are 10^30 values.

    Args:
        value: of lists, dictionaries, and objects that name what they hold as `inside`.

    Returns:
        Both; `ENDLESS` and one more than `DEEPEST` where something holds itself.
    """
    known: dict[int, tuple[int, int]] = {}
    opened: set[int] = set()
    stack = [value]
    while stack:
        at = stack[-1]
        within = [] if id(at) in known else _inside(at)
        if id(at) in known:
            stack.pop()
        elif id(at) in opened:
            found = [known.get(id(c), (1, 0)) for c in within]
            known[id(at)] = min(1 + sum(n for n, _ in found), ENDLESS), 1 + max((d for _, d in found), default=0)
            stack.pop()
        else:
            opened.add(id(at))
            holders = [c for c in within if isinstance(c, _HOLDERS) or hasattr(c, "inside")]
            if any(id(c) in opened and id(c) not in known for c in holders):
                return ENDLESS, DEEPEST + 1
            stack += [c for c in holders if id(c) not in known]
    return known[id(value)]


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, _HOLDERS) else getattr(value, "inside", [])
