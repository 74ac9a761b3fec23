# SPDX-License-Identifier: Apache-2.0
"""``kickbench ab``: two kernels on one host, booted in turns. What it does is in kickbench.ab."""

from __future__ import annotations

import re
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kickbench import interrupts
from kickbench.cli import compare
from kickbench.cli.folders import folder as named_folder
from kickbench.cli.run import shipped_names
from kickbench.errors import (
    EXIT_INTERRUPTED,
    KickbenchError,
    MeasurementError,
    UsageError,
)

if TYPE_CHECKING:
    from kickbench.ab.state import State
    from kickbench.compare.runs import Comparison

app = typer.Typer(help="Measure two kernels on this host, in boots by turns.", no_args_is_help=True)

_Plan = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="The plan's folder: --state of kickbench ab start.",
        parser=named_folder,
    ),
]


@app.command()
def start(
    scenario: Annotated[
        str,
        typer.Argument(
            help="A scenario file, or the name of a shipped one.", autocompletion=shipped_names
        ),
    ],
    kernel: Annotated[
        list[str],
        typer.Option(
            "--kernel",
            metavar="KERNEL",
            help="Give it twice, for A and B. With --by kexec: a vmlinuz, or VMLINUZ,INITRD. With "
            "--by systemd: an entry of bootctl list.",
        ),
    ],
    by: Annotated[
        str, typer.Option("--by", metavar="kexec|systemd", help="How a kernel is booted once.")
    ],
    state: Annotated[
        Path,
        typer.Option(
            "--state", metavar="DIR", help="Keep the plan and its runs in DIR.", parser=named_folder
        ),
    ],
    boots: Annotated[int, typer.Option("--boots", help="Boots of each kernel.")] = 4,
    append: Annotated[
        str | None,
        typer.Option(
            "--append",
            metavar="WORDS",
            help="With --by kexec: more words for the command line of both kernels. The rest is "
            "that of the kernel that runs.",
        ),
    ] = None,
    settle: Annotated[
        float,
        typer.Option("--settle", metavar="SECONDS", help="Wait after each boot, before measuring."),
    ] = 60.0,
    quick: Annotated[bool, typer.Option("--quick", help="As for kickbench run.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Draws the order of the boots.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Reboot without asking.")] = False,
) -> None:
    """Make a plan of boots, and reboot into the first of them.

    After each boot, kickbench ab continue has to run, by packaging/systemd/kickbench-ab@.service
    for example. It measures the scenario and boots the next kernel. When all boots are measured,
    the host returns to its default kernel.
    """
    from kickbench.ab import hosts
    from kickbench.ab.job import go_on
    from kickbench.ab.order import FEWEST_BOOTS, MOST_BOOTS, order
    from kickbench.ab.state import Boot, State, check_new, create, made
    from kickbench.host.capabilities import probe
    from kickbench.scenario.files import load
    from kickbench.scenario.shipped import resolve

    if by not in hosts.HOSTS:
        raise UsageError(f"--by is kexec or systemd, not {by}")
    if len(kernel) != len("AB"):
        raise UsageError("give --kernel twice: the first kernel is A, the second is B")
    if not FEWEST_BOOTS <= boots <= MOST_BOOTS:
        raise UsageError(f"--boots is from {FEWEST_BOOTS} to {MOST_BOOTS}")
    if not 0 <= settle <= _LONGEST_SETTLE:
        raise UsageError(f"--settle is from 0 to {_LONGEST_SETTLE:g} seconds")
    if seed is not None and not 0 <= seed < _SEEDS:
        raise UsageError(f"--seed is from 0 to {_SEEDS - 1}")
    state = state.absolute()
    check_new(state)
    wanted = load(resolve(scenario))
    host = hosts.HOSTS[by]()
    host.check()
    kernels = [host.kernel(given, append) for given in kernel]
    found = probe()
    hosts.check(state, kernels, None if found.usable else str(found.reason))
    seed = secrets.randbits(32) if seed is None else seed
    letters = order(boots, seed)
    first, second = kernels
    plan = made(
        State,
        scenario=wanted.to_dict(),
        quick=quick,
        by=by,
        seed=seed,
        settle_seconds=settle,
        began_on=host.build(),
        kernels={"A": first, "B": second},
        boots=[Boot(kernel=letter) for letter in letters],
    )
    for letter, one in plan.kernels.items():
        with_what = f", with {one.initrd}" if one.initrd else ", without an initrd"
        _say(f"{letter} is {one.build} ({one.given}{with_what if by == 'kexec' else ''})")
    if users := hosts.who_is_here():
        _say(f"these users are logged in, and will lose what they do: {', '.join(users)}")
    _confirm(
        f"This will reboot this host {len(letters) + 1} times, measure {wanted.name} in the order "
        f"{''.join(letters)}, and return to the default kernel.",
        yes=yes,
    )
    create(state, plan)
    go_on(state, host, _measure, _say, time.sleep)


_LONGEST_SETTLE = 86400.0
_SEEDS = 2**64


@app.command("continue")
def continue_(plan: _Plan) -> None:
    """Do what is to be done in this boot: measure, and boot the next kernel.

    It runs after each boot, and does nothing if the plan has ended or was stopped. Exit codes: 0,
    it went on. 2, there is no plan, it is damaged, or its scenario cannot be measured. 3, this host
    cannot boot a kernel, which ends the plan, or another kickbench goes on with it. 4, a boot went
    wrong for the second time, which ends the plan, or the disk is full. 130, it was interrupted.
    """
    from kickbench.ab import hosts
    from kickbench.ab.job import go_on
    from kickbench.ab.state import load

    # A service manager ends the run when somebody shuts the host down.
    interrupts.heed(signal.SIGTERM)
    plan = plan.absolute()
    host = hosts.HOSTS[load(plan).by]()
    go_on(plan, host, _measure, _say, time.sleep)


@app.command()
def status(plan: _Plan) -> None:
    """Show each boot of a plan: what it gave, and what went wrong."""
    from kickbench.ab.state import is_stopped, load
    from kickbench.cli.terminal import BAD, GOOD, print_lines
    from kickbench.results.schema import one_line

    state = load(plan)
    done = sum(boot.run is not None for boot in state.boots)
    goes_on = state.end is None and not is_stopped(plan)
    how = "stopped" if is_stopped(plan) and state.end is None else state.end or "under way"
    lines = [(f"{how}: {done} of {len(state.boots)} boots are measured", "bold", "")]
    lines += [
        (f"{letter}: {kernel.build} ({kernel.given})", "", "   ")
        for letter, kernel in state.kernels.items()
    ]
    for number, boot in enumerate(state.boots, 1):
        lines += [
            (f"boot {number}, {boot.kernel}: {one_line(fault)}", BAD, "  ") for fault in boot.faults
        ]
        if boot.run is not None:
            lines.append((f"boot {number}, {boot.kernel}: {boot.run}", GOOD, "  "))
        elif boot.boot_id is not None:
            lines.append((f"boot {number}, {boot.kernel}: begun, and not finished", "", "  "))
        elif boot.asked_in is not None and goes_on:
            lines.append((f"boot {number}, {boot.kernel}: the host reboots into it", "", "  "))
    print_lines(lines)


@app.command()
def stop(plan: _Plan) -> None:
    """Have a plan make no more reboots. What was measured is kept.

    The host stays in the kernel that runs: reboot it to return to the default kernel. A run that is
    being measured goes on to its end. To go on with the plan later, delete the file "stopped" in
    its folder and run kickbench ab continue.
    """
    from kickbench.ab.state import STOPPED, load
    from kickbench.results.files import replace_file

    if (end := load(plan).end) is not None:
        _say(f"this plan is {end} already")
        return
    replace_file(plan / STOPPED, b"")
    _say("there will be no more reboots; the host stays in the kernel that runs now")


@app.command()
def report(
    plan: _Plan,
    every: compare.Every = False,
    as_json: compare.AsJson = False,
    fail_on_regression: compare.FailOnRegression = False,
    min_effect: Annotated[
        float,
        typer.Option(
            "--min-effect",
            metavar="PERCENT",
            help="Call a level slower or faster only if it differs by more than this.",
        ),
    ] = 0.0,
) -> None:
    """Compare the two kernels of a plan by its boots: B with A.

    A boot is one value. Boots beside each other in time are a pair, and the interval comes from the
    pairs. Two pairs are enough, so a plan need not have ended.
    """
    from kickbench.ab.state import load
    from kickbench.cli.terminal import print_lines
    from kickbench.results.schema import dump_json

    least = compare.as_part(min_effect)
    state = load(plan)
    found = _compared(plan, state, least)
    if as_json:
        runs = [[str(run) for run in pair] for pair in state.pairs(plan)]
        document = {"schema": 1, "pairs": runs, **compare.document(found)}
        typer.echo(dump_json(document, ensure_ascii=True), nl=False)
    else:
        base, other = (Path(state.kernels[letter].given) for letter in ("A", "B"))
        print_lines(compare.lines(found, base, other, every))
    if fail_on_regression:
        compare.fail_if_slower([found])


def _compared(plan: Path, state: State, min_effect: float) -> Comparison:
    from kickbench.compare.boots import compare_boots
    from kickbench.summary.data import RunData

    pairs = [
        (RunData.load(one).summary, RunData.load(other).summary) for one, other in state.pairs(plan)
    ]
    return compare_boots(pairs, min_effect=min_effect, names=("A", "B"))


_OF_RUN = re.compile(
    r"(; | or )choose another --results|(; |\n)the finished cases are kept.*", re.DOTALL
)
"""What the runner's errors advise, and nobody can do: a plan's runs have one place, and a boot is
measured in one piece."""


def _measure(state: State, folder: Path) -> None:
    """Run the plan's scenario as ``kickbench run`` does, into a folder."""
    from kickbench.remote.machines import machine_of
    from kickbench.run import runner
    from kickbench.run.progress import observer
    from kickbench.scenario.model import Scenario

    watching, display = observer()
    try:
        with machine_of(None) as machine, display:
            outcome = runner.run(
                Scenario.from_dict(state.scenario),
                folder,
                watching,
                quick=state.quick,
                wait=True,
                say=_say,
                machine=machine,
            )
    except runner.RunInterruptedError:
        _say("interrupted; kickbench ab continue measures this boot again")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except KickbenchError as error:
        raise type(error)(_OF_RUN.sub("", str(error))) from error
    if outcome.failed:
        case, reason = next(iter(outcome.failed.items()))
        raise MeasurementError(f"{case} failed: {reason}")


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        _say(what)
    elif not sys.stdin.isatty():
        raise UsageError(f"{what} Give --yes to confirm it")
    else:
        try:
            typer.confirm(f"{what}\nGo on?", abort=True)
        except typer.Abort:
            typer.echo("\nkickbench: nothing was done", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _say(text: str) -> None:
    from kickbench.text import printable

    typer.echo(printable(f"kickbench: {text}"), err=True)
