"""Saliency and its masks against the original implementation."""

import torch

from expunge.core import masks
from expunge.unlearning import update_masks
from tests.golden import cases


def test_saliency_and_the_masks_of_its_largest_entries() -> None:
    case = cases.load("saliency_mask")
    model = cases.tiny_model()
    found: dict[str, torch.Tensor] = {}

    def compute() -> dict[str, torch.Tensor]:
        found.update(update_masks.gradient(model, cases.tiny_split("forget"), case.hyperparameters["batch_size"]))
        return found

    cases.assert_agrees(case, compute, "saliency.")
    expected = case.prefixed("saliency.")
    for fraction in case.hyperparameters["fractions"]:
        wanted = case.prefixed(f"mask{round(100 * fraction)}.")
        got = masks.largest(expected, fraction)
        total = sum(tensor.numel() for tensor in wanted.values())
        assert sum(int(tensor.sum()) for tensor in got.values()) == int(fraction * total)
        assert all(torch.equal(got[name], tensor.bool()) for name, tensor in wanted.items())
        # From our own saliency, only weights at the threshold itself may fall on the other side.
        threshold = (
            torch.cat([t.flatten() for t in expected.values()]).sort(descending=True).values[int(fraction * total) - 1]
        )
        ours = masks.largest(found, fraction)
        for name, tensor in wanted.items():
            differs = ours[name] != tensor.bool()
            near = (expected[name] - threshold).abs() <= case.atol + case.rtol * threshold
            assert bool((near | ~differs).all())
