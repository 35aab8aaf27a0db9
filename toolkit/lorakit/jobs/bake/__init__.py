"""`bake`: LoRAs merged into a base model, a layer at a time.

`base` is the model as it lies on the disk, `places` says which of its layers a module changes, `plan` puts several
LoRAs together and says what cannot be done, `output` is the copy in the making, and `job` does it.
"""
