"""How gradients differ."""

from rnn_jax.diagnostics.comparison import Difference, compare, nan_largest, worst
from rnn_jax.diagnostics.estimators import Accuracy, alignment, bias_and_variance

__all__ = ["Accuracy", "Difference", "alignment", "bias_and_variance", "compare", "nan_largest", "worst"]
