"""The job `compare`: what two models differ by, layer by layer (SPEC section 8)."""
