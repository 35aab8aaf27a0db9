"""The job `merge`: several LoRAs as one (SPEC section 8)."""
