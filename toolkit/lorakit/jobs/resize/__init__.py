"""The job `resize`: a LoRA of other ranks (SPEC section 8)."""
