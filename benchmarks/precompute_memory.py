"""The peak memory of a precomputation of 5,000 examples x 60,000 weights, killed on the way and started again.

Softmax regression on 6,000 features for the whole of it; LeNet for its first chunks, whose peak is that of all.

    python benchmarks/precompute_memory.py
"""

import contextlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from expunge.api.recorded import train_recorded
from expunge.core import config, registry
from expunge.data.image_set import make
from expunge.training.stepper import Progress
from expunge.trajectory.vectors import open_store

EXAMPLES = 5000
MEMORY = 0.25


def work(kind: str, folder: Path, chunks: int | None) -> None:
    """Train, then precompute; report the peak of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = torch.arange(EXAMPLES) % 10
    if kind == "linear":
        images = make(torch.randint(0, 255, (EXAMPLES, 1, 60, 100), dtype=torch.uint8), labels)
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(6000, 10))
    else:
        images = make(torch.randint(0, 255, (EXAMPLES, 1, 28, 28), dtype=torch.uint8), labels)
        plugin = registry.find("models", "lenet")
        model = plugin.call(config.parse("models", "lenet"), (1, 28, 28), 10)  # type: ignore[assignment]
    options = {"lr": 1e-4, "momentum": 0.0, "schedule": "constant", "weight_decay": 0.01}
    recorded = train_recorded(model, images, epochs=1, batch_size=250, **options)  # type: ignore[arg-type]
    trained, started = _peak(), time.perf_counter()

    def enough(progress: Progress) -> None:
        if chunks is not None and len(_done(folder)) >= chunks:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        recorded.precompute(folder, memory=MEMORY, on_step=enough)
    layout = open_store(folder).layout
    found = {
        "vectors": f"{layout.count} x {layout.size}",
        "store (MB)": round(layout.nbytes / 1e6),
        "chunks done": f"{len(_done(folder))} of {layout.chunks}",
        "seconds": round(time.perf_counter() - started),
        "peak before (MB)": round(trained),
        "peak (MB)": round(_peak()),
    }
    print(json.dumps(found), flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _done(folder: Path) -> frozenset[int]:
    return open_store(folder).done if (folder / "vectors.json").exists() else frozenset()


def main() -> None:
    """Run both in processes of their own; kill the first after two chunks, and start it again."""
    if len(sys.argv) > 1:
        work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "linear"
        killed = subprocess.Popen([sys.executable, __file__, "linear", str(folder)])
        while len(_done(folder)) < 2:
            time.sleep(0.2)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        print(f"softmax regression: killed with chunks {sorted(_done(folder))} written; started again:")
        subprocess.run([sys.executable, __file__, "linear", str(folder)], check=True)
        print("LeNet, the first chunk:")
        subprocess.run([sys.executable, __file__, "lenet", str(Path(name) / "lenet"), "1"], check=True)


if __name__ == "__main__":
    main()
