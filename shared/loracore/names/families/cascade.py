"""Stable Cascade (Stability-AI/StableCascade)."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family

FAMILIES = (Family(name="cascade", component="unet", marks=(unet.marked_by_context(1280),), kernels=unet.KERNELS),)
