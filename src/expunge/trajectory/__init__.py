"""A recorded training run and its derivatives with respect to leaving examples out; one idea per file.

``plan``: the examples of each step; ``flat_loss``: derivatives of the loss of a batch; ``steps``: replay of the
training; ``tangents``: forward-mode derivatives for deletions; ``adjoint``: the influence of every example, by the
adjoint of training; ``blocked``: blocked products for softmax regression; ``store``: the vectors of all examples on
disk; ``online``: deletions computed from stored vectors.
"""
