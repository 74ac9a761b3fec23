# SPDX-License-Identifier: Apache-2.0
"""Many hosts: what all of them found, in one store.

Nothing here measures, and nothing here knows KVM. ``docs/fleet.md`` describes the store.
"""
