"""Comparing two gradients: norm-wise, leaf by leaf.

Elementwise relative error means nothing for a gradient: an element that should be zero has no digits to agree on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import Description, describe, is_array, require
from rnn_jax.types import Params


class Difference(NamedTuple):
    """How far one leaf of a gradient is from its reference.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.diagnostics.Difference(norm=0.0, largest=0.0, cosine=1.0).norm
      0.0
    """

    norm: float
    """‖g − ref‖ / ‖ref‖, Euclidean; 0 where both are zero, inf where only ref is zero."""
    largest: float
    """max |g − ref| / max |ref|, likewise."""
    cosine: float
    """⟨g, ref⟩ / (‖g‖ ‖ref‖); 1 where both are zero, 0 where one is."""


def compare(grads: Params, reference: Params) -> dict[str, Difference]:
    """Per leaf, how far a gradient is from its reference; computed in float64.

        norm = ‖g − ref‖ / ‖ref‖     largest = max |g − ref| / max |ref|     cosine = ⟨g, ref⟩ / (‖g‖ ‖ref‖)

    NaN anywhere gives NaN, which passes no tolerance.  Call it outside of ``jit``.

    Args:
      grads: the gradient to judge, Params or any tree of float arrays.
      reference: a tree of the same structure and shapes.

    Returns:
      A Difference for each leaf, by its path, such as "layers[0].W".

    Raises:
      InputError: two trees of different structure or shapes, or a leaf that is not an array of floats.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> reference = rj.Params(layers=(), V=jnp.array([[3.0, 4.0]]), c=jnp.zeros(2))
      >>> differences = rj.compare(reference._replace(V=jnp.array([[3.0, 4.5]])), reference)
      >>> round(differences["V"].norm, 6), round(differences["V"].largest, 6)
      (0.1, 0.125)
    """
    structure, wanted = str(jax.tree.structure(grads)), str(jax.tree.structure(reference))
    require(structure == wanted, "grads", Description(structure), f"of structure {wanted}")
    differences = {}
    for (path, g), ref in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(reference), strict=True):
        name = jax.tree_util.keystr(path)
        for tree, leaf in (("grads", g), ("reference", ref)):
            floats = is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
            require(floats, f"{tree}{name}", describe(leaf), "an array of floats")
        require(g.shape == ref.shape, f"grads{name}", Description(f"of shape {g.shape}"), f"of shape {ref.shape}")
        differences[name.removeprefix(".")] = _difference(
            np.asarray(g).astype(np.float64), np.asarray(ref).astype(np.float64)
        )
    return differences


def worst(differences: dict[str, Difference]) -> tuple[str, float]:
    """The leaf with the largest norm-wise error, and that error; NaN counts as the largest.

    Args:
      differences: as from ``compare``, one leaf or more.

    Returns:
      The path of the leaf, and its error.

    Raises:
      InputError: anything else, or no leaf.

    Examples:
      >>> import rnn_jax as rj
      >>> from rnn_jax.diagnostics import Difference
      >>> rj.worst({"V": Difference(1e-7, 1e-7, 1.0), "c": Difference(2e-7, 1e-7, 1.0)})
      ('c', 2e-07)
    """
    listed = isinstance(differences, dict) and all(isinstance(each, Difference) for each in differences.values())
    require(listed and differences, "differences", differences, "what compare returns, of one leaf or more")
    return max(((name, each.norm) for name, each in differences.items()), key=lambda pair: nan_largest(pair[1]))


def nan_largest(error: float) -> tuple[bool, float]:
    """A sort key for errors: NaN is larger than any number.

    Args:
      error: a number, or NaN.

    Returns:
      A pair to compare by.

    Examples:
      >>> from rnn_jax.diagnostics import nan_largest
      >>> max([1.0, float("nan"), 2.0], key=nan_largest)
      nan
    """
    return bool(np.isnan(error)), error


def _difference(g: np.ndarray, ref: np.ndarray) -> Difference:
    def ratio(a: float, b: float) -> float:
        return 0.0 if a == b == 0.0 else float("inf") if b == 0.0 else a / b

    norm_g, norm_ref = float(np.linalg.norm(g)), float(np.linalg.norm(ref))
    norms = norm_g * norm_ref
    return Difference(
        norm=ratio(float(np.linalg.norm(g - ref)), norm_ref),
        largest=ratio(float(np.abs(g - ref).max(initial=0)), float(np.abs(ref).max(initial=0))),
        cosine=float((g * ref).sum()) / norms if norms != 0.0 else float(norm_g == norm_ref),
    )
