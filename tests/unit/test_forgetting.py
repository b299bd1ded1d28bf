"""Lists of ids that no file should hold."""

from pathlib import Path

import pytest
import torch

from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import make


@pytest.mark.parametrize("name", ["ids.txt", "ids.json"])
def test_an_id_beyond_64_bits_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(f"[{2**63}]" if name.endswith("json") else f"1\n{2**63}\n")
    with pytest.raises(RequestError, match="must fit 64 bits"):
        parse("forget_sets", f"ids:{path}")


def test_the_largest_id_of_64_bits_is_an_id() -> None:
    data = make(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), first_id=2**63 - 3)
    generator = torch.Generator().manual_seed(0)
    assert forget_ids(ListedForget((2**63 - 2,)), data, generator, 2).tolist() == [2**63 - 2]


def test_an_empty_npy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    path.write_bytes(b"")
    with pytest.raises(RequestError, match=r"ids.npy cannot be read: it is no .npy array"):
        parse("forget_sets", f"ids:{path}")
