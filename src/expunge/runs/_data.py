"""The split data of a run, loaded once per session."""

from expunge.core.errors import RequestError
from expunge.data import split_data
from expunge.data.split_data import DataConfig, SplitData
from expunge.store.directory import RunDirectory
from expunge.store.execute import Session


def load_data(wanted: DataConfig, session: Session) -> SplitData:
    """Load the split data to the CPU, once per session."""
    return session.cached(("data", wanted), lambda: split_data.load(wanted))


def check_data(original: RunDirectory, data: SplitData) -> None:
    """Raise a RequestError unless the training images are those of the run."""
    if original.record().get("data") != data.train.fingerprint():
        raise RequestError(
            f"the training images are not those that {original.id} was trained on: restore them, or train again"
        )
