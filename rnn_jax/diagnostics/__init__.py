"""How gradients differ."""

from rnn_jax.diagnostics.comparison import Difference, compare, nan_largest, worst

__all__ = ["Difference", "compare", "nan_largest", "worst"]
