"""The intensity of a chaotic laser, one long series."""

import numpy as np

from rnn_jax.data.real.installed import installed_file


def santa_fe_laser() -> np.ndarray:
    """The 10,093 intensities of a far-infrared laser in a chaotic state, series A of the Santa Fe competition.

    Returns:
      float32 [10093], whole numbers from 0 to 255, in the order of time.

    Raises:
      InputError: the package reservoirpy is not installed.

    Examples:
      >>> from rnn_jax.data import real
      >>> series = real.santa_fe_laser()
      >>> series.shape, series[:5].tolist()
      ((10093,), [86.0, 141.0, 95.0, 41.0, 22.0])

    Source: Hübner, Abraham & Weiss, *Dimensions and entropies of chaotic intensity pulsations in a single-mode
    far-infrared NH3 laser*, Physical Review A 40 (1989); Weigend & Gershenfeld (eds.), *Time series prediction* (1993).
    """
    series: np.ndarray = np.load(installed_file("reservoirpy", "reservoirpy/datasets/santafe_laser.npy"))
    return series[:, 0].astype(np.float32)
