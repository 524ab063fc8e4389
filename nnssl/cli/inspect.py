"""`nnssl_inspect`: what a dataset holds and how it is planned, or what a file of weights holds."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli.common import natural, parser, positive_int, run
from nnssl.data.cpus import usable_cpus
from nnssl.data.parallel import one_line
from nnssl.errors import NnsslError, did_you_mean

if TYPE_CHECKING:
    from nnssl.inspect.facts import Facts
    from nnssl.inspect.page import Views

log = logging.getLogger(__name__)

DESCRIPTION = """Show what will be trained on: a summary of a dataset here, and a page with pictures (HTML, one file).

  nnssl_inspect 27                       raw, planned or preprocessed: what there is is shown
  nnssl_inspect 27 -c 2d -m spark        crops of that configuration through that method
  nnssl_inspect RUN/encoder.pth          what a file of weights holds: encoder.pth, nnunet_init.pth, a checkpoint

Of a dataset only the cases that are shown are read. Of a file no code is ever run."""

PAGE = "inspect.html"


def build_parser() -> argparse.ArgumentParser:
    p = parser("nnssl_inspect", DESCRIPTION)
    p.add_argument("what", metavar="DATASET|FILE", help="dataset number or name, or a file of weights")
    dataset = p.add_argument_group("of a dataset")
    dataset.add_argument("-p", metavar="PLANS", help="plans to show (nnsslPlans if not set, else what there is)")
    dataset.add_argument(
        "-c", metavar="CONFIG", help="configuration whose crops are shown (a preprocessed one if not set)"
    )
    dataset.add_argument("-m", default="masked_region", metavar="METHOD", help="method whose views are shown")
    dataset.add_argument("-o", type=Path, metavar="FILE.html", help=f"page to write (the preprocessed folder's {PAGE})")
    dataset.add_argument("--no-html", action="store_true", help="summary only")
    dataset.add_argument("--cases", type=natural, default=60, metavar="N", help="about how many cases to show")
    dataset.add_argument(
        "-np", type=positive_int, default=min(4, usable_cpus()), metavar="N", help="worker processes, one image in each"
    )
    p.add_argument("--keys", action="store_true", help="of a file: list every tensor with its shape")
    p.add_argument("--verify", action="store_true", help="of a file: recompute digests and check what can be checked")
    return p


def main_with(a: argparse.Namespace) -> None:
    from nnssl.inspect.facts import is_dataset

    if is_dataset(a.what):
        for flag, given in (("--keys", a.keys), ("--verify", a.verify)):
            if given:
                raise NnsslError(f"{flag} is about a file of weights; {a.what} is a dataset")
        _dataset(a)
        return
    from nnssl.transfer.describe import describe_file
    from nnssl.transfer.reading import find_source
    from nnssl.transfer.verify import verify_file

    path = find_source(a.what)
    for line in describe_file(path, a.keys):
        print(line)
    for line in verify_file(path) if a.verify else ():
        print(line)


def _dataset(a: argparse.Namespace) -> None:
    from nnssl.inspect.facts import collect, preprocessed_folder
    from nnssl.inspect.summary import summary
    from nnssl.methods import get_method

    get_method(a.m)  # an unknown one is an error before any work
    facts = collect(a.what, a.p, a.np)
    known = [c.name for c in facts.plan.configurations] if facts.plan else []
    if a.c and facts.plan and a.c not in known:
        raise NnsslError(
            f"configuration '{a.c}' is not in {facts.plan.name} of {facts.name}.{did_you_mean(a.c, known)} "
            f"There are: {', '.join(known)}"
        )
    for line in summary(facts):
        print(line)
    if a.no_html:
        return
    from nnssl.inspect.page import draw_cards, write_page

    target = a.o or (preprocessed_folder(facts.name) or Path()) / PAGE
    _check_target(target)
    write_page(target, facts, draw_cards(facts, a.cases, a.np), _views(facts, a))
    print(f"wrote {target}")


def _check_target(target: Path) -> None:
    """Say so before the work, not after it."""
    if target.is_dir():
        raise NnsslError(f"-o {target} is a folder: name a file, for example {target / PAGE}")
    parents = [p for p in target.absolute().parents if p.exists()]
    if not parents[0].is_dir() or not os.access(parents[0], os.W_OK):
        raise NnsslError(f"{target} cannot be written: {parents[0]} is no folder, or read-only; name another with -o")


def _views(facts: Facts, a: argparse.Namespace) -> Views:
    """Crops and views of a preprocessed configuration, or why there are none."""
    from nnssl.inspect.page import Views, default_configuration

    plan = facts.plan
    configuration = None
    if plan:
        configuration = plan.configuration(a.c) if a.c else default_configuration(plan.configurations)
    if plan is None or configuration is None or not configuration.cases:
        name = configuration.name if configuration else a.c
        command = f"nnssl_plan_and_preprocess -d {facts.number}{f' -c {name}' if name else ''}"
        named = f" -p {plan.name}" if plan and plan.name != "nnsslPlans" else ""
        what = f"{configuration.name} is" if configuration and a.c else "The dataset is"
        return Views(reason=f"{what} not preprocessed yet, so there are no crops to show: {command}{named}")
    from nnssl.inspect.crops import draw_views

    log.info("drawing crops of %s through %s", configuration.name, a.m)
    try:
        return Views(configuration.name, a.m, draw_views(facts.name, configuration.name, a.m, plan.name))
    except Exception as error:
        # Stale data, a method that cannot work on them, a network that does not fit into memory: the rest of the page
        # still stands, and nnssl_pretrain --dry-run would say the same.
        if a.debug and not isinstance(error, NnsslError):
            raise
        what = str(error) if isinstance(error, NnsslError) else one_line(error)
        return Views(reason=f"{configuration.name} through {a.m}: {what}")


def main() -> None:
    os.environ.setdefault("MPLBACKEND", "agg")
    run(main_with, build_parser().parse_args())


if __name__ == "__main__":
    main()
