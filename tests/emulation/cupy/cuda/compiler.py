from cupy._errors import CompileException

__all__ = ["CompileException"]
