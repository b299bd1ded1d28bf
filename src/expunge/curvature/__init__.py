"""Second derivatives of a network's loss: products, Fisher diagonals and solves, one idea per file."""
