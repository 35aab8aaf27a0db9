"""Takes CuPy's place where there is no GPU; see `tests/emulation/__init__.py`.

`_settings` says what GPU it is, `_errors` what goes wrong, `_memory` holds its memory and the pinned memory of
this process, `_gpu` its streams, `_kernel` compiles and launches. `cuda` is the face.
"""

from cupy import cuda
from cupy._kernel import RawModule

__version__ = "14.2.0"
__all__ = ["RawModule", "cuda"]
