"""CUDA's errors as CuPy raises them: one class for the runtime, another for what goes through the driver."""

from __future__ import annotations

INVALID_VALUE, NO_MEMORY, NOT_INITIALIZED, NO_DEVICE, INVALID_DEVICE = 1, 2, 3, 100, 101
INVALID_HANDLE, NOT_FOUND, NOT_READY, ILLEGAL_ADDRESS = 400, 500, 600, 700
ALREADY_REGISTERED, NOT_REGISTERED, LAUNCH_FAILURE, NOT_SUPPORTED = 712, 713, 719, 801

_RUNTIME = {
    INVALID_VALUE: "cudaErrorInvalidValue: invalid argument",
    NO_MEMORY: "cudaErrorMemoryAllocation: out of memory",
    NOT_INITIALIZED: "cudaErrorInitializationError: initialization error",
    NO_DEVICE: "cudaErrorNoDevice: no CUDA-capable device is detected",
    INVALID_DEVICE: "cudaErrorInvalidDevice: invalid device ordinal",
    INVALID_HANDLE: "cudaErrorInvalidResourceHandle: invalid resource handle",
    NOT_READY: "cudaErrorNotReady: device not ready",
    ILLEGAL_ADDRESS: "cudaErrorIllegalAddress: an illegal memory access was encountered",
    ALREADY_REGISTERED: (
        "cudaErrorHostMemoryAlreadyRegistered: part or all of the requested memory range is already mapped"
    ),
    NOT_REGISTERED: "cudaErrorHostMemoryNotRegistered: pointer does not correspond to a registered memory region",
    LAUNCH_FAILURE: "cudaErrorLaunchFailure: unspecified launch failure",
    NOT_SUPPORTED: "cudaErrorNotSupported: operation not supported",
}
_DRIVER = {
    INVALID_VALUE: "CUDA_ERROR_INVALID_VALUE: invalid argument",
    NO_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    NOT_INITIALIZED: "CUDA_ERROR_NOT_INITIALIZED: initialization error",
    NO_DEVICE: "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
    INVALID_HANDLE: "CUDA_ERROR_INVALID_HANDLE: invalid resource handle",
    NOT_FOUND: "CUDA_ERROR_NOT_FOUND: named symbol not found",
    ILLEGAL_ADDRESS: "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    LAUNCH_FAILURE: "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(_RUNTIME.get(status, "cudaErrorUnknown: unknown error"))
        self.status = status


class CUDADriverError(RuntimeError):
    """What compiling's and launching's failures are in CuPy: no CUDARuntimeError."""

    def __init__(self, status: int) -> None:
        super().__init__(_DRIVER.get(status, "CUDA_ERROR_UNKNOWN: unknown error"))
        self.status = status


class CompileException(Exception):
    """What the compiler said about a kernel."""


class Hung(BaseException):
    """Somebody waits for a launch that never ends."""
