"""How the programs of the tests, and of the scripts that they start, are compiled in a third of the time.

Few of XLA's optimisations are made, a program is compiled in one piece, and XLA's older code for loops is taken where
it has that.  With ``RNN_JAX_OPTIMISE=1`` programs are compiled as users compile them.
"""

import importlib.metadata
import os

UNOPTIMISED = "RNN_JAX_OPTIMISE" not in os.environ
XLA_OPTIONS = {"xla_cpu_parallel_codegen_split_count": 1}  # a program is small, and a worker has one core
if importlib.metadata.version("jaxlib").startswith("0.10."):
    XLA_OPTIONS["xla_cpu_use_fusion_emitters"] = False  # the older code for loops
_FLAGS = [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={str(value).lower()}" for name, value in XLA_OPTIONS.items())]
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join(_FLAGS)} if UNOPTIMISED else {}
"""Variables by which a script in a process of its own compiles so."""
