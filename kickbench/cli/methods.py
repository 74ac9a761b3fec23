# SPDX-License-Identifier: Apache-2.0
"""``kickbench methods``: prints the catalogue of kick protocols with this host's support."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the kick protocols, and which of them this host supports."""
    import dataclasses
    import json

    from kickbench.host.capabilities import probe, supports
    from kickbench.methods import CATALOGUE

    capabilities = probe()
    reasons = {method.id: supports(method, capabilities) for method in CATALOGUE.values()}
    if as_json:
        rows = [
            dataclasses.asdict(method)
            | {"supported": reasons[method.id] is None, "reason": reasons[method.id]}
            for method in CATALOGUE.values()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return

    supported = sum(1 for reason in reasons.values() if reason is None)
    typer.secho(f"This host supports {supported} of {len(CATALOGUE)} kick protocols.", bold=True)
    if not capabilities.usable:
        typer.echo(capabilities.reason)
    width = max(map(len, CATALOGUE))
    for method in CATALOGUE.values():
        reason = reasons[method.id]
        if reason is None:
            support = "supported"
        elif capabilities.usable:
            support = f"not supported: {reason}"
        else:
            support = "not supported: KVM is not usable"
        race = "race-free" if method.race_free else "loses kicks"
        typer.echo()
        typer.echo(f"  {typer.style(f'{method.id:<{width}}', bold=True)}  {race:<11}  {support}")
        typer.echo(f"      kicker       {method.kicker}")
        typer.echo(f"      vCPU thread  {method.vcpu_thread}")
        typer.echo(f"      used by      {method.used_by}")
