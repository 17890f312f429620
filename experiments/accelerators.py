"""What an accelerator would run for each step of time, compiled for an H100 or a TPU v5e on a machine with neither.

A small recurrent step on a GPU is bound by launches: the H100's figure is the kernels in the bodies of the loops over
time.  The TPU's is its compiler's estimate of cycles, over the whole program, divided by T; work it gives no estimate
for, such as copies in the background, counts nothing.  Nothing is run.

Examples:
  python experiments/accelerators.py --platform cuda --cell lstm --hidden 512 --batch 64 --length 128
  python experiments/accelerators.py --platform tpu --cell gru --out tpu.json
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_LOG_DIR", "disabled")

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from peers import by_jax_grad
from timing import Case, network_of

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import check_int, require

COMPILERS = {"cuda": ("jax-cuda12-plugin", "jax-cuda12-pjrt"), "tpu": ("libtpu",)}
# "%name (arguments) -> result {", with ENTRY before the computation that is run
HEADER = re.compile(r"(ENTRY )?%?(\S+) \(.*\{$")
# "  %name = shape opcode(operands), attributes"; the shape of a tuple stands in brackets and has blanks
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][a-z\-]*)\((.*)")
LAUNCHES_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"}


class Instruction(NamedTuple):
    """One line of an HLO computation."""

    name: str
    shape: str
    opcode: str
    rest: str
    """Operands, attributes and the backend's remarks."""


Computations = dict[str, list[Instruction]]


def programs(case: Case, platform: Literal["cuda", "tpu"], segment: int | None = None) -> list[dict[str, Any]]:
    """Loss and gradient of a case, by hand and by ``jax.grad``: kernels or cycles per step, and bytes at peak."""
    for name, size in zip(case._fields[1:], case[1:], strict=True):
        check_int(size, name)
    require(case.length > 1, "length", case.length, "2 or more, so that there is a loop over time")
    network, device = network_of(case), _device(platform)
    params = jax.eval_shape(lambda key: rj.init(network, key), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((case.length, case.batch), jnp.int32)
    arguments = jax.tree.map(lambda leaf: leaf.update(sharding=device), (params, rj.Batch(tokens, tokens)))
    rows = []
    for name, algorithm in {"bptt": rj.bptt(network, segment), **by_jax_grad(network)}.items():
        with jax.default_matmul_precision("highest"):
            compiled = jax.jit(rj.value_and_grad(algorithm)).lower(*arguments).compile()
        memory, computations = compiled.memory_analysis(), _parse(compiled.as_text())
        if platform == "cuda":
            figures = _kernels(computations, case.length)
            peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        else:
            figures, peak = {"cycles_per_step": _cycles(computations) / case.length}, memory.peak_memory_in_bytes
        rows.append({"program": name, "platform": platform, **figures, "peak_bytes": peak})
    return rows


def _device(platform: str) -> jax.sharding.Sharding:
    """One device of the target, as its compiler knows it."""
    absent = [package for package in COMPILERS[platform] if not any(distributions(name=package))]
    versions = f"=={jax.__version__}" if platform == "cuda" else ""
    command = " ".join(["pip install --no-deps", *(package + versions for package in absent)])
    require(not absent, "platform", platform, f"one whose compiler is installed: {command}")
    if platform == "cuda":
        config = Path(__file__).with_name("h100.txtpb").read_text()
        target = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=config)
    else:
        target = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return jax.sharding.SingleDeviceSharding(target.devices[0])


def _kernels(computations: Computations, length: int) -> dict[str, Any]:
    """Launches per step in the loops over time, the innermost ones: the first half runs forward, the rest reverse."""
    bodies = [
        {"times": times, "kernels": _launches(computations, body)}
        for times, body in _walk(computations)
        if times > 1 and all(instruction.opcode != "while" for instruction in body)
    ]
    forward, reverse = (
        sum(body["times"] * len(body["kernels"]) for body in half) / length
        for half in (bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :])
    )
    return {"kernels_forward": forward, "kernels_reverse": reverse, "bodies": bodies}


def _launches(computations: Computations, body: list[Instruction]) -> list[dict[str, Any]]:
    """The kernels of a body: what each is, the operations fused in it, and the shapes it reads and writes."""
    shapes = {instruction.name: instruction.shape for instruction in body}
    kernels = []
    for name, shape, opcode, rest in body:
        if opcode not in LAUNCHES_NOTHING:
            fused = computations[_attribute(rest, "calls")] if opcode == "fusion" else []
            computes = sorted({inner.opcode for inner in fused} - LAUNCHES_NOTHING)
            reads = [shapes[operand] for operand in re.findall(r"%([\w.\-]+)", rest.split(")")[0])]
            kernels.append({"opcode": opcode, "name": name, "computes": computes, "reads": reads, "writes": shape})
    return kernels


def _cycles(computations: Computations) -> int:
    """The compiler's estimates, each as often as its instruction runs."""
    estimate = re.compile(r'"estimated_cycles":"(\d+)"')
    return sum(
        times * int(found[1])
        for times, body in _walk(computations)
        for instruction in body
        if (found := estimate.search(instruction.rest))
    )


def _parse(text: str) -> Computations:
    """The computations of an HLO module by name; the one that is run is called ENTRY."""
    computations: Computations = {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault("ENTRY" if header[1] else header[2], [])
        elif instruction := INSTRUCTION.match(line):
            current.append(Instruction(*instruction.groups()))
    return computations


def _walk(computations: Computations, name: str = "ENTRY", times: int = 1) -> Iterator[tuple[int, list[Instruction]]]:
    """A computation and the bodies of the loops in it, in the order in which they begin, and how often each runs."""
    yield times, computations[name]
    for instruction in computations[name]:
        if instruction.opcode == "while":
            body, trips = _attribute(instruction.rest, "body"), _trips(computations, instruction)
            yield from _walk(computations, body, times * trips)


def _trips(computations: Computations, loop: Instruction) -> int:
    """How often a loop's body runs: as the compiler says, or else the bound of its counter, which starts at 0."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = computations[_attribute(loop.rest, "condition")]
    (bound,) = (int(line.rest.split(")")[0]) for line in condition if line.opcode == "constant")
    return bound


def _attribute(rest: str, name: str) -> str:
    """The computation that an instruction names, as in ``body=%region_2.6``."""
    return re.search(rf"\b{name}=%?([\w.\-]+)", rest)[1]


@dataclass(frozen=True)
class Config:
    """What to compile."""

    platform: Literal["cuda", "tpu"] = "cuda"
    """cuda: an H100; tpu: a TPU v5e."""
    cell: Literal["elman", "lstm", "gru"] = "lstm"
    """The cell of the one layer."""
    hidden: int = 512
    """H."""
    batch: int = 64
    """B."""
    length: int = 128
    """T."""
    vocabulary: int = 65
    """D = K."""
    segment: int | None = None
    """Steps per segment of bptt; by default its own choice."""
    out: Path | None = None
    """JSON file for all of it, with every kernel of the loops over time."""


def run(config: Config) -> None:
    """Compile, print the table and write the file."""
    require(config.out is None or config.out.parent.is_dir(), "out", str(config.out), "a file in a folder that exists")
    case = Case(config.cell, config.hidden, config.batch, config.length, config.vocabulary)
    rows = programs(case, config.platform, config.segment)
    print(f"{config.platform}, {case}, float32, matmul precision highest")
    unit = "kernels a step, forward + reverse" if config.platform == "cuda" else "estimated cycles a step"
    print(f"{'program':<26}{unit:>35}{'MB at peak':>12}")
    for row in rows:
        cuda, tpu = "{kernels_forward:.3g} + {kernels_reverse:.3g}", "{cycles_per_step:,.0f}"
        figure = (cuda if config.platform == "cuda" else tpu).format(**row)
        print(f"{row['program']:<26}{figure:>35}{row['peak_bytes'] / 1e6:>12.1f}")
    if config.out:
        experiment.write_json(config.out, {"case": case._asdict(), "segment": config.segment, "programs": rows})


if __name__ == "__main__":
    experiment.main(Config, run)
