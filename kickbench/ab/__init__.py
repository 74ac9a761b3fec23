# SPDX-License-Identifier: Apache-2.0
"""Two kernels on one host: boots one after the other, measures in each, and keeps its place.

A plan is a folder. What is in it survives every reboot. Nothing here measures, and nothing here
compares: the command line passes in what does.
"""
