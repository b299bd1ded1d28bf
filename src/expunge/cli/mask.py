"""Write update masks: which weights matter most to what is to be forgotten, for several shares from one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from expunge.cli import _console
from expunge.core import config, masks
from expunge.core.errors import RequestError
from expunge.runs import saliency
from expunge.runs.saliency import SaliencyConfig
from expunge.store import execute
from expunge.unlearning.update_masks import UpdateMask, chosen

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge mask`."""

    run: _console.RunPath
    """The run with the model to unlearn from: of `expunge train`, `prune`, `import` or `unlearn`."""
    forget: str
    """What is to be forgotten, as for `expunge unlearn`."""
    forget_seed: int = 0
    """Seed of the choice of a random forget set."""
    score: str = "gradient"
    """How weights are ranked: gradient (SalUn), difference, or ratio (SFRon)."""
    fractions: tuple[float, ...] = TENTHS
    """Shares of the weights that may move; one mask for each."""
    thresholds: tuple[float, ...] = ()
    """Instead: weights whose score is at least this may move; one mask for each."""
    layers: tuple[str, ...] = ()
    """Rank and move only weights with these names, where * matches anything."""
    batch_size: int = 256
    """Examples per gradient."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("masks")
    """Where to write the masks: with_0.5.safetensors, or at_least_1.0.safetensors."""


def run(arguments: Sequence[str]) -> int:
    """Score the weights, or find the scores that exist already, and write the masks."""
    given = _console.parse(Arguments, "mask", __doc__, arguments)
    if given.score == "random":
        raise RequestError("a random mask needs no file: --update-mask.score random, after the method of an unlearning")
    common = {"score": given.score, "layers": given.layers, "batch_size": given.batch_size}
    wanted = {f"at_least_{each}": {"threshold": each} for each in given.thresholds}
    wanted = wanted or {f"with_{each}": {"fraction": each} for each in given.fractions}
    plans = {name: config.from_data(UpdateMask, {**common, **options}) for name, options in wanted.items()}
    plan = next(iter(plans.values()), None)
    if plan is None:
        raise RequestError("give at least one of --fractions or --thresholds")
    store, original = _console.open_original(given.run)
    forget = config.parse("forget_sets", given.forget)
    scored = SaliencyConfig(original, forget, plan.score, plan.batch_size, given.forget_seed)
    with _console.session(given, [scored]) as session:
        directory = execute.run(scored, store, session)
    found = saliency.read(directory)
    given.out.mkdir(parents=True, exist_ok=True)
    paths: list[str] = []
    for name, each in plans.items():
        paths.append(str(given.out / f"{name}.safetensors"))
        masks.save(chosen(found, each), Path(paths[-1]))
    if given.json:
        _console.print_json({"scores": str(directory.path), "masks": paths})
        return 0
    _console.say(f"use one: expunge unlearn --run {given.run} --forget SET METHOD --update-mask.file {paths[0]}")
    print("\n".join(paths))
    return 0
