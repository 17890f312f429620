"""The layer inside JAX's own transformations: split over devices, exported for any batch, and watched for NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, cells, make_batch, make_network, make_params, make_state
from test_data_parallel import with_devices

import rnn_jax as rj
from rnn_jax import ops


@pytest.mark.slow
def test_unroll_inside_shard_map_with_its_default_checks():
    """Each cotangent is that of one device: summed over the devices where its primal is the same on all of them."""
    with_devices(
        2,
        """
import jax.numpy as jnp
import rnn_jax as rj
from rnn_jax import ops
from fixtures import CELLS, EACH_KIND, assert_close, make_batch, make_network, make_params, make_state
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
for cell in (CELLS[name] for name in EACH_KIND):
    for dtype in (None, "float64"):
        for flags in (False, True):
            network = make_network(cell)
            layer, (s0,) = make_params(network).layers[0], make_state(network, 4)
            xs, _, mask, reset, _ = make_batch(network, 7, 4, flags, flags, dtype)

            def loss(layer, xs, s0, mask, reset):
                hs, s_T = rj.unroll(cell, layer, xs, s0, mask, reset)
                return (hs**2).sum() + sum((value**3).sum() for value in s_T)

            for shared in (False, True):  # whether both devices begin with the same state
                rows = P() if shared else P("batch")
                start = tuple(value[:2] for value in s0) if shared else s0
                part = lambda *a: jax.lax.psum(loss(*a), "batch")
                specs = (P(), P(None, "batch"), rows, P(None, "batch"), P(None, "batch"))
                split = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P())
                whole = lambda layer, xs, s0, *flags: loss(
                    layer, xs, tuple(jnp.concatenate([value] * (1 + shared)) for value in s0), *flags
                )
                of = (0, 2) if dtype is None else (0, 1, 2)
                ours, wanted = (jax.jit(jax.grad(f, of))(layer, xs, start, mask, reset) for f in (split, whole))
                assert_close(ours, wanted, 1e-12)
""",
    )


@pytest.mark.slow
@cells
def test_unroll_is_exported_for_any_batch(cell):
    network = make_network(cell, inputs=3)
    layer = make_params(network).layers[0]

    def gradient(layer, xs, s0):
        return jax.grad(lambda layer: (rj.unroll(cell, layer, xs, s0)[0] ** 2).sum())(layer)

    (B,) = jax.export.symbolic_shape("B")
    xs, s0 = jax.ShapeDtypeStruct((7, B, 3), float), tuple(jax.ShapeDtypeStruct((B, 5), float) for _ in cell.states)
    exported = jax.export.export(jax.jit(gradient))(layer, xs, s0)
    for rows in (1, 3, 8):
        arguments = layer, make_batch(network, 7, rows, dtype="float64").xs, make_state(network, rows)[0]
        assert_close(exported.call(*arguments), jax.jit(gradient)(*arguments), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("floats", [False, True], ids=["tokens", "floats"])
@cells
def test_good_data_make_no_nan_anywhere(cell, floats):
    """With JAX's own watch for NaN, step by step: nothing on the way is one, not even where it would be discarded."""
    network = make_network(cell, outputs=4 if floats else 6, loss=rj.squared_error() if floats else None)
    params, dtype = make_params(network, "float32"), "float32" if floats else None
    with jax.debug_nans(True), jax.disable_jit():
        for flags in (False, True):
            batch = make_batch(network, 5, 3, flags, flags, dtype)
            for algorithm in (rj.bptt(network, segment=2), rj.autodiff(network), rj.bptt(network, 2, recompute=True)):
                loss, _ = rj.value_and_grad(algorithm)(params, batch)
                assert jnp.isfinite(loss)
        rj.train.evaluate(network, params, [batch])
        if not floats:
            assert rj.sample(network, params, jax.random.key(0), np.array([1]), 2).shape == (2,)


@pytest.mark.parametrize("B", [1, 3, 8])
@pytest.mark.parametrize("columns", [4, 20])
def test_products_of_large_matrices_are_those_of_small_ones(B, columns, monkeypatch):
    a, M = (jnp.asarray(np.random.default_rng(0).normal(size=shape)) for shape in ((B, 5), (5, columns)))
    for cache in (0, 2**20):
        monkeypatch.setattr(ops, "CACHE", cache)
        np.testing.assert_allclose(jax.jit(ops.matmul)(a, M, M.T), a @ M, rtol=1e-13)
