"""Tasks whose solutions are known: what must be remembered, for how long, and the loss of those who do not."""

from rnn_jax.data.tasks.adding import ADDING_CHANCE, adding
from rnn_jax.data.tasks.copy_memory import copy_memory, copy_memory_chance
from rnn_jax.data.tasks.copying import COPYING_CHANCE, copying
from rnn_jax.data.tasks.delayed_addition import DELAYS, LEVELS, delayed_addition
from rnn_jax.data.tasks.flip_flop import flip_flop, flip_flop_chance
from rnn_jax.data.tasks.parity import PARITY_CHANCE, parity

__all__ = [
    "ADDING_CHANCE",
    "COPYING_CHANCE",
    "DELAYS",
    "LEVELS",
    "PARITY_CHANCE",
    "adding",
    "copy_memory",
    "copy_memory_chance",
    "copying",
    "delayed_addition",
    "flip_flop",
    "flip_flop_chance",
    "parity",
]
