"""Plug-ins: marked functions in files of their own, found by scanning and by entry points.

A plug-in is a function; its name is the name of its file, its configuration is the frozen dataclass
that annotates its ``config`` parameter. Nothing is entered in a list: importing has no side effect,
and :func:`plugins` scans the package of a kind, then the entry points ``expunge.<kind>``.
"""

import difflib
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import TypeVar, cast, get_type_hints

from expunge.core.errors import RequestError

Function = TypeVar("Function", bound=Callable[..., object])
Config = TypeVar("Config")

_MARK = "__expunge_plugin__"


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in: where its files are and which parameters its functions take, in order."""

    package: str
    singular: str
    parameters: tuple[str, ...]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "methods": Kind("expunge.methods", "method", ("model", "data", "config", "context")),
        "metrics": Kind("expunge.metrics", "metric", ("subject", "config", "context")),
        "data": Kind("expunge.data.sources", "data source", ("config",)),
        "pruning": Kind("expunge.pruning", "pruner", ("model", "shape", "config", "context")),
        "scores": Kind("expunge.scores", "score", ("model", "data", "config", "context")),
        "models": Kind("expunge.models", "model", ("config", "shape", "num_classes")),
        "runs": Kind("expunge.runs", "kind of run", ("config", "parents", "draft", "session")),
    }
)


def _nothing(_: object) -> str:
    return ""


@dataclass(frozen=True)
class Mark:
    """What a decorator leaves on a plug-in function."""

    kind: str
    aliases: tuple[str, ...] = ()
    reference: str = ""
    better: str = ""
    needs: tuple[str, ...] = ()
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    roles: tuple[str, ...] = ("forget", "retain")
    trained: bool = True
    trajectory: bool = False
    model: bool = False
    label: Callable[[object], str] = _nothing
    words: Callable[[object], str] = _nothing
    scenario: Callable[[object], str] = _nothing
    parents: Callable[[object], Mapping[str, object]] | None = None


@dataclass(frozen=True)
class Plugin:
    """A plug-in as found: its name, function, configuration class and what its decorator said."""

    name: str
    function: Callable[..., object]
    config: type
    mark: Mark
    summary: str = field(default="")


def method(
    *,
    reference: str,
    aliases: Iterable[str] = (),
    search: Mapping[str, tuple[float, float]] | None = None,
    roles: Iterable[str] = ("forget", "retain"),
    trajectory: bool = False,
) -> Callable[[Function], Function]:
    """Mark ``f(model, data, config, context) -> nn.Module`` as an unlearning method.

    Args:
        reference: Where the method was published, as it should be cited.
        aliases: Names that other code bases give to the same method.
        search: The options that ``expunge tune`` searches, as on the command line (``lr``, ``forget.lr``), each
            with its least and largest value; the search is even in the logarithm.
        roles: The roles that it steps on: ``forget``, ``retain``, or both.
        trajectory: Whether it needs the recorded training of the model (``context.trajectory``).
    """
    searched = dict(search or {})
    mark = Mark("methods", tuple(aliases), reference, search=searched, roles=tuple(roles), trajectory=trajectory)
    return _marker(mark)


def metric(*, better: str, needs: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(subject, config, context) -> dict[str, float]`` as a metric.

    Args:
        better: ``"higher"``, ``"lower"`` or ``"reference"`` (best where it equals the retrained model's).
        needs: Names of the metrics whose values this one reads from the subject.
    """
    if better not in ("higher", "lower", "reference"):
        raise ValueError(f"better must be higher, lower or reference, got {better!r}")
    return _marker(Mark("metrics", better=better, needs=tuple(needs)))


def source(*, aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(config) -> Dataset`` as a data source."""
    return _marker(Mark("data", aliases=tuple(aliases)))


def architecture(*, reference: str = "", aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(config, shape, num_classes) -> nn.Module`` as a model."""
    return _marker(Mark("models", aliases=tuple(aliases), reference=reference))


def score(*, reference: str, aliases: Iterable[str] = (), trajectory: bool = False) -> Callable[[Function], Function]:
    """Mark ``f(model, data, config, context) -> dict[str, Tensor]`` as a score of every training example.

    ``data`` is a :class:`expunge.scores.ScoreData`; each tensor (n,) has a number for each of its training images.

    Args:
        reference: Where it was published, as it should be cited.
        aliases: Names that other code bases give to it.
        trajectory: Whether it needs the recorded training of the model (``context.trajectory``).
    """
    return _marker(Mark("scores", aliases=tuple(aliases), reference=reference, trajectory=trajectory))


def pruner(*, reference: str, aliases: Iterable[str] = (), trained: bool = True) -> Callable[[Function], Function]:
    """Mark ``f(model, shape, config, context) -> Mask`` as a way to prune a model.

    ``shape`` is that of an image, (channels, height, width). ``context.sparsity`` says which weights are left
    before: the new mask lies within it.

    Args:
        reference: Where it was published, as it should be cited.
        aliases: Names that other code bases give to it.
        trained: Whether it looks at trained weights. Where they go back to an earlier epoch, a pruner that does not
            is shown those of that epoch: SynFlow prunes at initialisation.
    """
    return _marker(Mark("pruning", aliases=tuple(aliases), reference=reference, trained=trained))


def run(
    *,
    label: Callable[[Config], str] | None = None,
    name: Callable[[Config], str] | None = None,
    scenario: Callable[[Config], str] | None = None,
    parents: Callable[[Config], Mapping[str, object]] | None = None,
    model: bool = False,
) -> Callable[[Function], Function]:
    """Mark ``f(config, parents, draft, session) -> Record`` as a kind of run.

    The runs that it depends on are those in the fields of its configuration (annotated ``Choice("runs")``) and in
    what these hold; ``parents`` maps the role of each, the name of its field, to its directory.

    Args:
        label: The word for such a run in tables; none by default.
        name: The words in the name of its directory; by default the label and the seed.
        scenario: What sets an evaluation apart from others of the same method, for tables; nothing by default.
        parents: Further runs that it depends on, by role, which the kind computes; they may replace those of fields.
        model: Whether it gives a model: whatever does can be unlearned from.
    """
    labelled = cast("Callable[[object], str]", label or _nothing)
    words = name or (lambda config: f"{labelled(config)}-s{getattr(config, 'seed', 0)}")
    return _marker(
        Mark(
            "runs",
            model=model,
            label=labelled,
            words=cast("Callable[[object], str]", words),
            scenario=cast("Callable[[object], str]", scenario or _nothing),
            parents=cast("Callable[[object], Mapping[str, object]] | None", parents),
        )
    )


def _marker(mark: Mark) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        setattr(function, _MARK, mark)
        return function

    return decorate


@cache
def plugins(kind: str) -> Mapping[str, Plugin]:
    """All plug-ins of a kind by name, in alphabetical order; those of other packages by entry point."""
    package = importlib.import_module(KINDS[kind].package)
    found: dict[str, Plugin] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            found[info.name] = _plugin(kind, info.name, _marked(kind, module))
    for entry in entry_points(group=f"expunge.{kind}"):
        if entry.name in found:
            warnings.warn(f"{entry.value}: the {KINDS[kind].singular} {entry.name!r} exists already", stacklevel=2)
            continue
        loaded = _load(kind, entry)
        if loaded is not None:
            found[entry.name] = loaded
    return MappingProxyType(dict(sorted(found.items())))


def _load(kind: str, entry: EntryPoint) -> Plugin | None:
    """A third party's plug-in; one that does not import is left out with a warning, not fatal."""
    try:
        loaded = entry.load()
        function = _marked(kind, loaded) if isinstance(loaded, ModuleType) else loaded
        return _plugin(kind, entry.name, function)
    except Exception as error:  # noqa: BLE001 - a third-party package may raise anything while it is imported
        warnings.warn(f"the plug-in {entry.value!r} is left out: {error}", stacklevel=3)
        return None


def _marked(kind: str, module: ModuleType) -> Callable[..., object]:
    marked = [
        value
        for value in vars(module).values()
        if callable(value) and getattr(value, _MARK, None) is not None and value.__module__ == module.__name__
    ]
    if len(marked) != 1:
        decorator = KINDS[kind].singular.split()[-1]
        raise TypeError(f"{module.__name__} must hold exactly one function marked @{decorator}, found {len(marked)}")
    return marked[0]


def _plugin(kind: str, name: str, function: Callable[..., object]) -> Plugin:
    mark: Mark = getattr(function, _MARK)
    parameters = tuple(inspect.signature(function).parameters)
    if mark.kind != kind or parameters != KINDS[kind].parameters:
        wanted = ", ".join(KINDS[kind].parameters)
        raise TypeError(f"{name}: a {KINDS[kind].singular} takes ({wanted}), got ({', '.join(parameters)})")
    config = cast("type", get_type_hints(function)["config"])
    if not _is_frozen_dataclass(config):
        raise TypeError(f"{name}: config must be annotated with a frozen dataclass, got {config!r}")
    summary = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")
    return Plugin(name, function, config, mark, summary)


def _is_frozen_dataclass(config: type) -> bool:
    return is_dataclass(config) and bool(getattr(config, "__dataclass_params__", None).frozen)  # pyright: ignore


def find(kind: str, name: str) -> Plugin:
    """The plug-in of that name or alias.

    Raises:
        RequestError: There is none; the message gives the nearest names.
    """
    known = plugins(kind)
    wanted = name.replace("-", "_")
    if wanted in known:
        return known[wanted]
    for plugin in known.values():
        if name in plugin.mark.aliases or wanted in plugin.mark.aliases:
            return plugin
    raise RequestError(unknown(KINDS[kind].singular, name, known))


def of_config(kind: str, config: object) -> Plugin:
    """The plug-in whose configuration class this value has: a configuration names its plug-in."""
    for plugin in plugins(kind).values():
        if type(config) is plugin.config:
            return plugin
    raise RequestError(f"{type(config).__name__} is the configuration of no {KINDS[kind].singular}")


@cache
def kinds_of_runs() -> Mapping[type, Plugin]:
    """The kinds of runs by the class of their configuration."""
    return {plugin.config: plugin for plugin in plugins("runs").values()}


def is_run(value: object) -> bool:
    """Whether a value is the configuration of a run."""
    return type(value) in kinds_of_runs()


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest ones, or all."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=3, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
    return f"there is no {what} {name!r}; {cure}"
