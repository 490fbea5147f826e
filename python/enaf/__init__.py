# SPDX-License-Identifier: Apache-2.0
"""ENAF in Python: models, estimator, decision, runtime, training, evaluation and the `enaf` command.

The public doors are `enaf_ext.upscale` and `enaf_ext.Upscaler`. Nothing is imported here, so that
`enaf doctor` can still explain an installation whose native library does not load.
"""
