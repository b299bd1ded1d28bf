"""Make a trained model forget examples, by any method, and print the folder of the new run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from expunge.cli import _console, _plugin
from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.methods.retrain import RetrainConfig
from expunge.runs.unlearn import UnlearnConfig, retraining
from expunge.store import execute
from expunge.store.directory import Store
from expunge.store.examples import duplicate_words, forgotten_words
from expunge.training.precision import RequestedPrecision, chosen
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.update_masks import UpdateMask


@dataclass(frozen=True, kw_only=True)
class Arguments(_console.Common):
    """Options of `expunge unlearn`."""

    run: _console.RunPath
    """The run with the model to unlearn from: of `expunge train`, `prune`, `import`, or `unlearn`."""
    forget: str
    """What to forget: random:4500, random:10%, class:3, class:3+5,count=50, ids:FILE (an id or path a line),
    ids:FILE.csv,column=photo, group:FILE.csv,column=person,people=anna+ben, poisoned; `expunge list forget-sets`."""
    forget_seed: int = 0
    """Seed of the choice of a random forget set."""
    withhold: str | None = None
    """Examples that this step neither forgets nor retains, such as those to be forgotten later; written likewise."""
    seed: int = 0
    """Seed of the unlearning: batches, augmentation, random labels."""
    precision: RequestedPrecision = "auto"
    """Of the forward passes: float32, bfloat16, or mixed, which is bfloat16 in networks that gain from it; auto takes
    mixed where this machine is faster in bfloat16, and float32 elsewhere."""


def run(arguments: Sequence[str]) -> int:
    """Unlearn, or find the run that exists already."""
    if {"-h", "--help"} & set(arguments):
        return _help([word for word in arguments if word not in ("-h", "--help")])
    given, words = _plugin.parse(Arguments, "unlearn", _description(), arguments)
    word, options = _plugin.named(words, _names(), "method")
    name = presets.canonical(word)
    if name not in (word, word.replace("-", "_")):
        _console.say(f"{word} is called {name} here")
    store, original = _console.open_original(given.run)
    default, text = presets.named(name), name
    if isinstance(default.method, RetrainConfig):  # it repeats the training of the original, but for what is said
        default, text = retraining(original.training), presets.PRESETS[name].method if name in presets.PRESETS else name
    unlearning = presets.named(text, _with_runs(default.method, options, store), default)
    withhold = None if given.withhold is None else config.parse("forget_sets", given.withhold)
    forget = config.parse("forget_sets", given.forget)
    precision = chosen(given.precision, _console.device(given.device))
    wanted = UnlearnConfig(original, forget, unlearning, given.forget_seed, precision, given.seed, withhold)
    with _console.session(given, [wanted]) as session:
        directory = execute.run(wanted, store, session)
    _console.say_strength(name, directory)
    if twice := duplicate_words(directory, given.forget):
        _console.say(escape(f"warning: {twice}"))
    notes = directory.record().get("notes")
    if not given.quiet and isinstance(notes, dict) and "weight_decay" in notes:
        _console.say(
            f"weight decay {notes['weight_decay']}, as in the training of the original (--weight-decay sets it)"
        )
    if not given.json:
        _console.say(forgotten_words(directory))
    _console.report_run(directory, given, "evaluate: expunge evaluate --run RUN --reference RETRAINED")
    return 0


def _names() -> dict[str, str]:
    """The methods and presets by name and alias, each with its summary."""
    methods = registry.plugins("methods").values()
    names = {
        word: f"preset: {preset.summary}"
        for name, preset in presets.PRESETS.items()
        for word in (name, *preset.aliases)
    }
    names |= {name: plugin.summary for plugin in methods for name in plugin.mark.aliases}
    return names | {plugin.name: plugin.summary for plugin in methods}


def _description() -> str:
    """The first line of this file, how options are written, and the methods."""
    names = sorted({presets.canonical(name) for name in _names()})
    return (
        f"{__doc__}\n\nusage: expunge unlearn --run RUN --forget SET METHOD [options of the method]\n\n"
        f"methods: {', '.join(name.replace('_', '-') for name in names)}; "
        "`expunge unlearn METHOD --help` shows the options of one"
    )


def _help(words: Sequence[str]) -> int:
    """Print the options of the command, or those of the method that is named."""
    known = {name.replace("-", "_") for name in _names()}
    word = next((each for each in words if each.replace("-", "_") in known), None)
    if word is None:
        _plugin.parse(Arguments, "unlearn", _description(), ["--help"])
        return 0
    name = presets.canonical(word)
    default = presets.named(name)
    groups: dict[str, tuple[str, object]] = {f"options of {name}": ("", default.method)}
    for role, rule in presets.rules(default).items():
        title = f"update rule of {role} steps" if role else "update rule; --forget.lr, --retain.lr, ... set one role's"
        groups[title] = (role and f"{role}.", rule)
    groups["update mask, which weights may move"] = ("update-mask.", default.update_mask or UpdateMask(fraction=0.5))
    groups["low-rank adapters, trained in place of the weights"] = ("adapters.", default.adapters or LowRank())
    shown = name.replace("_", "-")
    further = (
        "--defaults paper: the values of the publication or its code for what is not given. "
        f"--reach SHARE (default: {config.written(default.reach)}), --extend FACTOR (default: {default.extend:g}): "
        "scale the change until the accuracy on the forget set has gone this share of the way to that on unseen "
        "images, estimated on validation images; none leaves it as it is."
    )
    summary = f"{_names()[name]}\n\n{further}"
    _plugin.print_options(f"expunge unlearn --run RUN --forget SET {shown} [options]", summary, groups)
    return 0


def _with_runs(method: object, options: Mapping[str, object], store: Store) -> dict[str, object]:
    """Replace folders of runs, or their names in this store, by the runs."""
    fields = config.run_fields(type(method))
    found = dict(options)
    for field in fields.keys() & found.keys():
        folder = Path(str(found[field]))
        try:
            found[field] = _console.open_run(
                folder if folder.exists() else store.root / folder, (object,), fields[field]
            )[1]
        except RequestError as error:
            raise RequestError(f"--{field}: {error}") from None
    return found
