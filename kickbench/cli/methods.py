# SPDX-License-Identifier: Apache-2.0
"""``kickbench methods``: prints the kick protocols and the signal transports.

It says for each whether this host supports it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from kickbench.cli.run import Host
from kickbench.remote.machines import machine_of


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    host: Host = None,
) -> None:
    """List the kick protocols and signal transports.

    The list says which of them this host supports, and why it does not support the others.
    """
    import dataclasses
    import json

    from kickbench.host.capabilities import REQUIREMENTS, supports, supports_transport
    from kickbench.methods import CATALOGUE
    from kickbench.scenario.kinds import TRANSPORTS

    with machine_of(host) as machine:
        capabilities = machine.look().capabilities
    reasons = {method.id: supports(method, capabilities) for method in CATALOGUE.values()}
    transports = {name: supports_transport(name, capabilities) for name in TRANSPORTS}
    if as_json:
        rows = [
            dataclasses.asdict(method)
            | {"supported": reasons[method.id] is None, "reason": reasons[method.id]}
            for method in CATALOGUE.values()
        ]
        sent = [
            {"id": name, "doc": doc, "supported": transports[name] is None}
            | {"reason": transports[name]}
            for name, doc in TRANSPORTS.items()
        ]
        typer.echo(json.dumps({"schema": 1, "methods": rows, "transports": sent}, indent=2))
        return

    supported = sum(1 for reason in reasons.values() if reason is None)
    typer.secho(
        f"{host or 'This host'} supports {supported} of {len(CATALOGUE)} kick protocols.", bold=True
    )
    if not capabilities.usable:
        typer.echo(capabilities.reason)
    for method in CATALOGUE.values():
        reason = reasons[method.id]
        if reason is not None and not capabilities.usable:
            reason = "KVM is not usable"
        typer.echo()
        typer.echo(f"  {typer.style(method.id, bold=True)}: {_support(reason)}")
        needs = method.needs and REQUIREMENTS.get(method.needs, method.needs)
        for title, text in (
            ("kicker", method.kicker),
            ("vCPU thread", method.vcpu_thread),
            ("handler", method.handler or "none: there is no signal"),
            ("mask", method.mask or "none: there is no signal"),
            ("claim", "race-free" if method.race_free else "loses kicks"),
            ("needs", needs or "any KVM"),
            ("used by", method.used_by),
        ):
            typer.echo(f"      {title:<11}  {text}")

    typer.echo()
    typer.secho("A kick signal is sent by one of these transports:", bold=True)
    width = max(map(len, TRANSPORTS))
    for name, doc in TRANSPORTS.items():
        typer.echo()
        typer.echo(f"  {typer.style(f'{name:<{width}}', bold=True)}  {_support(transports[name])}")
        typer.echo(f"      {doc}")


def _support(reason: str | None) -> str:
    return "supported" if reason is None else f"not supported: {reason}"
