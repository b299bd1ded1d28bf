"""The environment of a run: device, versions, revision, memory."""

import functools
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from expunge.store.directory import Record


def provenance(device: torch.device) -> Record:
    """Return device, threads, versions and revision, for ``run.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("expunge", "torch", "numpy")}},
        "git_revision": _git_revision(),
    }


@functools.cache
def _git_revision() -> str | None:
    """The git revision of expunge, if it runs from a checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", os.fspath(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None


class PeakMemory:
    """Peak memory since the object was created: allocated by torch on a GPU, resident in this process on a CPU.

    Only Linux can reset the peak of a process; elsewhere it is counted from the start of the process, as
    :meth:`record` states.
    """

    def __init__(self, device: torch.device) -> None:
        """Start to measure."""
        self.device = device
        self.since = "run"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.since = "process"

    def record(self) -> Record:
        """Return ``peak_memory_bytes`` and ``peak_memory_since``: the start of the ``run`` or of its ``process``."""
        found = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else self._of_process()
        return {"peak_memory_bytes": found, "peak_memory_since": self.since}

    def _of_process(self) -> int:
        if self.since == "run":
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
