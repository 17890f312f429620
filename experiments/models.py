"""The recurrent networks of memory_tasks.py and real_sequences.py: each a cell, how it starts, and how it is drawn."""

from typing import Any, NamedTuple

import figures
import jax

import rnn_jax as rj
from rnn_jax.checks import check_number, require
from rnn_jax.network import Recurrent


class Model(NamedTuple):
    """A cell, and how it starts."""

    cell: rj.Cell
    recurrent: Recurrent
    """How W is drawn, as in ``rj.init``."""
    look: dict[str, Any]
    """Its line in every plot."""
    chrono: bool = False
    """Whether its gates start with time constants of up to the length of a sequence."""

    def init(self, network: rj.Network, key: jax.Array, T: int) -> rj.Params:
        """The parameters of a network of this cell before training on sequences of T steps."""
        return rj.init(network, key, self.recurrent, chrono=T if self.chrono else None)


MODELS = {
    "elman": Model(rj.elman(), "orthogonal", {"color": figures.BLUE, "marker": "o", "ms": 8, "mfc": "none"}),
    "irnn": Model(rj.elman("relu"), "identity", {"color": figures.ORANGE, "marker": "s"}),
    "lstm": Model(rj.lstm(), "orthogonal", {"color": figures.GREEN, "marker": "^"}),
    "lstm-chrono": Model(rj.lstm(), "orthogonal", {"color": figures.GREEN, "marker": "v", "ls": "--"}, chrono=True),
    "gru": Model(rj.gru(), "orthogonal", {"color": figures.VERMILLION, "marker": "D"}),
    "gru-chrono": Model(rj.gru(), "orthogonal", {"color": figures.VERMILLION, "marker": "P", "ls": "--"}, chrono=True),
    "min_gru": Model(rj.min_gru(), "uniform", {"color": figures.PURPLE, "marker": "X"}),
}
"""By name, with the colours and markers of all plots."""


def check_models(models: tuple[str, ...]) -> None:
    """Refuse anything but names of models, one or more."""
    unknown = [name for name in models if name not in MODELS]
    require(models and not unknown, "models", unknown or models, f"some of {', '.join(MODELS)}")


def check_rates(rates: tuple[tuple[str, float], ...]) -> None:
    """Refuse anything but names of models, each with a learning rate."""
    for name, rate in rates:
        require(name in MODELS, "rates", name, f"some of {', '.join(MODELS)}, each with a learning rate")
        check_number(rate, "rates", 1e-12, 1e12, "a positive number after each name")
