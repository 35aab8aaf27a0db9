"""A file whose base family nothing tells: what is likely of it."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family

FAMILIES = (Family(name="unknown", component="unet", encoders=("te1",), kernels=unet.KERNELS),)
