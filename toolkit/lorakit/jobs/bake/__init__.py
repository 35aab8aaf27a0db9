"""The job `bake`: LoRAs merged into a base model, a layer at a time (SPEC section 8).

`base` is the model as it lies on the disk, `places` says which of its layers a module changes, `plan` puts several
LoRAs together and says what cannot be done, `merging` computes, `output` is the copy in the making, and `job` does
it. Adding LoRAs to each other is `lorakit.jobs.merge`.
"""
