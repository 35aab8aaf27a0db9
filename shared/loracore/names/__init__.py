"""What the field calls things: conventions of keys, module names of base models, base families.

Pure data and lookups: no file is read here.
"""
