"""Another number, or another order, of input channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from nnssl.errors import NnsslError

ChannelMap = Sequence[int | None]
"""For each channel of the target the channel of the file that it shows, or None: the mean of them all."""


def fit_input_channels(weight: torch.Tensor, channels: int, mapping: ChannelMap | None = None) -> torch.Tensor:
    """First convolution for another number of input channels.

    Without a mapping every target channel gets the sum of the file's channels divided by the number of target channels:
    1 -> n repeats and divides by n, 3 -> 1 sums up. Where all channels show the same image the response is what it was.
    With a mapping a target channel gets the weights of the file's channel that it names, divided by the number of
    channels that name the same one: a mapping that only changes the order computes exactly the same.

    Args:
        weight: (out, in, *kernel).
        channels: of the target.
        mapping: see `ChannelMap`.

    Returns:
        (out, channels, *kernel).
    """
    have = weight.shape[1]
    if mapping is None:
        mapping = list(range(channels)) if have == channels else [None] * channels
    if len(mapping) != channels:
        raise NnsslError(f"the channel map names {len(mapping)} channel(s), the target has {channels}")
    wrong = [m for m in mapping if m is not None and not 0 <= m < have]
    if wrong:
        raise NnsslError(f"the channel map names channel {wrong[0]}, the file has {have} (counted from 0)")
    uses = Counter(mapping)
    mean = weight.sum(1) / channels
    return torch.stack([mean if m is None else weight[:, m] / uses[m] for m in mapping], dim=1)


def parse_channel_map(text: str) -> list[int | None]:
    """`"0,0,mean"` -> `[0, 0, None]`."""
    mapping: list[int | None] = []
    for word in text.split(","):
        word = word.strip()
        if word != "mean" and not word.isdecimal():
            raise NnsslError(
                f"channel map '{text}': for each channel of the target give the number of the file's channel that it "
                "shows (from 0) or 'mean', for example 0,mean"
            )
        mapping.append(None if word == "mean" else int(word))
    return mapping


def match_names(file: Sequence[str], target: Sequence[str]) -> list[int | None] | None:
    """A mapping by channel names where the target's are all among the file's; None where names do not decide."""
    known = [name.casefold() for name in file]
    wanted = [name.casefold() for name in target]
    if len(set(known)) < len(known) or not all(name in known for name in wanted):
        return None
    return [known.index(name) for name in wanted]
