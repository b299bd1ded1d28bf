"""Stored vectors: sums, precisions, groups, interruptions, damage; and deletions that arrive one after the other."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.core.checks import all_finite, integers
from expunge.core.errors import RequestError, RunError
from expunge.trajectory import online as online_module
from expunge.trajectory import precompute, tangents
from expunge.trajectory import vectors as store
from expunge.trajectory.flat_loss import FlatLoss
from expunge.trajectory.online import Deletions
from expunge.trajectory.plan import Trajectory
from expunge.trajectory.vectors import DTYPES, Layout, VectorStore, begin, open_store
from tests.unit import test_trajectory as trainings
from tests.unit.test_trajectory import COUNT, carried, each, without

GROUPS = torch.tensor([7, 7, 2, -1, 2, 2, 9, 9, -1, 7])


@contextmanager
def problem(kind: str = "network", **more: float) -> Iterator[tuple[FlatLoss, Trajectory]]:
    with trainings.problem(kind, **more) as (loss, trajectory, _):
        yield loss, trajectory


def filled(loss: FlatLoss, trajectory: Trajectory, folder: Path, **more: object) -> VectorStore:
    given = {"dtype": "float32", "memory": 10**8} | more
    layout = precompute.layout(loss, trajectory, **given)
    return precompute.fill(begin(folder, layout), loss, trajectory)


def rows(count: int = 5, size: int = 4, **more: object) -> Layout:
    """A layout whose ids are 10, 20, ... in the order of the rows."""
    ids = tuple(10 * (at + 1) for at in range(count))
    found = Layout(size, ids, tuple(range(count)), "float32", 2, "of this training")
    return dataclasses.replace(found, **more)


def written(folder: Path, layout: Layout) -> tuple[VectorStore, Tensor]:
    """A store with random numbers in every chunk, and the numbers."""
    found = begin(folder, layout)
    vectors = torch.randn(layout.count, layout.size, generator=torch.Generator().manual_seed(0))
    for chunk, part in enumerate(vectors.split(layout.chunk)):
        found = found.write(chunk, part, 1.5)
    return found, vectors


@pytest.mark.parametrize("kind", trainings.KINDS)
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_stored_vectors_are_those_of_each_example(kind: str, momentum: float, chunk: int, tmp_path: Path) -> None:
    with problem(kind, momentum=momentum) as (loss, trajectory):
        held = loss.weights.nbytes * (2 if momentum else 1)
        found = filled(loss, trajectory, tmp_path, memory=3 * held * chunk)
        assert found.layout.chunk == chunk
        assert found.missing == []
        expected = each(loss, trajectory).float()
        for example in range(COUNT):
            torch.testing.assert_close(found.change(torch.tensor([example])), expected[example])
        assert open_store(tmp_path) == found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at_once", [1, 40, 10**8])
def test_a_deletion_is_the_sum_of_its_rows(
    dtype: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AT_ONCE", at_once)
    found, vectors = written(tmp_path, rows(dtype=dtype))
    kept = vectors.to(DTYPES[dtype]).float()
    total = found.change(torch.tensor([50, 10, 30]))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, kept[[4, 0, 2]].sum(dim=0))
    assert (tmp_path / "vectors.bin").stat().st_size == found.layout.nbytes == 5 * 4 * DTYPES[dtype].itemsize
    torch.testing.assert_close(found.change(torch.tensor([20])), vectors[1], rtol=2**-8, atol=0)
    assert not bool(found.change(torch.tensor([], dtype=torch.int64)).any())


@pytest.mark.parametrize("dtype", DTYPES)
def test_precision_costs_what_it_says(dtype: str, tmp_path: Path) -> None:
    with problem() as (loss, trajectory):
        found = filled(loss, trajectory, tmp_path, dtype=dtype)
        exact = each(loss, trajectory)[:4]
        half = {"float32": 2**-22, "bfloat16": 2**-8, "float16": 2**-11}[
            dtype
        ]  # of the last place; sums are of float32
        apart = (found.change(torch.arange(4)) - exact.sum(dim=0)).abs()
        assert bool((apart <= 1.01 * half * exact.abs().sum(dim=0) + 1e-7).all())
        assert float((apart / exact.abs().sum(dim=0)).max()) > half / 16, "and not less"


@pytest.mark.parametrize("memory", [10**8, 1])
def test_groups_have_vectors_of_their_own(memory: int, tmp_path: Path) -> None:
    """In whatever order of their numbers, and not the sum of those of their examples."""
    with problem() as (loss, trajectory):
        found = filled(loss, trajectory, tmp_path, groups=GROUPS, memory=memory)
        assert found.layout.count == 3
        in_order = torch.tensor([0, 0, 1, -1, 1, 1, 2, 2, -1, 0])
        expected = carried(loss, trajectory, tangents.Additive(loss, trajectory, in_order, whole=True)).float()
        apart: list[float] = []
        for group, name in enumerate((7, 2, 9)):
            ids = (name == GROUPS).nonzero().flatten()
            torch.testing.assert_close(found.change(ids.flip(0)), expected[group])
            apart.append(trainings.apart(each(loss, trajectory)[ids].sum(dim=0).float(), expected[group]))
        assert max(apart) > 0.05
        both = found.change(torch.tensor([0, 1, 9, 6, 7]))
        torch.testing.assert_close(both, expected[0] + expected[2])
        with pytest.raises(
            RequestError, match=r"only a part of the group of examples 2\.\.5: delete groups as a whole"
        ):
            found.change(torch.tensor([2, 4]))
        with pytest.raises(RequestError, match="no vector of example 3"):
            found.change(torch.tensor([3, 6, 7]))


def test_rows_are_in_the_order_in_which_training_sees_them() -> None:
    with problem(batch_size=3) as (loss, trajectory):
        layout = precompute.layout(loss, trajectory, dtype="float32", memory=10**8)
        order = torch.tensor(layout.rows).argsort()
        first = trajectory.plan.batches[: trajectory.plan.steps // 2].flatten()
        assert torch.equal(order, first[first >= 0])


def test_the_vectors_of_the_released_recursion(tmp_path: Path) -> None:
    with problem() as (loss, trajectory):
        found = filled(loss, trajectory, tmp_path, as_released=True)
        assert open_store(tmp_path).layout.as_released
        expected = carried(loss, trajectory, tangents.AsReleased(loss, trajectory, torch.arange(COUNT)))
        torch.testing.assert_close(found.change(torch.tensor([1, 8])), expected[[1, 8]].sum(dim=0).float())


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("memory", [1, 10**8], ids=["less memory", "more memory"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_interrupted_precomputation_goes_on_where_it_was(dtype: str, memory: int, tmp_path: Path) -> None:
    """With the chunks of before, whatever memory there is now: the same bytes."""
    with problem() as (loss, trajectory):
        four = 3 * 4 * loss.weights.nbytes
        whole = filled(loss, trajectory, tmp_path / "whole", dtype=dtype, memory=four)
        layout = precompute.layout(loss, trajectory, dtype=dtype, memory=four)
        assert layout.chunks == 3
        seen: list[float] = []

        def kill(progress: object) -> None:
            seen.append(progress.step / progress.steps)
            if len(seen) == 9:  # in the second chunk of six steps each
                raise Killed

        with pytest.raises(Killed):
            precompute.fill(begin(tmp_path / "broken", layout), loss, trajectory, kill)
        assert seen == [at / 18 for at in range(1, 10)]
        (tmp_path / "broken" / f".vectors.json.{os.getpid()}").write_text("{")  # killed while it wrote
        now = precompute.layout(loss, trajectory, dtype=dtype, memory=memory)
        left = begin(tmp_path / "broken", now)
        assert (left.layout.chunk, left.missing, left.seconds > 0) == (4, [1, 2], True)
        with pytest.raises(RequestError, match=r"lacks chunk [23] of 3.*run `expunge precompute` again"):
            left.change(torch.arange(COUNT))
        seen.clear()
        done = precompute.fill(left, loss, trajectory, lambda progress: seen.append(progress.steps))
        assert seen == [12] * 12, "the first chunk is not computed again"
        assert done.seconds > left.seconds
        assert (tmp_path / "broken/vectors.bin").read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"as_released": True}, {"trajectory": "another"}, {"size": 3}]
)
def test_a_store_of_other_vectors_is_begun_anew_only_if_asked_for(change: dict[str, object], tmp_path: Path) -> None:
    found, _ = written(tmp_path, rows())
    before = found.path.read_bytes()
    assert begin(tmp_path, rows()).missing == []
    assert begin(tmp_path, rows(chunk=5)).missing == []
    with pytest.raises(RequestError, match="choose another folder, or delete it"):
        begin(tmp_path, rows(**change))
    assert (open_store(tmp_path), found.path.read_bytes()) == (found, before)
    assert begin(tmp_path, rows(**change), replace=True).done == frozenset()
    assert open_store(tmp_path).layout == rows(**change)


def test_chunks_are_of_the_size_that_fits_now_as_long_as_none_is_there(tmp_path: Path) -> None:
    begin(tmp_path, rows(chunk=1))
    found = begin(tmp_path, rows(chunk=4))
    assert found.layout.chunk == open_store(tmp_path).layout.chunk == 4
    vectors = torch.arange(20.0).view(5, 4)
    found = found.write(0, vectors[:4], 1.0)
    later = begin(tmp_path, rows(chunk=1))
    assert (later, later.layout.chunk, later.missing) == (found, 4, [1])
    assert torch.equal(later.write(1, vectors[4:], 1.0).change(torch.tensor([30, 50])), vectors[2] + vectors[4])


def test_what_is_written_first_is_the_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill between the two leaves a chunk that is computed again, never one that is not there."""
    found = begin(tmp_path, rows())

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        with pytest.raises(Killed):
            found.write(0, torch.ones(2, 4), 0.0)
    assert open_store(tmp_path).done == frozenset()


def break_json(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "vectors.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps(change(found)))

    return damage


DAMAGES = {
    "no json": lambda folder: (folder / "vectors.json").unlink(),
    "cut json": lambda folder: os.truncate(folder / "vectors.json", 30),
    "no object": break_json(lambda found: []),
    "a key less": break_json(lambda found: {key: value for key, value in found.items() if key != "seconds"}),
    "no numbers": break_json(lambda found: found | {"rows": ["a"] * 5}),
    "a row less": break_json(lambda found: found | {"rows": [0, 1, 1, 1, 3]}),
    "other ids": break_json(lambda found: found | {"ids": [10, 10, 20, 30, 40]}),
    "no such type": break_json(lambda found: found | {"dtype": "float8"}),
    "chunks of none": break_json(lambda found: found | {"chunk": 0}),
    "no vectors": lambda folder: (folder / "vectors.bin").unlink(),
    "cut vectors": lambda folder: os.truncate(folder / "vectors.bin", 79),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_with_the_cure(name: str, tmp_path: Path) -> None:
    found, _ = written(tmp_path, rows())
    DAMAGES[name](tmp_path)
    with pytest.raises(RequestError, match=r"vectors\..*precompute again"):
        open_store(tmp_path)
    if name in ("no vectors", "cut vectors"):  # after it was opened
        with pytest.raises(RequestError, match=r"cannot be mapped.*precompute again"):
            found.change(torch.tensor([50]))
    with pytest.raises(RequestError, match="choose another folder, or delete it"):
        begin(tmp_path, rows())
    assert begin(tmp_path, rows(), replace=True).missing == [0, 1, 2], "where it is a folder of our own, begin anew"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([10, 11], "no vector of example 11"),
        ([60], "no vector of example 60"),
        ([-1], "no vector of example -1"),
        ([20, 20], "appears twice"),
    ],
)
def test_ids_must_be_known_and_once_there(ids: list[int], message: str, tmp_path: Path) -> None:
    found, _ = written(tmp_path, rows())
    with pytest.raises(RequestError, match=message):
        found.change(torch.tensor(ids))


def test_no_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RequestError, match=r"no room for 4\.00 GB of vectors.*No space left.*--dtype bfloat16"):
        begin(tmp_path / "new", rows(size=200_000_000))
    assert not (tmp_path / "new" / "vectors.bin").exists()


def test_without_the_call_that_takes_room_the_file_has_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    found, vectors = written(tmp_path, rows())
    assert torch.equal(found.change(torch.tensor([50])), vectors[4])


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [("float16", 1e5, "not finite in float16: take float32 or bfloat16"), ("float32", np.inf, "smaller lr")],
)
def test_what_is_not_finite_is_not_written(dtype: str, value: float, message: str, tmp_path: Path) -> None:
    found = begin(tmp_path, rows(dtype=dtype))
    with pytest.raises(RunError, match=message):
        found.write(0, torch.full((2, 4), value), 0.0)
    assert open_store(tmp_path).missing == [0, 1, 2]


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_what_is_finite(dtype: torch.dtype) -> None:
    assert all_finite(torch.zeros(0, 3, dtype=dtype))
    assert all_finite(torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype))
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite(torch.tensor([[0.0, bad], [1.0, -1.0]], dtype=dtype))


@pytest.mark.parametrize("change", [{"ids": ()}, {"rows": (0, 1, 2, 3, 5)}, {"ids": (1, 3, 2, 4, 5)}, {"size": 0}])
def test_a_layout_must_fit_together(change: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        rows(**change)


def test_the_estimate_says_what_is_left(tmp_path: Path) -> None:
    with problem() as (loss, trajectory):
        layout = precompute.layout(loss, trajectory, dtype="bfloat16", memory=3 * 4 * loss.weights.nbytes)
        empty = begin(tmp_path, layout)
        found = precompute.estimate(empty, loss, trajectory)
        assert (found.rows, found.size, found.nbytes) == (COUNT, len(loss.weights), COUNT * len(loss.weights) * 2)
        assert found.seconds > 0
        done = precompute.fill(empty, loss, trajectory)
        assert precompute.estimate(done, loss, trajectory).seconds == 0


def test_vectors_of_a_trajectory_that_leads_elsewhere_are_not_written(tmp_path: Path) -> None:
    with problem() as (loss, trajectory):
        loss.weights = loss.weights + 0.1
        with pytest.raises(RequestError, match="does not lead to this model"):
            filled(loss, trajectory, tmp_path)
        assert open_store(tmp_path).done == frozenset()


def test_a_trajectory_has_a_digest_of_everything_in_it() -> None:
    with problem() as (_, first), problem(clip=0.3) as (_, second), problem("linear") as (_, third):
        moved = dataclasses.replace(first, initial={key: value + 1 for key, value in first.initial.items()})
        other = dataclasses.replace(first, plan=dataclasses.replace(first.plan, batches=first.plan.batches.flip(0)))
        assert len({each.digest() for each in (first, second, third, moved, other)}) == 5
        assert first.digest() == dataclasses.replace(first).digest()


# Deletions that arrive one after the other.


@contextmanager
def deletions(folder: Path, kind: str = "network", **more: object) -> Iterator[tuple[Deletions, FlatLoss, Trajectory]]:
    with problem(kind, lr=0.1) as (loss, trajectory):
        yield Deletions(loss, trajectory, filled(loss, trajectory, folder), **more), loss, trajectory


def test_deleting_in_several_requests_is_deleting_at_once(tmp_path: Path) -> None:
    with deletions(tmp_path / "a") as (first, loss, trajectory), deletions(tmp_path / "b") as (second, _, _):
        assert torch.equal(first.weights, loss.weights)
        for ids in ([3], [7, 1], [8]):
            last = first.delete(torch.tensor(ids))
        once = second.delete(torch.tensor([1, 3, 7, 8]))
        torch.testing.assert_close(last, once, rtol=1e-6, atol=1e-8)
        expected = loss.weights + each(loss, trajectory)[[1, 3, 7, 8]].sum(dim=0)
        torch.testing.assert_close(once, expected, rtol=1e-5, atol=1e-7)
        assert first.deleted == {1, 3, 7, 8}


@pytest.mark.parametrize("kind", ["network", "linear"])
def test_a_rebase_is_the_set_aware_tangent_from_which_deletions_go_on(kind: str, tmp_path: Path) -> None:
    with deletions(tmp_path, kind) as (online, loss, trajectory):
        trained = loss.in_order(loss.weights[None])[0]
        before = online.delete(torch.tensor([2, 5]))
        rebased = online.rebase()
        aware = carried(loss, trajectory, tangents.SetAware(loss, trajectory, without(2, 5)))[0]
        torch.testing.assert_close(rebased, trained + aware)
        assert not torch.allclose(before, rebased)
        later = online.delete(torch.tensor([0]))
        torch.testing.assert_close(later, trained + aware + each(loss, trajectory)[0], rtol=1e-5, atol=1e-7)


def test_a_rebase_of_nothing_is_nothing(tmp_path: Path) -> None:
    with deletions(tmp_path) as (online, loss, _):
        assert torch.equal(online.rebase(), loss.weights)


def test_rebase_by_itself_after_so_many_examples(tmp_path: Path) -> None:
    with deletions(tmp_path, rebase_every=3) as (online, loss, trajectory):
        added = each(loss, trajectory)

        def aware(*gone: int) -> Tensor:
            return loss.weights + carried(loss, trajectory, tangents.SetAware(loss, trajectory, without(*gone)))[0]

        close = {"rtol": 1e-5, "atol": 1e-7}
        torch.testing.assert_close(online.delete(torch.tensor([0, 1])), loss.weights + added[:2].sum(dim=0), **close)
        torch.testing.assert_close(online.delete(torch.tensor([2])), aware(0, 1, 2))
        torch.testing.assert_close(online.delete(torch.tensor([4, 5])), aware(0, 1, 2) + added[4:6].sum(dim=0), **close)
        torch.testing.assert_close(online.delete(torch.tensor([6, 7])), aware(0, 1, 2, 4, 5, 6, 7))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([4], "example 4 was deleted before"),
        ([0, 1, 2, 3, 5, 6, 7, 8, 9], "every example"),
        ([99], "no vector of example 99"),
        ([1, 1], "appears twice"),
    ],
)
def test_deletions_that_are_refused_change_nothing(ids: list[int], message: str, tmp_path: Path) -> None:
    with deletions(tmp_path) as (online, _, _):
        before = online.delete(torch.tensor([4]))
        with pytest.raises(RequestError, match=message):
            online.delete(torch.tensor(ids))
        assert torch.equal(online.weights, before)
        assert online.deleted == {4}


def test_vectors_of_another_training_are_refused(tmp_path: Path) -> None:
    with problem() as (loss, trajectory), problem(clip=0.3) as (_, other):
        found = filled(loss, trajectory, tmp_path)
        with pytest.raises(RequestError, match="of another model"):
            Deletions(loss, other, found)


def test_another_model_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    """Even where nothing is replayed: a single weight that differs in its last place."""
    with problem() as (loss, trajectory):
        found = filled(loss, trajectory, tmp_path)
        Deletions(loss, trajectory, found)
        loss.weights = loss.weights.float()
        loss.weights[3] = loss.weights[3].nextafter(torch.tensor(9.0))
        with pytest.raises(RequestError, match="the model is not the one that was recorded"):
            Deletions(loss, trajectory, found)
        with pytest.raises(RequestError, match="the model is not the one that was recorded"):
            dataclasses.replace(trajectory, end="").check_model(loss.weights)


@pytest.mark.parametrize("wrong", [[3.7], 3, torch.tensor(3), torch.tensor([True, False]), [[1]], ["1"], {1}, [2**70]])
def test_ids_are_integers_in_a_list(wrong: object, tmp_path: Path) -> None:
    with deletions(tmp_path) as (online, loss, _):
        with pytest.raises(RequestError, match="ids must be a list of integers"):
            online.delete(wrong)
        assert (online.deleted, torch.equal(online.weights, loss.weights)) == (set(), True)


@pytest.mark.parametrize("given", [[3, 7], (3, 7), np.array([3, 7], np.int16), torch.tensor([3, 7], dtype=torch.uint8)])
def test_ids_are_of_any_integer_type(given: object) -> None:
    found = integers(given, "ids")
    assert (found.dtype, found.tolist()) == (torch.int64, [3, 7])
    assert (integers([], "ids").dtype, integers([], "ids").tolist()) == (torch.int64, [])


@pytest.mark.parametrize("every", [0, -1])
def test_a_rebase_is_at_the_earliest_after_one_example(every: int, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rebase_every must be"), deletions(tmp_path, rebase_every=every):
        pass


def test_a_rebase_that_fails_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RunError("no room")

    with deletions(tmp_path, rebase_every=3) as (online, _, _):
        before = online.delete([1])
        monkeypatch.setattr(online_module, "carry", fail)
        with pytest.raises(RunError, match="no room"):
            online.delete([2, 3])
        assert (online.deleted, torch.equal(online.weights, before)) == ({1}, True)
        online.delete([2])  # the second: it is not yet time for a rebase, which would fail
        assert online.deleted == {1, 2}
