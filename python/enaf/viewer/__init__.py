# SPDX-License-Identifier: Apache-2.0
"""Seeing results: the page that compares images, and the local server that routes one image live."""
