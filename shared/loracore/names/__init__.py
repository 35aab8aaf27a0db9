"""What the field calls things: conventions of keys, module names of base models, base families.

`keys` reads a key, `conventions` writes one, `canonical` and `architectures` give a module its real name,
`originals` its name in the original model, `families` tells which base it is for. Tables and look-ups: no file is
read here. What the tensors under these names mean is in `loracore.adapter`.
"""
