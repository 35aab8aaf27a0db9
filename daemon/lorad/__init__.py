"""The daemon. It imports loracore only; the client talks to it and never imports it."""
