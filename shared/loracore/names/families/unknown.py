"""What is likely of a file whose base family is not known."""

from __future__ import annotations

from loracore.names import unet
from loracore.names.family import Family

FAMILIES = (Family(name="unknown", component="unet", encoders=("te1",), kernels=unet.KERNELS),)
