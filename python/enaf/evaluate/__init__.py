# SPDX-License-Identifier: Apache-2.0
"""How good and how expensive a model is on images whose originals are known."""
