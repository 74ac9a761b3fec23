# SPDX-License-Identifier: Apache-2.0
"""The file of a nightly job: its keys, and their defaults.

:func:`load` reads the file, and every scenario that it names, before anything is measured. The file
may have anything in it. A fault is a UsageError that names the file, the key, what was expected and
what was found. ``docs/nightly.md`` describes the keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from kickbench.compare.metrics import METRICS
from kickbench.errors import UsageError
from kickbench.nightly.settings import Settings
from kickbench.run.machine import is_host
from kickbench.scenario.files import load as load_scenario
from kickbench.scenario.files import read_toml
from kickbench.scenario.findings import Axis, Table, expected, expecting, explain, problem
from kickbench.scenario.model import Scenario
from kickbench.scenario.shipped import shipped
from kickbench.text import did_you_mean, quoted

THIS_HOST = "this host"
"""Stands for the machine that the job runs on. ssh knows no host with a space in its name."""

MAX_NIGHTS = 10_000
_USUAL = Settings()
_OF_DIFFERENCE = " difference"
_DEFAULT = "default"
_TRENDS = [name for name, metric in METRICS.items() if not metric.must_not]
_EFFECTS = (_DEFAULT, *_TRENDS, *(name + _OF_DIFFERENCE for name in _TRENDS))

_PathText = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    expecting("a path"),
]
_StoreText = Annotated[
    str,
    Field(strict=True, max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
    expecting("a folder or a URL"),
]
_ScenarioText = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    expecting("the name of a shipped scenario, or the path of a scenario file"),
]


def _host(text: str) -> str:
    if text != THIS_HOST and not is_host(text):
        raise ValueError
    return text


_HostText = Annotated[
    str,
    Field(strict=True, max_length=255),
    AfterValidator(_host),
    expecting(f'a host for ssh (user@box or box), or "{THIS_HOST}"'),
]
_RunId = Annotated[
    str,
    Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$"),
    expecting("the id of a run, as kickbench history show has it"),
]
_Nights = Annotated[
    int,
    Field(strict=True, ge=5, le=MAX_NIGHTS),
    expecting(f"a whole number of nights from 5 to {MAX_NIGHTS}"),
]
_Window = Annotated[
    int, Field(strict=True, ge=1, le=3), expecting("a whole number of nights from 1 to 3")
]
_Rate = Annotated[
    float,
    Field(strict=True, gt=0, lt=1, allow_inf_nan=False),
    expecting("a number between 0 and 1 (0.002 is 0.2 %)"),
]
_Effect = Annotated[
    float,
    Field(strict=True, ge=0, le=10, allow_inf_nan=False),
    expecting("a share from 0 to 10 (0.01 is 1 %)"),
]


def _table(value: Any) -> Any:
    if not isinstance(value, dict):
        raise expected("a table of metrics and shares")
    return value


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _of_metrics(effects: dict[str, float]) -> dict[str, float]:
    for name in effects:
        if name not in _EFFECTS:
            meant = did_you_mean(name, _EFFECTS) or f"; there are {', '.join(_TRENDS)}, each also "
            more = "" if meant.startswith("; did") else 'as "METRIC difference", and default'
            raise problem(f"no metric {quoted(name)}{meant}{more}")
    return effects


class Baseline(Table):
    """What tonight is compared with."""

    nights: _Nights = _USUAL.baseline_nights
    min_nights: _Nights = _USUAL.min_nights
    pinned: Annotated[tuple[_RunId, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _enough_nights_are_kept(self) -> Self:
        if self.min_nights > self.nights:
            raise problem(
                f"min_nights ({self.min_nights}) is more than nights ({self.nights}), so no "
                "baseline would ever be large enough; make it at most as large"
            )
        return self


class Decision(Table):
    """When to call a change."""

    false_discovery_rate: _Rate = _USUAL.false_discovery_rate
    window: _Window = _USUAL.window


class _File(Table):
    scenarios: Axis[_ScenarioText] = Field(
        description="What to measure each night: names of shipped scenarios, or paths"
    )
    hosts: Axis[_HostText] = Field(
        default=(THIS_HOST,), description="Where to measure it: as --host of kickbench run has it"
    )
    history: _PathText = "history"
    results: _PathText = "results"
    reports: _PathText = "reports"
    store: _StoreText = ""
    baseline: Baseline = Baseline()
    decision: Decision = Decision()
    min_effect: Annotated[
        dict[str, _Effect], BeforeValidator(_table), AfterValidator(_of_metrics)
    ] = Field(default_factory=dict)


_TABLES: dict[str, type[BaseModel]] = {"baseline": Baseline, "decision": Decision}


@dataclass(frozen=True)
class Config:
    """A nightly job: its scenarios, its hosts, its folders, and how to decide.

    ``hosts`` are as ``--host`` of ``kickbench run`` has them, or THIS_HOST.
    ``pinned`` has ids of runs, each the baseline of its own scenario and host. ``files`` are those
    that were read: the job's file (``path``), and those of the scenarios. ``store`` is the fleet's,
    as a folder or a URL, or "".
    """

    path: Path
    files: tuple[Path, ...]
    scenarios: tuple[Scenario, ...]
    hosts: tuple[str, ...]
    history: Path
    results: Path
    reports: Path
    store: str
    settings: Settings
    pinned: tuple[str, ...]


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a job's file and the scenarios that it names. Raises UsageError."""
    data, source = read_toml(path, "a nightly job's file", UsageError)
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, data, source, _File, _TABLES)) from None
    folder = Path(path).absolute().parent
    effects = {name: share for name, share in file.min_effect.items() if name != _DEFAULT}
    scenarios = _scenarios(file, source, folder)
    folders = {name: folder / getattr(file, name) for name in ("history", "results", "reports")}
    _check_folders(folders, list(scenarios), source)
    return Config(
        path=Path(path),
        files=(Path(path), *(scenario_file for _, scenario_file in scenarios.values())),
        scenarios=tuple(scenario for scenario, _ in scenarios.values()),
        hosts=file.hosts,
        **folders,
        store=file.store if "://" in file.store or not file.store else str(folder / file.store),
        settings=Settings(
            baseline_nights=file.baseline.nights,
            min_nights=file.baseline.min_nights,
            window=file.decision.window,
            # The rate is for the whole night, so the scenarios share it, each on each host.
            false_discovery_rate=file.decision.false_discovery_rate
            / (len(file.scenarios) * len(file.hosts)),
            min_effect=effects,
            default_min_effect=file.min_effect.get(_DEFAULT, _USUAL.default_min_effect),
        ),
        pinned=file.baseline.pinned,
    )


def _check_folders(folders: Mapping[str, Path], scenarios: list[str], source: str) -> None:
    """Refuse a folder whose files would be taken for the contents of another."""
    try:
        real = {name: path.resolve() for name, path in folders.items()}
    except (OSError, RuntimeError):  # a loop of symlinks, which making the folders will report
        return
    names = list(real)
    runs = {real["results"] / scenario: scenario for scenario in scenarios}
    for number, name in enumerate(names):
        advice = "; give it a folder of its own"
        above = (real[name], *real[name].parents)
        for other in names[:number]:
            if real[name] == real[other]:
                raise UsageError(f"{source}: {name}: is the folder of the {other}{advice}")
        if name != "history" and real["history"] in above:
            raise UsageError(f"{source}: {name}: is in the folder of the history{advice}")
        if taken := [scenario for path, scenario in runs.items() if path in above]:
            raise UsageError(f"{source}: {name}: is where the runs of {taken[0]} go{advice}")


def _scenarios(file: _File, source: str, folder: Path) -> dict[str, tuple[Scenario, Path]]:
    """The scenarios by name, each with its file."""
    found: dict[str, tuple[Scenario, Path]] = {}
    ours = shipped()
    for number, text in enumerate(file.scenarios):
        where = f"{source}: scenarios[{number}]"
        path = folder / text
        try:
            exists = path.exists() and not (path.is_dir() and text in ours)
        except OSError:  # a name that no file can have, or a folder that we cannot enter
            exists = False
        if not exists and text not in ours:
            raise UsageError(
                f"{where}: {quoted(text)} is no file beside this one, and no shipped scenario"
                f"{did_you_mean(text, ours)}\nshipped: {', '.join(ours) or 'none'}"
            )
        chosen = path if exists else ours[text]
        scenario = load_scenario(chosen)
        if scenario.name in found:
            raise UsageError(
                f"{where}: {quoted(text)} is called {scenario.name}, as another scenario of this "
                "job is, so their nights would mix; give it another name"
            )
        found[scenario.name] = scenario, chosen
    return found
