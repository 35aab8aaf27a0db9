"""Changing LoRAs: what SPEC section 8 lists. Results are written by `lorakit.output`.

Each command is a file named after it with its job; what several need (names in each convention, PEFT's folders)
has a file of its own.
"""
