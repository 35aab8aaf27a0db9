"""Digesting on a GPU: the kernel, on an emulated GPU everywhere and on a real one where there is one."""
