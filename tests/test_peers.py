"""Other libraries compute the same numbers: torch and flax on the same weights, and our layer inside foreign models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import assert_close, update_of

import rnn_jax as rj
from rnn_jax import recurrence

T, B, D, H, K = 7, 3, 4, 5, 6
CELLS = {"tanh": rj.elman(), "relu": rj.elman("relu"), "gru": rj.gru(), "lstm": rj.lstm()}

each_cell = pytest.mark.parametrize("kind", CELLS)
each_depth = pytest.mark.parametrize("depth", [1, 2])


def like(shapes, seed):
    """Random numbers in the shape of a tree, so that no bias is zero and no two blocks are alike."""
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(rng.normal(size=leaf.shape) / 2) for leaf in leaves])


def stack(kind, depth=1):
    """A network, random parameters, a random initial state and a window of float inputs."""
    network = rj.Network((CELLS[kind],) * depth, D, H, K, rj.softmax_cross_entropy())
    params = like(jax.eval_shape(lambda: rj.init(network, jax.random.key(0))), 1)
    state = like(jax.eval_shape(lambda: rj.network.initial_state(network, params, B)), 2)
    xs, ys = like(jax.ShapeDtypeStruct((T, B, D), float), 3), np.random.default_rng(4).integers(K, size=(T, B))
    return network, params, state, rj.Batch(xs, jnp.asarray(ys))


def forward_and_back(f, *args):
    """The outputs of f, and the cotangents of its arguments for random cotangents of the outputs (like(outputs, 5))."""

    def run(args, cotangents):
        outputs, pull_back = jax.vjp(f, *args)
        return outputs, pull_back(cotangents)

    return jax.jit(run)(args, like(jax.eval_shape(f, *args), 5))


class Torch:
    """The same stack in torch, run forward.

    Their weights are our leaves U, W, b, d of each layer, V and c, transposed; without a d, ``bias_hh`` is zero.
    """

    def __init__(self, kind, params, state, xs):
        self.torch = torch = pytest.importorskip("torch")
        depth, lstm = len(params.layers), kind == "lstm"
        peer = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(kind, torch.nn.RNN)
        options = {"nonlinearity": kind} if peer is torch.nn.RNN else {}
        rnn = peer(D, H, num_layers=depth, dtype=torch.float64, **options)
        self.linear = torch.nn.Linear(H, K, dtype=torch.float64)
        names = [f"{name}_l{i}" for i in range(depth) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self.weights = [getattr(rnn, name) for name in names] + [self.linear.weight, self.linear.bias]
        self.leaves, self.structure = jax.tree.flatten(params, is_leaf=lambda leaf: leaf is None)
        for weight, leaf in zip(self.weights, self.leaves, strict=True):
            weight.data = torch.zeros_like(weight) if leaf is None else self.tensor(leaf.T)
            weight.grad = torch.zeros_like(weight)
        self.xs = self.tensor(xs).requires_grad_()
        self.s0 = [values.requires_grad_() for values in self.stacked(state)]
        self.hs, s_T = rnn(self.xs, tuple(self.s0) if lstm else self.s0[0])
        self.s_T = s_T if lstm else [s_T]

    def grads(self):
        """Their gradients as our Params."""
        pairs = zip(self.weights, self.leaves, strict=True)
        return self.structure.unflatten([None if leaf is None else array(weight.grad).T for weight, leaf in pairs])

    def tensor(self, values):
        return self.torch.tensor(np.asarray(values))

    def stacked(self, state):
        """Our state as torch's, S tensors [layers, B, H]."""
        return [self.tensor(np.stack(values)) for values in zip(*state, strict=True)]


def array(tensor):
    return tensor.detach().numpy()


def unstacked(tensors):
    """Torch's state as ours."""
    return tuple(zip(*map(array, tensors), strict=True))


@each_cell
@each_depth
def test_bptt_is_torch(kind, depth):
    network, params, state, batch = stack(kind, depth)
    peer = Torch(kind, params, state, batch.xs)
    peer_os = peer.linear(peer.hs)
    cross_entropy = peer.torch.nn.functional.cross_entropy
    peer_loss = cross_entropy(peer_os.flatten(0, 1), peer.tensor(batch.ys).flatten(), reduction="sum")
    peer_loss.backward()

    def ours(*window):
        return rj.network.apply(network, params, state, batch.xs)[0], update_of(rj.bptt(network, segment=3))(*window)

    os, ((loss, grads), after) = jax.jit(ours)(params, state, batch)
    assert_close((os, loss, after, grads), (array(peer_os), array(peer_loss), unstacked(peer.s_T), peer.grads()), 1e-12)


@each_cell
@each_depth
def test_unroll_is_torch(kind, depth):
    network, params, state, batch = stack(kind, depth)

    def ours(layers, xs, state):
        after = []
        for cell, layer, s0 in zip(network.cells, layers, state, strict=True):
            xs, s_T = rj.unroll(cell, layer, xs, s0)
            after.append(s_T)
        return xs, tuple(after)

    (hs, after), deltas = forward_and_back(ours, params.layers, batch.xs, state)
    peer = Torch(kind, params, state, batch.xs)
    assert_close((hs, after), (array(peer.hs), unstacked(peer.s_T)), 1e-12)
    delta_hs, delta_state = like((hs, after), 5)
    peer.torch.autograd.backward([peer.hs, *peer.s_T], [peer.tensor(delta_hs), *peer.stacked(delta_state)])
    assert_close(deltas, (peer.grads().layers, array(peer.xs.grad), unstacked([s0.grad for s0 in peer.s0])), 1e-12)


def to_flax(cell, layer):
    """Our layer as flax's Dense layers, two a gate.  Of d, flax's GRU has the candidate's block only."""
    gates = cell.gates if len(cell.gates) > 1 else ("",)
    dense = {}
    for gate, U, W, b in zip(gates, *(jnp.split(M, len(gates), axis=-1) for M in layer[:3]), strict=True):
        dense[f"i{gate}"], dense[f"h{gate}"] = {"kernel": U}, {"kernel": W}
        dense[f"h{gate}" if cell.name == "lstm" else f"i{gate}"]["bias"] = b
    if layer.d is not None:
        dense["hn"]["bias"] = layer.d[-H:]
    return dense


@pytest.mark.parametrize("kind", ["tanh", "gru", "lstm"])
def test_unroll_is_flax(kind):
    nn = pytest.importorskip("flax.linen")
    peer = {"tanh": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind]
    model = nn.RNN(peer(H, param_dtype=float), time_major=True, return_carry=True)
    network, params, (s0,), batch = stack(kind)
    (cell,), (layer,) = network.cells, params.layers
    if layer.d is not None:
        layer = layer._replace(d=layer.d.at[:-H].set(0.0))

    def theirs(dense, xs, s0):
        carry, hs = model.apply({"params": {"cell": dense}}, xs, initial_carry=s0[::-1] if kind == "lstm" else s0[0])
        return hs, carry[::-1] if kind == "lstm" else (carry,)

    outputs, (delta_layer, *deltas) = forward_and_back(lambda *args: rj.unroll(cell, *args), layer, batch.xs, s0)
    peer_outputs, peer_deltas = forward_and_back(theirs, to_flax(cell, layer), batch.xs, s0)
    assert_close((outputs, (to_flax(cell, delta_layer), *deltas)), (peer_outputs, peer_deltas), 1e-12)


def flax_model(run, layer, xs):
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            hs = run(self.param("layer", lambda _: layer), nn.Dense(D, param_dtype=float)(xs))
            return nn.Dense(K, param_dtype=float)(hs)

    return jax.eval_shape(Model().init, jax.random.key(0), xs), Model().apply


def haiku_model(run, layer, xs):
    hk = pytest.importorskip("haiku")

    def model(xs):
        names = [name for name, leaf in layer._asdict().items() if hasattr(leaf, "shape")]
        own = {name: hk.get_parameter(name, getattr(layer, name).shape, float, jnp.zeros) for name in names}
        return hk.Linear(K)(run(rj.Layer(**own), hk.Linear(D)(xs)))

    init, apply = hk.without_apply_rng(hk.transform(model))
    return jax.eval_shape(init, jax.random.key(0), xs), apply


def equinox_model(run, layer, xs):
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        layer: rj.Layer
        linear: eqx.nn.Linear

        def __call__(self, xs):
            return jax.vmap(jax.vmap(self.linear))(run(self.layer, xs))

    linear = eqx.filter_eval_shape(eqx.nn.Linear, H, K, key=jax.random.key(0))
    return Model(layer, linear), lambda model, xs: model(xs)


@each_cell
@pytest.mark.parametrize("model", [flax_model, haiku_model, equinox_model])
def test_unroll_in_a_foreign_model(model, kind):
    network, params, (s0,), batch = stack(kind)
    (cell,), (layer,) = network.cells, params.layers

    def of(run):
        shapes, apply = model(run, layer, batch.xs)
        return jax.tree.leaves(forward_and_back(apply, like(shapes, 6), batch.xs))

    by_hand = of(lambda layer, xs: rj.unroll(cell, layer, xs, s0)[0])
    by_autodiff = of(lambda layer, xs: recurrence.forward(cell, layer, xs, s0)[1][0])
    assert_close(by_hand, by_autodiff, 1e-12)
