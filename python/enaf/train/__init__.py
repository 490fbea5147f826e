# SPDX-License-Identifier: Apache-2.0
"""Three-phase training: backbone, early exits, estimator."""
