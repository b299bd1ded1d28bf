"""Checks of all runs of a store: their digests, their configurations, and the runs they depend on.

All of it is read from the files alone: a consistent forgery of every run is not found, which would take a signature.
"""

from collections.abc import Mapping
from typing import cast

from expunge.core import config
from expunge.core.errors import RequestError
from expunge.store import digests
from expunge.store.digests import RECORD
from expunge.store.directory import Record, RunDirectory, Store, read_json


def runs(store: Store) -> list[RunDirectory]:
    """Return the folders of a store with a run, or with a part of one, by name."""
    found = {path.parent for name in (RECORD, "config.json") for path in store.root.glob(f"*/{name}")}
    return [RunDirectory(path) for path in sorted(found) if not path.name.startswith(".")]


def unfinished(store: Store) -> list[str]:
    """Return the folders of runs that were interrupted, or are being made: drafts and incomplete vectors."""
    return sorted(path.name for sign in ("draft", "partial") for path in store.root.glob(f".{sign}-*"))


def problems(directory: RunDirectory) -> list[str]:
    """Return what is wrong with one run; nothing if all is well.

    Cost: every byte of it is read, about a second for 1.5 GB.
    """
    try:
        record = directory.written()
    except RequestError as error:
        return [str(error)]
    parts = (_record, _files, _configuration, _parents)
    return [problem for part in parts for problem in part(directory, record)]


def _record(directory: RunDirectory, record: Record) -> list[str]:
    """Whether ``run.json`` is as it was written, and of this run."""
    found: list[str] = []
    if digests.of_record(record) != record.get(digests.OWN):
        found.append(f"{directory.path / RECORD} is not as the run wrote it (its SHA-256 is another): {directory.cure}")
    if record.get("id") != directory.id:
        found.append(f"{directory.path / RECORD} is of the run {record.get('id')}: {directory.cure}")
    return found


def _files(directory: RunDirectory, record: Record) -> list[str]:
    """Whether each file is as it was written, and no other lies beside it."""
    declared = _mapping(record.get(digests.FILES))
    found: list[str] = []
    for name, digest in declared.items():
        try:
            digests.check(directory.path / name, digest, directory.cure)
        except RequestError as error:
            found.append(str(error))
    others = sorted({path.name for path in directory.path.iterdir()} - {*declared, RECORD})
    return found + [f"{directory.path / name} is no file of the run: move it to another place" for name in others]


def _configuration(directory: RunDirectory, _: Record) -> list[str]:
    """Whether the configuration, in which parents are named by their digests, has the digest that names the run."""
    try:
        digest = config.digest_data(read_json(directory.path / "config.json"))
    except RequestError:
        return []  # the file is missing, or has another digest, too
    if directory.id.endswith(f"-{digest[:12]}"):
        return []
    return [f"{directory.path} has the configuration of another run, {digest[:12]}: {directory.cure}"]


def _parents(directory: RunDirectory, record: Record) -> list[str]:
    """Whether the runs it depends on are there, with the files that it was made from."""
    store, inputs, found = Store(directory.path.parent), _mapping(record.get("inputs")), list[str]()
    for role, name in _mapping(record.get("parents")).items():
        try:
            parent = store.directory(str(name))
            if not parent.exists:
                found.append(
                    f"{directory.path} depends on {name} ({role}), which is missing: restore it, or delete both"
                )
                continue
            there = _mapping(parent.written().get(digests.FILES))
        except RequestError:
            continue  # said where the parent is checked
        found += [
            f"{directory.path} was made from another {file} of {name} ({role}) than is there now: {directory.cure}"
            for file, digest in _mapping(inputs.get(role)).items()
            if there.get(file) != digest
        ]
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
