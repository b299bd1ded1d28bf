"""Two kinds of failure: the request was wrong, or the work failed."""


class RequestError(ValueError):
    """What was asked for cannot be done as asked; the message says what to change. Exit status 2."""


class RunError(RuntimeError):
    """The work was begun and failed, and would fail again with the same configuration. Exit status 1."""


class OutOfMemory(RunError):
    """There was too little memory: true of a machine at a moment, not of the run."""
