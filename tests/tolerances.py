# SPDX-License-Identifier: Apache-2.0
"""The one table of tolerances: absolute, for values in [0, 1], by the dtype that a result is rounded to."""

import torch

ATOL = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,  # a few roundings of sums of sixteen terms
    torch.float16: 1e-3,  # one rounding of a value in [1, 2), where the sums' orders differ
    torch.bfloat16: 8e-3,
    torch.uint8: 0,
    torch.uint16: 0,
    torch.int64: 0,
}

# Of FSRCNN whose weights and features are rounded to float16, where they are of the order of one: twice what rounding them
# between float32 layers does to the largest of the tests' networks.
HALF_FEATURES = 1.5e-2


def assert_same_layout(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same shape and, of axes longer than 1, the same strides: those of the others mean nothing."""
    assert actual.shape == expected.shape
    if actual.numel():
        strides = zip(actual.shape, actual.stride(), expected.stride(), strict=True)
        assert all(size == 1 or one == other for size, one, other in strides)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same shape, dtype, device and layout, and values within the table's tolerance."""
    assert_same_layout(actual, expected)
    if not actual.dtype.is_floating_point:
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
        return
    torch.testing.assert_close(actual, expected, atol=ATOL[actual.dtype], rtol=0)
