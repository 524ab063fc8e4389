"""One channel layout for the whole pool."""

from __future__ import annotations

from nnssl.data.importing.items import Found
from nnssl.errors import NnsslError


def decide_channels(
    given: tuple[str, ...] | None, found: Found, before: tuple[str, ...] | None, notes: list[str]
) -> tuple[str, ...]:
    """Names of the pool's channels.

    Args:
        given: by `--channel`.
        found: the sources' own names, and whether there are images outside datasets (these have one channel).
        before: of the pool that is added to.
        notes: gets a line where names differ.

    Raises:
        NnsslError: numbers of channels differ, or names do and `--channel` does not decide.
    """
    layouts = dict(found.channel_names)
    loose = next((item.where for item in found.items if not item.dataset), None)  # goes into the report
    if loose is not None and given is not None and (len(given) > 1 or layouts):
        layouts[loose] = (given[0],)
    if before is not None:
        layouts["the pool"] = before
    sources = list(layouts)
    for other in sources[1:]:
        if len(layouts[other]) != len(layouts[sources[0]]):
            raise NnsslError(
                f"{_layout(sources[0], layouts)}, {_layout(other, layouts)}: "
                "one pool has one channel layout; import them into two datasets"
            )
    if given is not None and sources and len(given) != len(layouts[sources[0]]):
        raise NnsslError(
            f"--channel names {len(given)} channel(s), but {_layout(sources[0], layouts)}; separate names by commas"
        )
    names = {source: tuple(n.casefold() for n in layout) for source, layout in layouts.items()}
    differ = next((s for s in sources if names[s] != names[sources[0]]), None) if sources else None
    chosen = given or before or (layouts[sources[0]] if sources else ())
    if before is not None and tuple(n.casefold() for n in chosen) != names["the pool"]:
        raise NnsslError(f"--channel {','.join(chosen)}, but the pool's channel is {','.join(before)}")
    if differ is not None:
        if given is None and before is None:
            raise NnsslError(
                f"{_layout(sources[0], layouts)}, {_layout(differ, layouts)}: if these are the same kind of image, "
                f"say what it is with --channel, for example --channel {','.join(layouts[sources[0]])}"
            )
        notes.append(
            f"channel names differ: {_layout(sources[0], layouts)}, {_layout(differ, layouts)}; "
            f"the pool has {','.join(chosen)}"
        )
    elif given is not None and sources and tuple(n.casefold() for n in given) != names[sources[0]]:
        notes.append(f"{_layout(sources[0], layouts)}; the pool has {','.join(given)}, as --channel says")
    return before or tuple("CT" if n.casefold() == "ct" else n for n in chosen)


def _layout(source: str, layouts: dict[str, tuple[str, ...]]) -> str:
    names = layouts[source]
    return f"{source} has {len(names)} channel(s) ({', '.join(names)})"
