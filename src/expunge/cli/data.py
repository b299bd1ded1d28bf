"""Check a data set: counts per class, sizes, unreadable files, duplicates, label conflicts, normalisation."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from expunge.cli import _console
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data import check, duplicates
from expunge.data.check import Alike, Findings
from expunge.data.sources.folder import FolderConfig

SHOWN = 10
"""Entries of each list that are printed; JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of `expunge data`."""

    action: Annotated[Literal["check"], tyro.conf.Positional]
    """What to do: check."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """The images: a name or NAME:PATH, see `expunge list data`, or a folder of images."""
    alike: float = duplicates.ALIKE
    """The least correlation, in 16 x 16 grey areas, of images that are listed as near duplicates."""
    json: bool = False
    """Print the result as JSON."""


def run(arguments: Sequence[str]) -> int:
    """Check a data set; what is found is no error."""
    given = _console.parse(Arguments, "data", __doc__, arguments)
    if not 0 < given.alike <= 1:
        raise RequestError(f"alike must be above 0 and at most 1, got {given.alike}")
    folder = Path(given.data).is_dir() and given.data not in registry.plugins("data")
    source = FolderConfig(given.data) if folder else config.parse("data", given.data)
    found = check.check(source, given.alike)
    if given.json:
        _console.print_json(_as_data(found) | {"data": given.data})
    else:
        _print(found)
    return 0


def _as_data(found: Findings) -> dict[str, object]:
    mean, std = found.normalisation or (None, None)
    return {
        "classes": found.classes,
        "classes_without_test_images": _untested(found),
        "sizes": found.sizes,
        "types": found.dtypes,
        "unreadable": found.unreadable,
        "duplicates": [_described(each) for each in found.exact],
        "near_duplicates": [_described(each) | {"similarity": each.similarity} for each in found.near],
        "near_duplicates_complete": found.near_complete,
        "normalisation": {"mean": mean, "std": std},
    }


def _described(group: Alike) -> dict[str, object]:
    members = [dataclasses.asdict(each) for each in group.members]
    return {"images": members, "label_conflict": group.conflict, "train_and_test": group.leak}


def _untested(found: Findings) -> list[str]:
    return [name for name, counts in found.classes.items() if not counts["test"]]


def _print(found: Findings) -> None:
    shown = [*found.classes.items()][: 2 * SHOWN]
    rows = [(name, *(str(counts[split]) for split in ("train", "test"))) for name, counts in shown]
    totals = [sum(counts[split] for counts in found.classes.values()) for split in ("train", "test")]
    _console.print_table("", ("class", "train", "test"), [*rows, ("all", *map(str, totals))])
    if len(shown) < len(found.classes):
        print(f"{len(found.classes) - len(shown)} more classes are not shown: --json prints them")
    if untested := _untested(found):
        share = 100 * len(untested) / len(found.classes)
        print(f"classes without test images: {len(untested)} ({share:.0f}%): {_few(untested)}")
    sizes = ", ".join(f"{count} of {size}" for size, count in [*found.sizes.items()][:SHOWN])
    print(f"images: {sizes}; {' and '.join(found.dtypes)}")
    if len(found.sizes) > 1:
        print(
            "images differ in size or kind: folder:PATH,size=32 makes all as large; grey and colour do not go together"
        )
    print(f"unreadable files: {len(found.unreadable) or 'none'}")
    _print_list([f"{name}: {why}" for name, why in found.unreadable.items()])
    _print_alike("exact duplicates", found.exact, "groups")
    if any(len({each.split for each in group.members}) == 1 for group in found.exact):
        print("  (a duplicate in the retain set defeats forgetting: forget all of a group, or delete all but one)")
    _print_alike("near duplicates", found.near, "pairs" if found.near_complete else "pairs, where the search ended")
    if found.normalisation is None:
        print("normalisation: none, as images differ in their channels")
    elif len(found.normalisation[0]) <= 4:
        mean, std = (",".join(f"{value:.4f}" for value in each) for each in found.normalisation)
        print(f"normalisation of the training images: mean {mean}, std {std}")


def _print_alike(what: str, groups: Sequence[Alike], unit: str) -> None:
    """How many groups of images are alike, how many hold different labels or both splits, and a few."""
    conflicts, leaks = sum(each.conflict for each in groups), sum(each.leak for each in groups)
    count = f"{len(groups)} {unit}, {conflicts} with different labels, {leaks} in training and test set"
    print(f"{what}: {count if groups else 'none'}")
    ranked = sorted(groups, key=lambda each: not (each.conflict or each.leak))
    _print_list(
        [
            f"{_few([f'{each.name} ({each.split}, {each.label})' for each in group.members])}"
            + ("" if group.similarity == 1 else f": {group.similarity:.4f}")
            for group in ranked
        ]
    )


def _print_list(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more: --json prints them")


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")
