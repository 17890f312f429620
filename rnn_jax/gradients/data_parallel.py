"""Any algorithm over several devices: the batch is split, the gradients are summed once, at the end."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.checks import Description, check_int, check_parts, describe, is_array, require
from rnn_jax.types import Algorithm, Array, Batch, Carry, Estimate, Params

WHOLE, BY_ROW = PartitionSpec(), PartitionSpec("batch")
CARRY: Any = Carry(recurrent=BY_ROW, memory=BY_ROW, shared=WHOLE)  # type: ignore[arg-type]
ESTIMATE: Any = Estimate(loss=WHOLE, grads=WHOLE, weight=WHOLE, info=BY_ROW)  # type: ignore[arg-type]
WINDOW = PartitionSpec(None, "batch")
"""Of a batch: time first, then the axis that is split."""


def devices_for(batch_size: int) -> tuple[jax.Device, ...]:
    """The local devices that share a batch evenly: the largest number of them that divides it.

    A CPU is one device, unless ``jax.config.update("jax_num_cpu_devices", n)`` precedes JAX's first computation;
    ``experiment.use_cores()`` does this.

    Args:
      batch_size: B.

    Returns:
      The devices, at least one.

    Raises:
      InputError: a batch size that is not a positive int.

    Examples:
      >>> import rnn_jax as rj
      >>> devices = rj.devices_for(6)
      >>> 6 % len(devices)
      0
    """
    check_int(batch_size, "batch_size")
    devices = jax.local_devices()
    return tuple(devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)])


def data_parallel(algorithm: Algorithm, devices: Sequence[jax.Device]) -> Algorithm:
    """The same algorithm with the batch split over devices: CPU cores, GPUs or TPUs.

    Loss and gradient are sums over the batch, so those of the parts add up:

        L = Σ_p L_p      dθ = Σ_p dθ_p

    Choose it where several devices are at hand and each has several rows.  Each device runs ``algorithm`` on its rows.
    Gradients are summed over the devices once, at the end.  Nothing is communicated before that, unless the algorithm
    calls ``sum_over_batch``.

    Parameters, gradients and ``Carry.shared`` are the same on every device.  ``Carry.recurrent`` and ``Carry.memory``
    stay split from window to window.

    Call it under ``jit``.  On several CPU devices wait for each call before the next, as ``train.run`` does: XLA's sum
    over them can deadlock when calls overlap.

    Args:
      algorithm: ``bptt(network)`` or another.
      devices: devices of one kind, as from ``devices_for(B)``; with one, the result is ``algorithm`` itself.

    Returns:
      An Algorithm with the same claim.

    Raises:
      InputError: when built, no device; when initialised or called, a batch that the number of devices does not divide.

    Examples:
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> algorithm = rj.data_parallel(rj.bptt(network), rj.devices_for(8))
      >>> algorithm.claim
      Exact(across_windows=False)
    """
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")
    listed = isinstance(devices, Sequence) and all(isinstance(device, jax.Device) for device in devices)
    distinct = listed and len(set(devices)) == len(devices) > 0
    require(distinct, "devices", devices, "different devices, like jax.devices()")
    if len(devices) == 1:
        return algorithm
    mesh = Mesh(np.array(devices), ("batch",))
    multiple = f"a multiple of {len(devices)}, the number of devices"

    def part(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        carry, estimate = algorithm.update(params, carry, batch)
        loss, grads, weight = jax.lax.psum(estimate[:3], "batch")
        return carry, Estimate(loss, grads, weight, estimate.info)

    parts = jax.shard_map(
        part, mesh=mesh, in_specs=(WHOLE, CARRY, WINDOW), out_specs=(CARRY, ESTIMATE), check_vma=False
    )

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        check_int(batch_size, "batch_size")
        require(batch_size % len(devices) == 0, "batch_size", batch_size, multiple)
        carry = algorithm.init(params, batch_size, key)
        for path, leaf in jax.tree.leaves_with_path((carry.recurrent, carry.memory)):
            by_row = is_array(leaf) and leaf.ndim > 0 and leaf.shape[0] == batch_size
            name = f"carry.{Carry._fields[path[0].idx]}{jax.tree_util.keystr(path[1:])}"
            require(by_row, name, describe(leaf), f"an array with {batch_size} rows; what is no example's is shared")
        places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), CARRY)
        recurrent, memory, shared = (jax.device_put(part, place) for part, place in zip(carry, places, strict=True))
        return Carry(recurrent, memory, shared)

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        require(isinstance(carry, Carry), "carry", describe(carry), "a Carry, as from init")
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        for name, array in zip(Batch._fields, batch, strict=True):
            if array is not None:
                known = is_array(array) and array.ndim >= 2
                require(known, f"batch.{name}", describe(array), "an array [T,B] or [T,B,…]")
                rows = Description(f"{describe(array)} with {array.shape[1]} columns")
                require(array.shape[1] % len(devices) == 0, f"batch.{name}", rows, multiple)
        split: tuple[Carry, Estimate] = parts(params, carry, batch)
        return split

    return Algorithm(init, update, algorithm.claim)
