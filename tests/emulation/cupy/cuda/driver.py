from cupy._errors import CUDADriverError

__all__ = ["CUDADriverError"]
