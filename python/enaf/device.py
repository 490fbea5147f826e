# SPDX-License-Identifier: Apache-2.0
"""Which device of this machine is meant."""

from __future__ import annotations

import torch


def usable_device(device: str) -> str:
    """The device's name, "auto" resolved.

    Raises:
        ValueError: torch cannot use it.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=name)
    # a name that is none: RuntimeError; a device without kernels: NotImplementedError; a torch without CUDA: AssertionError
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: {str(error).splitlines()[0]}") from None
    return name
