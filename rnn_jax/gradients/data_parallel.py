"""Any algorithm over several devices: the batch is split, the gradients are summed once, at the end."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.checks import Description, check_int, check_parts, describe, is_array, require
from rnn_jax.types import Algorithm, Array, Batch, Params

ROWS = PartitionSpec("rows")
"""Of the state: each leaf is split along its first axis."""
COLUMNS = PartitionSpec(None, "rows")
"""Of a batch: time first, then the axis that is split."""


def devices_for(batch_size: int) -> tuple[jax.Device, ...]:
    """The local devices that share a batch evenly: the most whose number divides it.

    A CPU is one device, unless ``jax.config.update("jax_num_cpu_devices", n)`` comes before JAX's first computation.
    """
    check_int(batch_size, "batch_size")
    devices = jax.local_devices()
    return tuple(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])


def data_parallel(algorithm: Algorithm, devices: Sequence[jax.Device]) -> Algorithm:
    """The same algorithm with the batch split over devices, CPU cores, GPUs or TPUs alike.

    Loss and gradient are sums over the batch, so those of the parts add up::

        L = Σ_p L_p      dθ = Σ_p dθ_p

    Each device runs ``algorithm`` on its rows, and nothing passes between them until that one sum.  Parameters and
    gradients are the same on every device; the state, of which every leaf must have the batch as its first axis, stays
    split from window to window.

    Call it under ``jit``.  On several CPU devices wait for each call before the next, as ``train.run`` does: XLA's sum
    over them can deadlock when calls overlap.

    Args:
      algorithm: ``bptt(network)`` or another.
      devices: all of one kind, as from ``devices_for(B)``; with one, this is ``algorithm`` itself.

    Raises:
      InputError: no device; when started or called, a batch that the number of devices does not divide.
    """
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")
    listed = isinstance(devices, Sequence) and all(isinstance(device, jax.Device) for device in devices)
    distinct = listed and len(set(devices)) == len(devices) > 0
    require(distinct, "devices", devices, "different devices, like jax.devices()")
    if len(devices) == 1:
        return algorithm
    mesh = Mesh(np.array(devices), ("rows",))
    multiple = f"a multiple of {len(devices)}, the number of devices"

    def part(params: Params, state: Any, batch: Batch) -> tuple[tuple[Array, Params], Any]:
        loss_and_grads, state = algorithm.update(params, state, batch)
        return jax.lax.psum(loss_and_grads, "rows"), state

    parts = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(PartitionSpec(), ROWS, COLUMNS),
        out_specs=(PartitionSpec(), ROWS),
        check_vma=False,
    )

    def init(params: Params, batch_size: int, key: Array | None = None) -> Any:
        check_int(batch_size, "batch_size")
        require(batch_size % len(devices) == 0, "batch_size", batch_size, multiple)
        state = algorithm.init(params, batch_size, key)
        for path, leaf in jax.tree.leaves_with_path(state):
            by_row = is_array(leaf) and leaf.ndim > 0 and leaf.shape[0] == batch_size
            require(by_row, f"state{jax.tree_util.keystr(path)}", describe(leaf), f"an array with {batch_size} rows")
        return jax.device_put(state, NamedSharding(mesh, ROWS))

    def update(params: Params, state: Any, batch: Batch) -> tuple[tuple[Array, Params], Any]:
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        for name, array in zip(Batch._fields, batch, strict=True):
            if array is not None:
                known = is_array(array) and array.ndim >= 2
                require(known, f"batch.{name}", describe(array), "an array [T,B] or [T,B,…]")
                rows = Description(f"{describe(array)} with {array.shape[1]} columns")
                require(array.shape[1] % len(devices) == 0, f"batch.{name}", rows, multiple)
        return parts(params, state, batch)

    return Algorithm(init, update, algorithm.claim)
