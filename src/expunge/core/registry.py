"""Plug-ins: decorated functions, one per file, found by scanning packages and entry points.

A plug-in is a function; its name is the name of its file, and its configuration the frozen dataclass
that annotates its ``config`` parameter. A plug-in without options has no such parameter; the registry
makes an empty configuration class for it. Importing a plug-in has no side effect: :func:`plugins` scans
the package of a kind, then the entry points ``expunge.<kind>``.
"""

import difflib
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from expunge.core.errors import RequestError

Function = TypeVar("Function", bound=Callable[..., object])
Config = TypeVar("Config")

_MARK = "__expunge_plugin__"


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in: its package, and the parameters of its functions, in order.

    A function without options has no ``config``. It may also take any of ``extras``, keyword-only parameters that the
    caller provides; each is described by what it is and how to obtain it.
    """

    package: str
    singular: str
    parameters: tuple[str, ...]
    extras: Mapping[str, str] = field(default_factory=dict[str, str])
    own: str = ""
    """The plug-in that the texts ``FILE.py:NAME`` and ``package.module:NAME`` stand for."""


_RECORDED = (
    "the recorded training of the model: train it with `expunge train --record` (in Python: expunge.train_recorded)"
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "methods": Kind(
            "expunge.methods",
            "method",
            ("model", "data", "config", "context"),
            {"trajectory": _RECORDED, "forgotten": "the images that the model has already forgotten"},
        ),
        "metrics": Kind("expunge.metrics", "metric", ("subject", "config", "context")),
        "data": Kind(
            "expunge.data.sources",
            "data source",
            ("config",),
            {"limits": "how many training and test examples to choose before images are read"},
        ),
        "forget_sets": Kind(
            "expunge.data.forget_sets",
            "forget set",
            ("train", "config", "generator"),
            {
                "num_classes": "the number of classes",
                "poisoned": "the ids of the poisoned examples",
                "names": "the names of the examples",
            },
        ),
        "poisons": Kind("expunge.data.poisons", "poison", ("shape", "config")),
        "pruning": Kind("expunge.pruning", "pruner", ("model", "shape", "config", "context")),
        "scores": Kind("expunge.scores", "score", ("model", "data", "config", "context"), {"trajectory": _RECORDED}),
        "models": Kind("expunge.models", "model", ("config", "shape", "num_classes"), own="own"),
        "runs": Kind("expunge.runs", "kind of run", ("config", "parents", "draft", "session")),
    }
)


def _nothing(_: object) -> str:
    return ""


def _never(_: object) -> bool:
    return False


@dataclass(frozen=True)
class Measure:
    """One value that a metric returns: what it is, and how tables and reports show it."""

    title: str
    """Its name in words."""
    better: str = ""
    """``higher``, ``lower``, ``reference`` (best if equal to the retrained model's), or empty: no value is best."""
    name: str = ""
    """The key under which the metric returns it, by default the metric's own name; in a :class:`Plugin`, the full
    name, ``metric`` or ``metric.key``."""
    short: str = ""
    """The heading of its column; by default the title."""
    unit: str = ""
    """The unit, such as ``%``, ``points`` or ``s``; none by default."""
    range: tuple[float | None, float | None] = (None, None)
    """The smallest and largest possible value; None if there is no limit."""
    retrained: float | None = None
    """The value of the retrained model itself, if it is always the same."""
    meaning: str = ""
    """An explanation in one or two sentences for the glossary of a report."""
    column: int | None = None
    """Its position among the columns of the main table; None if it is only in the table of all metrics."""
    decimals: int | None = None
    """Digits after the decimal point; by default three significant digits."""

    def __post_init__(self) -> None:
        """Check the direction."""
        if self.better not in ("higher", "lower", "reference", ""):
            raise ValueError(f"better must be higher, lower, reference or empty, got {self.better!r}")

    @property
    def label(self) -> str:
        """The short name, or the title if there is none."""
        return self.short or self.title

    @property
    def head(self) -> str:
        """The heading of its column with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def compared(self) -> bool:
        """Whether a value is judged by its distance from the retrained model's."""
        return self.better == "reference"

    @property
    def headline(self) -> bool:
        """Whether it is in the main table."""
        return self.column is not None

    @property
    def aim(self) -> str:
        """Which values are good, in words; empty if none is best."""
        if self.better == "reference":
            return "best where it equals that of the retrained model"
        known = "" if self.retrained is None else f"; the retrained model has {self.retrained:g}"
        return f"{self.better} is better{known}" if self.better else known.removeprefix("; ")

    @property
    def limits(self) -> str:
        """The range in words; empty if there are no limits."""
        least, most = self.range
        if least is None or most is None:
            return "" if least is most else f"at least {least:g}" if most is None else f"at most {most:g}"
        return f"from {least:g} to {most:g}"


@dataclass(frozen=True)
class Stage:
    """An expensive part of a method that does not depend on the forget set: computed once per model and stored."""

    make: Callable[..., Mapping[str, object]]
    """``make(model, data, config, generator)``: tensors by name, from all training images and the validation set."""
    fields: tuple[str, ...]
    """The options of the method that it depends on."""

    def only(self, config: object) -> object:
        """Return the configuration with all fields that the stage does not depend on at their defaults."""
        kind = type(config)
        return kind(**{name: getattr(config, name) for name in self.fields})


@dataclass(frozen=True)
class Mark:
    """What a decorator attaches to a plug-in function."""

    kind: str
    aliases: tuple[str, ...] = ()
    reference: str = ""
    measures: tuple[Measure, ...] = ()
    needs: tuple[str, ...] = ()
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    stronger: float = 1.0
    paper: Mapping[str, object] = field(default_factory=dict[str, object])
    reach: float | None = None
    extend: float = 1.0
    roles: tuple[str, ...] = ("forget", "retain")
    stages: Mapping[str, Stage] = field(default_factory=dict[str, Stage])
    validation: Callable[[object], bool] = _never
    trained: bool = True
    model: bool = False
    read: Callable[[Any], object] | None = None
    fixed: Callable[[object], bool] = _never
    label: Callable[[object], str] = _nothing
    words: Callable[[object], str] = _nothing
    scenario: Callable[[object], str] = _nothing
    parents: Callable[[object], Mapping[str, object]] | None = None


@dataclass(frozen=True)
class Plugin:
    """A plug-in: its name, function, configuration class and the arguments of its decorator."""

    name: str
    function: Callable[..., object]
    config: type
    mark: Mark
    summary: str = field(default="")
    has_options: bool = True
    """Whether the function takes a configuration; if not, ``config`` is an empty class made by the registry."""
    extras: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """The keyword-only parameters that it takes, and whether each is required (its type does not include None)."""

    def call(self, *arguments: object, **extras: object) -> object:
        """Call the function with all arguments of its kind in order, and with those of ``extras`` that it takes.

        The configuration is left out if the function does not take one.

        Raises:
            RequestError: A required extra is missing.
        """
        self.check(extras)
        if not self.has_options:
            place = KINDS[self.mark.kind].parameters.index("config")
            arguments = (*arguments[:place], *arguments[place + 1 :])
        return self.function(*arguments, **{name: extras.get(name) for name in self.extras})

    def check(self, extras: Mapping[str, object]) -> None:
        """Raise a RequestError unless all required extras are given."""
        for name, needed in self.extras.items():
            if needed and extras.get(name) is None:
                raise RequestError(f"{self.name} needs {KINDS[self.mark.kind].extras.get(name, name)}")


def method(
    *,
    reference: str,
    aliases: Iterable[str] = (),
    search: Mapping[str, tuple[float, float]] | None = None,
    stronger: float = 5.0,
    paper: Mapping[str, object] | None = None,
    reach: float | None = None,
    extend: float = 1.0,
    roles: Iterable[str] = ("forget", "retain"),
    stages: Mapping[str, Stage] | None = None,
    validation: bool | Callable[[Config], bool] = False,
) -> Callable[[Function], Function]:
    """Mark ``f(model, data, config, context) -> nn.Module`` as an unlearning method.

    It may take keyword-only parameters: ``trajectory``, the recorded training; ``forgotten``, the images forgotten
    before; the content of a run in its configuration, by the name of the field; and its stages, by their names.

    Args:
        reference: The publication to cite.
        aliases: Names of the method in other code bases.
        search: The options that ``expunge tune`` searches, as on the command line (``lr``, ``forget.lr``), each
            with its smallest and largest value; the search is logarithmic.
        stronger: The factor on the first option of ``search`` that makes the method forget more; below 1 for damping.
        paper: Options, as on the command line, that the publication or its code has at other values than the defaults:
            what ``defaults=paper`` means, besides no ``reach``.
        reach: Its default of ``Unlearning.reach``: how far the forget accuracy goes, where there are validation images.
        extend: Its default of ``Unlearning.extend``; 1 for methods that may go too far, but do not fall short.
        roles: The roles that it takes steps for: ``forget``, ``retain``, or both.
        stages: Its parts that do not depend on the forget set, by parameter name.
        validation: Whether it reads the validation images; tables then say so. A function of its configuration where
            that depends on options.
    """
    searched = dict(search or {})
    reads = cast("Callable[[object], bool]", validation if callable(validation) else lambda _: validation)
    return _marker(
        Mark(
            "methods",
            aliases=tuple(aliases),
            reference=reference,
            search=searched,
            stronger=stronger,
            paper=dict(paper or {}),
            reach=reach,
            extend=extend,
            roles=tuple(roles),
            stages=dict(stages or {}),
            validation=reads,
        )
    )


def metric(*measures: Measure, needs: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(subject, config, context) -> dict[str, float]`` as a metric.

    Args:
        measures: A description of each value that it returns.
        needs: Names of the metrics whose values this one reads from the subject.
    """
    if not measures:
        raise ValueError("a metric needs a Measure for each value that it returns")
    return _marker(Mark("metrics", measures=measures, needs=tuple(needs)))


def source(*, aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(config) -> Dataset`` as a data source.

    It may take the keyword-only parameter ``limits`` (``expunge.data.splits.Limits``, or None): it then chooses by
    these before it reads images. The choice is made on the whole Dataset of a source that does not.
    """
    return _marker(Mark("data", aliases=tuple(aliases)))


def forget_set(
    *,
    words: Callable[[Config], str] | None = None,
    fixed: Callable[[Config], bool] | None = None,
    aliases: Iterable[str] = (),
) -> Callable[[Function], Function]:
    """Mark ``f(train, config, generator) -> Tensor`` as a forget set.

    The function returns ids, int64 (n,), in any order. ``train`` contains the training examples that have not been
    forgotten before. It may take keyword-only ``num_classes``, ``poisoned``, the ids of the poisoned examples, and
    ``names``, an :class:`expunge.data.names.Names`.

    Args:
        words: A description of the examples for reports; by default the text of the configuration.
        fixed: Whether the choice is independent of the seed and of earlier deletions (which it leaves out).
        aliases: Further names.
    """
    described = cast("Callable[[object], str]", words or _nothing)
    unchanging = cast("Callable[[object], bool]", fixed or _never)
    return _marker(Mark("forget_sets", aliases=tuple(aliases), words=described, fixed=unchanging))


def poison(*, reference: str, aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(shape, config) -> Change`` as a poison: a change of images of this shape, given their ids.

    Its configuration extends :class:`expunge.data.poisoning.Poison`, or, for a backdoor trigger with a target class,
    :class:`expunge.data.poisoning.Trigger`.
    """
    return _marker(Mark("poisons", aliases=tuple(aliases), reference=reference))


def architecture(*, reference: str = "", aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(config, shape, num_classes) -> nn.Module`` as a model."""
    return _marker(Mark("models", aliases=tuple(aliases), reference=reference))


def score(*, reference: str, aliases: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Mark ``f(model, data, config, context) -> dict[str, Tensor]`` as a score of every training example.

    ``data`` is a :class:`expunge.scores.ScoreData`; each tensor (n,) has one number per training image.
    It may take keyword-only ``trajectory``, the recorded training of the model.

    Args:
        reference: The publication to cite.
        aliases: Names of the score in other code bases.
    """
    return _marker(Mark("scores", aliases=tuple(aliases), reference=reference))


def pruner(*, reference: str, aliases: Iterable[str] = (), trained: bool = True) -> Callable[[Function], Function]:
    """Mark ``f(model, shape, config, context) -> Mask`` as a pruner.

    ``shape`` is that of an image, (channels, height, width). ``context.sparsity`` is the sparsity mask before
    pruning; the new mask must be a subset of it.

    Args:
        reference: The publication to cite.
        aliases: Names of the pruner in other code bases.
        trained: Whether it uses trained weights. With rewinding, a pruner that does not (SynFlow) is given the weights
            of the epoch to rewind to.
    """
    return _marker(Mark("pruning", aliases=tuple(aliases), reference=reference, trained=trained))


def run(
    *,
    label: Callable[[Config], str] | None = None,
    name: Callable[[Config], str] | None = None,
    scenario: Callable[[Config], str] | None = None,
    parents: Callable[[Config], Mapping[str, object]] | None = None,
    model: bool = False,
    read: Callable[[Any], object] | None = None,
) -> Callable[[Function], Function]:
    """Mark ``f(config, parents, draft, session) -> Record`` as a kind of run.

    A run depends on the runs in its configuration (fields annotated ``Choice("runs")``, at any depth); ``parents``
    maps the role of each, which is the name of its field, to its directory.

    Args:
        label: The label of such a run in tables; none by default.
        name: The words in the name of its directory; by default the label and the seed.
        scenario: What distinguishes an evaluation from others of the same method, for tables; nothing by default.
        parents: Computes further runs that it depends on, by role; they may replace those of fields.
        model: Whether it gives a model, which can be unlearned from.
        read: Reads, from its directory, what a method receives that has such a run in its configuration.
    """
    labelled = cast("Callable[[object], str]", label or _nothing)
    words = name or (lambda config: f"{labelled(config)}-s{getattr(config, 'seed', 0)}")
    return _marker(
        Mark(
            "runs",
            model=model,
            read=read,
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
    """Return all plug-ins of a kind by name, in alphabetical order, with those of third-party packages."""
    package = importlib.import_module(KINDS[kind].package)
    found: dict[str, Plugin] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            name = info.name.rstrip("_")  # class_.py: a Python keyword cannot be the name of a module
            found[name] = _plugin(kind, name, _marked(kind, module))
    for entry in entry_points(group=f"expunge.{kind}"):
        if entry.name in found:
            warnings.warn(f"{entry.value}: the {KINDS[kind].singular} {entry.name!r} exists already", stacklevel=2)
            continue
        loaded = _load(kind, entry)
        if loaded is not None:
            found[entry.name] = loaded
    return MappingProxyType(dict(sorted(found.items())))


def _load(kind: str, entry: EntryPoint) -> Plugin | None:
    """Load a third-party plug-in; one that cannot be imported is skipped with a warning."""
    try:
        loaded = entry.load()
        function = _marked(kind, loaded) if isinstance(loaded, ModuleType) else loaded
        return _plugin(kind, entry.name, function)
    except Exception as error:  # noqa: BLE001 - a third-party package may raise anything while it is imported
        warnings.warn(f"the plug-in {entry.value!r} is skipped: {error}", stacklevel=3)
        return None


def _marked(kind: str, module: ModuleType) -> Callable[..., object]:
    marked = [
        value
        for value in vars(module).values()
        if callable(value) and getattr(value, _MARK, None) is not None and value.__module__ == module.__name__
    ]
    if len(marked) != 1:
        raise TypeError(
            f"{module.__name__} must hold exactly one function marked as a {KINDS[kind].singular} by a decorator of "
            f"expunge.core.registry, found {len(marked)}"
        )
    return marked[0]


def _plugin(kind: str, name: str, function: Callable[..., object]) -> Plugin:
    mark: Mark = getattr(function, _MARK)
    parameters = inspect.signature(function).parameters
    positional = tuple(each for each, found in parameters.items() if found.kind is not found.KEYWORD_ONLY)
    all_parameters, has_options = KINDS[kind].parameters, "config" in positional
    hints = get_type_hints(function)
    config = cast("type", hints["config"]) if has_options else _empty_config(name, function)
    if not _is_frozen_dataclass(config):
        raise TypeError(f"{name}: config must be annotated with a frozen dataclass, got {config!r}")
    if kind != "runs" and "name" in {field.name for field in fields(config)}:
        raise TypeError(f"{name}: call the option something other than name, which in JSON is that of the plug-in")
    all_extras = (*KINDS[kind].extras, *mark.stages, *(each.name for each in fields(config)))
    extras = {each: type(None) not in get_args(hints.get(each)) for each in parameters if each not in positional}
    wanted = tuple(each for each in all_parameters if each != "config" or has_options)
    if mark.kind != kind or positional != wanted or not set(extras) <= set(all_extras):
        known = ", ".join(KINDS[kind].extras)
        also = f", and keyword-only any of ({known})" if known else ""
        raise TypeError(
            f"{name}: a {KINDS[kind].singular} takes ({', '.join(all_parameters)}), without config if it has no "
            f"options{also}; got ({', '.join(parameters)})"
        )
    summary = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")
    described = tuple(replace(measure, name=full_name(name, measure.name or name)) for measure in mark.measures)
    return Plugin(name, function, config, replace(mark, measures=described), summary, has_options, extras)


@cache
def _empty_config(name: str, function: Callable[..., object]) -> type:
    """Make the configuration class of a plug-in without options, once per function.

    The class is in no module, so its values are pickled by reference to the function.
    """

    def reduce(_: object) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _empty_value, (name, function)

    title = "".join(word.capitalize() for word in name.split("_"))
    namespace = {"__doc__": "No options.", "__module__": function.__module__, "__reduce__": reduce}
    return make_dataclass(f"{title}Config", [], frozen=True, namespace=namespace)


def _empty_value(name: str, function: Callable[..., object]) -> object:
    return _empty_config(name, function)()


def _is_frozen_dataclass(config: type) -> bool:
    return is_dataclass(config) and bool(getattr(config, "__dataclass_params__", None).frozen)  # pyright: ignore


def find(kind: str, name: str) -> Plugin:
    """Return the plug-in of that name or alias.

    Raises:
        RequestError: There is none; the message suggests similar names.
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
    """Return the plug-in whose configuration this value is."""
    for plugin in plugins(kind).values():
        if type(config) is plugin.config:
            return plugin
    raise RequestError(f"{type(config).__name__} is not the configuration of a {KINDS[kind].singular}")


@cache
def kinds_of_runs() -> Mapping[type, Plugin]:
    """Return the kinds of runs by configuration class."""
    return {plugin.config: plugin for plugin in plugins("runs").values()}


def is_run(value: object) -> bool:
    """Whether a value is the configuration of a run."""
    return type(value) in kinds_of_runs()


def kind_of(value: object) -> str:
    """Return the kind of plug-in whose configuration this value is, or an empty string."""
    if not is_dataclass(value):
        return ""
    known = (kind for kind in KINDS if any(type(value) is plugin.config for plugin in plugins(kind).values()))
    return next(known, "")


def full_name(metric: str, key: str) -> str:
    """Return the full name of a value of a metric: the metric's own name, or ``metric.key``."""
    return metric if key == metric else f"{metric}.{key}"


def measures() -> dict[str, Measure]:
    """Return the description of every value of every metric by full name, in the order of metrics."""
    return {measure.name: measure for plugin in plugins("metrics").values() for measure in plugin.mark.measures}


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with similar names or a list of all."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=3, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
    return f"there is no {what} {name!r}; {cure}"
