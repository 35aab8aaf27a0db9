"""A GPU for machines without one: put this folder on PYTHONPATH, and `import cupy` finds the package in it.

It has the part of CuPy 14 that lorad uses, with the same names, signatures and errors, and runs the real kernel
on the CPU, lane for lane (`lanes.cpp`, compiled by g++). It is an examiner rather than a fast GPU: what CUDA
leaves open it does in the way that shows mistakes. Nothing in here knows lorad.
"""
