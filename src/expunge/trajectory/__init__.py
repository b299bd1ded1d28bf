"""A recorded training run, and what would have become of it without some examples; one idea per file.

``plan`` says which examples each step saw; ``calculus`` differentiates the loss of a batch; ``steps`` walks along the
training; ``tangents`` carries the effect of deletions forward through it, ``adjoint`` carries a question backward;
``store`` keeps the effect of every example on disk, and ``online`` answers deletions from it.
"""
