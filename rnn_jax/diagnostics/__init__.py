"""How gradients differ, how the error flows through time, and where the state comes to rest."""

from rnn_jax.diagnostics.comparison import Difference, compare, nan_largest, worst
from rnn_jax.diagnostics.estimators import Accuracy, alignment, bias_and_variance
from rnn_jax.diagnostics.fixed_points import FixedPoints, fixed_points
from rnn_jax.diagnostics.gradient_flow import GradientFlow, gradient_flow, last_step
from rnn_jax.diagnostics.jacobian_products import lyapunov_spectrum, singular_values
from rnn_jax.diagnostics.state_jacobian import state_jacobian

__all__ = [
    "Accuracy",
    "Difference",
    "FixedPoints",
    "GradientFlow",
    "alignment",
    "bias_and_variance",
    "compare",
    "fixed_points",
    "gradient_flow",
    "last_step",
    "lyapunov_spectrum",
    "nan_largest",
    "singular_values",
    "state_jacobian",
    "worst",
]
