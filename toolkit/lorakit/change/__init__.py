"""The jobs that change LoRAs: how modules are read as factors, what is made of them, and which layers that gives.

How a file comes to be, whole or not at all, is `lorakit.output`'s matter.
"""
