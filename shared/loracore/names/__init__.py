"""What the field calls things: module names of base models, naming conventions of LoRA files.

`families` holds one record a base family, `conventions` one table a convention; both are data. Beside them stands
what is asked of them: `keys` takes a key apart, `canonical` names its module, `recognition` finds the base family,
`blocks` the module's block and place, `originals` its other name. `loracore.adapter` reads the files.
"""
