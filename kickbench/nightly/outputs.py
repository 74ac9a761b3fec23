# SPDX-License-Identifier: Apache-2.0
"""A night in words for people (Markdown), for a CI's page of tests (JUnit) and for programs (JSON).

:data:`OUTPUTS` is the table. The answer comes first, in one sentence. Nothing is decided here.
Names may come from a history that other people write to, so each output escapes them.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kickbench
from kickbench.compare.identity import Change
from kickbench.compare.metrics import METRICS
from kickbench.errors import EXIT_HOST, EXIT_USAGE
from kickbench.nightly.job import Part, Result
from kickbench.nightly.judgement import Judgement
from kickbench.nightly.remarks import lost_kicks
from kickbench.nightly.trends import QUIET, Key, key_name
from kickbench.numbers import listed, measured, plural, significant
from kickbench.report.words.markdown import bullet, code, escaped, paragraph, table
from kickbench.report.words.names import emulation
from kickbench.results.schema import dump_json
from kickbench.text import printable

SCHEMA = 1
_MOST_STEPS = 5
_MOST_GROUPS = 10
_MOST_LINES = 5
_MOST_CHANGES = 6
_SUREST = 100_000
"""The largest odds that are printed, because the model of the noise ends there."""

_RANK = {name: rank for rank, name in enumerate(METRICS)}


# --- words that all outputs share --------------------------------------------------------------


def headline(result: Result) -> str:
    """The answer, in a sentence or two."""
    said = " ".join(_headline(result))
    emulated = {emulation(p.night.document) for p in result.parts if p.night is not None} - {""}
    return f"{' and '.join(sorted(emulated))}: {said}" if emulated else said


def _headline(result: Result) -> Iterator[str]:
    lost = [(part, each) for part in result.parts for each in part.lost]
    worse = [judgement for part in result.parts for judgement in part.regressions]
    judged = sum(len(part.judged) for part in result.parts)
    nights = [part for part in result.parts if part.night is not None]
    if lost:
        more = f"; and {len(lost) - 1} more like it" if len(lost) > 1 else ""
        first_part, first_lost = lost[0]
        what = "Kicks were lost{} that must not be lost"
        if first_lost["what"] == "accesses":
            what = "The guest and the host disagree{}"
        yield f"{what.format(_on([first_part]))}: {lost_kicks(first_lost)}{more}."
    if worse:
        part, first = max(
            ((part, some) for part in result.parts for some in _together(part)),
            key=lambda item: _importance(item[1]),
        )
        more = f", and {len(worse) - len(first)} more" if len(worse) > len(first) else ""
        yield (
            f"{plural(len(worse), 'metric')} got {_word(worse)}: {_what(first[0].key)} by "
            f"{_range(first, signed=False)} in {_where(first)}{_on([part])} "
            f"{_since(part, first[0])}{more}."
        )
    elif judged:
        yield (
            f"{'No other regression' if lost else 'No regression'} in {plural(judged, 'metric')} "
            f"of {_counted([part for part in nights if part.judged])} ({_baseline(nights)})."
        )
    elif disturbed := [part for part in nights if part.disturbed]:
        why = _why_no_witness(disturbed)
        yield f"{why[0].upper()}{why[1:]}: the night is not evidence{_on(disturbed)}."
    elif nights:
        longest = max(nights, key=lambda part: len(part.nights))
        if len(longest.nights) <= 1:
            yield "The first night: there is nothing yet to compare it with."
        else:
            why = _why_undecided(longest, result.fewest_nights)
            yield f"No decision yet{_on([longest])}: {why}."
    else:
        yield "Nothing was measured."
    if failed := [part for part in nights if part.cases("failed")]:
        count = sum(len(part.cases("failed")) for part in failed)
        yield f"{plural(count, 'case')} failed{_on(failed)}."
    missing = [part for part in result.parts if part.night is None]
    if missing and nights:
        yield f"Not measured: {_names(missing)}."
    if result.interrupted is not None:
        yield "The job was interrupted."


def _on(parts: Iterable[Part]) -> str:
    """E.g. " on root@amd and root@intel"; nothing if the job has only one host."""
    hosts = dict.fromkeys(part.host for part in parts if part.several)
    return f" on {listed([*hosts])}" if hosts else ""


def _names(parts: Iterable[Part]) -> str:
    """E.g. "quick and race"; of several hosts "quick and race on root@amd; race on root@intel"."""
    of_host: dict[str, list[Part]] = {}
    for part in parts:
        of_host.setdefault(part.host, []).append(part)
    return "; ".join(
        listed([part.scenario for part in some]) + _on(some) for some in of_host.values()
    )


def _counted(parts: list[Part]) -> str:
    """E.g. "2 scenarios", or "2 scenarios on 3 hosts" if the job has several."""
    scenarios = plural(len({part.scenario for part in parts}), "scenario")
    hosts = len({part.host for part in parts if part.several})
    return f"{scenarios} on {plural(hosts, 'host')}" if hosts else scenarios


def _why_no_witness(parts: Iterable[Part]) -> str:
    """Why cases are not judged, e.g. "the host was busy (others used 20 to 37 % of its CPUs)"."""
    found = [(part, case, why) for part in parts for case, why in part.disturbed.items()]
    loads = [part.night.load(case) for part, case, _ in found if part.night is not None]
    known = sorted(load for load in loads if load > QUIET)
    if not known:
        return found[0][2]
    ends = dict.fromkeys(f"{100 * load:.0f}" for load in (known[0], known[-1]))
    return f"the host was busy (others used {' to '.join(ends)} % of its CPUs)"


def _why_undecided(part: Part, fewest_nights: int) -> str:
    """Why nothing is judged of a scenario that has nights."""
    waiting = part.decision.of("too little history")
    if not waiting:
        return "nothing has a value tonight"
    # The metric that will be judged first.
    first = max(waiting, key=lambda j: len(part.measured_on.get(j.key, ())))
    count = len(part.measured_on.get(first.key, ()))
    if part.pinned is None and not part.accepted_from.get(first.key):
        if count == 1:
            return "all metrics are new tonight"
        if count < fewest_nights:
            return f"{count} of the {fewest_nights} nights that a decision takes"
    return first.reason


def sentence(part: Part, judgement: Judgement) -> str:
    """One change in full: which metric, by how much, since when, how sure, and with what."""
    last, changes = part.changed_with(judgement)
    word = "better" if judgement.verdict == "improvement" else _word([judgement])
    words = (
        f"{_what(judgement.key)} in {judgement.key.case}{_on([part])} got {word}: "
        f"{_amount(judgement)} "
        f"({_interval(judgement)}), {_levels(judgement)}, {_since(part, judgement)}; "
        f"{_sure(judgement.q)}"
    )
    if judgement.common:
        words += f"; {judgement.reason}"
    if changes:
        words += f"; changed with it: {_listed_changes(changes)}"
    elif last is not None:
        words += "; no known fact of the host changed with it"
    return words


def _what(key: Key) -> str:
    """E.g. "time per exit of sigmask", or "time per exit of sigmask − immediate_exit"."""
    title = METRICS[key.metric].title if key.metric in METRICS else key.metric
    # _who() has a minus sign, because a hyphen at the start of a line would begin a list.
    return f"{title} of {_who(key)}"


def _who(key: Key) -> str:
    return key.method if key.baseline is None else f"{key.method} \N{MINUS SIGN} {key.baseline}"


def _word(judgements: Iterable[Judgement]) -> str:
    """ "slower" for times and rates, "worse" if there is another metric among them."""
    units = {METRICS[j.key.metric].unit if j.key.metric in METRICS else "" for j in judgements}
    return "slower" if units <= {"ns", "1/s"} else "worse"


def _unit(key: Key) -> str:
    unit = METRICS[key.metric].unit if key.metric in METRICS else ""
    return "" if unit == "share" else unit


def _extent(judgement: Judgement) -> float:
    return abs(judgement.relative) if math.isfinite(judgement.relative) else math.inf


def _rank(key: Key) -> tuple[bool, int, str]:
    """The key to sort by: levels before differences, then the order of METRICS."""
    return key.baseline is not None, _RANK.get(key.metric, len(_RANK)), key_name(key)


def _ranked(judgements: Iterable[Judgement]) -> list[Judgement]:
    """The largest change first."""
    return sorted(judgements, key=lambda j: (-_extent(j), _rank(j.key)))


def _together(part: Part) -> list[list[Judgement]]:
    """The regressions, grouped by metric and first night, over all cases. The oldest is first."""
    found: dict[tuple[Any, ...], list[Judgement]] = {}
    for judgement in sorted(part.regressions, key=lambda j: (j.since or 0, _rank(j.key))):
        _, *what = judgement.key
        found.setdefault((judgement.since, *what), []).append(judgement)
    return [_ranked(some) for some in found.values()]


def _importance(some: list[Judgement]) -> tuple[Any, ...]:
    """The key by which a headline chooses: the size, then the metric that readers know best."""
    extent = max(map(_extent, some))
    size = math.inf if not math.isfinite(extent) else round(math.log2(max(extent, 1e-9)))
    paired, rank, _ = _rank(some[0].key)
    return size, not paired, -rank, extent


def _size(judgement: Judgement) -> tuple[float, float, float, str]:
    """A change, its interval and unit: per cent for a level, its own unit for a difference."""
    effect, low, high = judgement.effect, judgement.low, judgement.high
    if judgement.key.baseline is not None or not math.isfinite(judgement.relative) or not effect:
        return effect, low, high, _unit(judgement.key)
    scale = 100 * judgement.relative / effect
    return judgement.relative * 100, low * scale, high * scale, "%"


def _amount(judgement: Judgement) -> str:
    """E.g. "+1.2 %"."""
    value, low, high, unit = _size(judgement)
    known = math.isfinite(high - low) and high > low
    text = measured(value, (low, high))[0] if known else significant(value, 3)
    return f"{'+' if value > 0 else ''}{text} {unit}".rstrip()


def _range(some: list[Judgement], *, signed: bool = True) -> str:
    """E.g. "1.7 to 2.0 %", or signed "+1.7 to +2.0 %". ``some`` has the largest change first."""
    ends = [some[-1], some[0]] if len(some) > 1 else some
    texts = []
    for judgement in ends:
        value = _size(judgement)[0]
        text = significant(abs(value), 2)
        sign = "+" if value > 0 else "-"
        texts.append(f"{sign}{text}" if signed else text)
    return f"{' to '.join(dict.fromkeys(texts))} {_size(some[0])[3]}".rstrip()


def _where(some: list[Judgement]) -> str:
    return some[0].key.case if len(some) == 1 else f"{len(some)} cases"


def _interval(judgement: Judgement) -> str:
    """E.g. "95 % CI 0.9 to 1.5 %"."""
    value, low, high, unit = _size(judgement)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    if low == high:
        return "exact"
    _, first, last = measured(value, (low, high))
    return f"95 % CI {first} to {last} {unit}".rstrip()


def _levels(judgement: Judgement) -> str:
    """E.g. "2,080 → 2,169 ns"."""
    before, after = judgement.baseline, judgement.baseline + judgement.effect
    width = judgement.high - judgement.low
    if math.isfinite(width) and width > 0:
        texts = [measured(v, (judgement.low, judgement.high))[0] for v in (before, after)]
    else:
        texts = [significant(value) for value in (before, after)]
    return f"{texts[0]} → {texts[1]} {_unit(judgement.key)}".rstrip()


def _since(part: Part, judgement: Judgement) -> str:
    """E.g. "since 2026-01-19 (3 nights)", or "tonight"."""
    if judgement.since is None:
        return "tonight"
    tonight = len(part.nights) - 1
    if judgement.since >= tonight:
        return f"since tonight ({_day(part, tonight)})"
    slowly = "slowly " if judgement.drift else ""
    count = plural(tonight - judgement.since + 1, "night")
    return f"{slowly}since {_day(part, judgement.since)} ({count})"


def _day(part: Part, night: int) -> str:
    return part.nights.when_utc[night][:10]


def _sure(q: float) -> str:
    """E.g. "about 1 in 4,000 such alarms is false"."""
    if not math.isfinite(q):
        return "the odds of a false alarm are not known"
    if q * _SUREST < 1:
        return f"fewer than 1 in {_SUREST:,} such alarms is false"
    odds = 1 / q
    digits = len(str(int(odds))) - 1
    return f"about 1 in {max(1, round(odds, -digits)):,.0f} such alarms is false"


def _listed_changes(changes: Iterable[Change]) -> str:
    words = [f"{c.title}: {c.before} → {c.after}" for c in changes]
    return "; ".join(_shortened(words, _MOST_CHANGES))


def _shortened(words: list[str], most: int) -> list[str]:
    more = len(words) - most
    return [*words[:most], f"{more:,} more"] if more > 0 else words


def _baseline(parts: Iterable[Part]) -> str:
    """E.g. "12 nights of baseline", or "7 to 12 nights of baseline"."""
    judged = [part for part in parts if part.judged]
    counts = [max(j.baseline_nights for j in p.judged) for p in judged if p.pinned is None]
    words = []
    if counts:
        few, most = min(counts), max(counts)
        words.append(f"{f'{few} to ' if few < most else ''}{plural(most, 'night')} of baseline")
    if pinned := [part.pinned for part in judged if part.pinned is not None]:
        words.append(f"against {listed(pinned)}")
    return ", ".join(words)


# --- Markdown ----------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The night for people: the answer, what it rests on, and a table."""
    blocks = [paragraph(f"**{escaped(headline(result))}**")]
    for part in result.parts:
        blocks += _steps_of(part)
    if notes := [bullet(note) for note in _notes(result)]:
        blocks.append("\n".join(notes))
    if any(part.night is not None for part in result.parts):
        blocks.append(_overview(result))
    written = [(part, path) for part in result.parts for path in (part.report, part.trend) if path]
    if written:
        lines = [
            f"- {code(_shown(path))} {escaped(_on([part]))}".rstrip() for part, path in written
        ]
        blocks.append("\n".join(["Reports and trends:", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _steps_of(part: Part) -> Iterator[str]:
    """The regressions of a scenario, one step for each night."""
    steps: dict[int | None, list[list[Judgement]]] = {}
    for some in _together(part):
        steps.setdefault(some[0].since, []).append(some)
    for number, groups in enumerate(steps.values()):
        if number == _MOST_STEPS:
            yield f"And {plural(len(steps) - number, 'more step')}: the trend page has them all."
            return
        yield paragraph(" ".join(_step(part, groups)))
        lines = [bullet(_group(some)) for some in groups[:_MOST_GROUPS]]
        if rest := sum(map(len, groups[_MOST_GROUPS:])):
            lines.append(f"- and {plural(rest, 'more metric')}")
        yield "\n".join(lines)


def _step(part: Part, groups: list[list[Judgement]]) -> Iterator[str]:
    """The sentences of a step: since when, what else changed, and the odds of a false alarm."""
    first = groups[0][0]
    since = _since(part, first)
    last, changes = part.changed_with(first)
    if changes:
        since += f", with {_listed_changes(changes)}"
    elif last is not None:
        since += ", when no known fact of the host changed"
    yield f"{escaped(part.name)} {escaped(since)}."
    for why in dict.fromkeys(j.reason for some in groups for j in some if j.common):
        yield f"{why[0].upper()}{why[1:]}."
    sure = _sure(max(judgement.q for some in groups for judgement in some))
    yield f"{sure[0].upper()}{sure[1:]}."


def _group(some: list[Judgement]) -> str:
    """One metric in all cases where it got worse."""
    largest = some[0]
    case = code(largest.key.case)
    numbers = f"{_interval(largest)}; {escaped(_levels(largest))}"
    if len(some) == 1:
        return f"{escaped(_what(largest.key))}: **{_amount(largest)}** in {case} ({numbers})"
    return (
        f"{escaped(_what(largest.key))}: **{_range(some)}** in {len(some)} cases, most in {case} "
        f"({numbers})"
    )


def _notes(result: Result) -> Iterator[str]:
    """What else there is to know, one line of Markdown each."""
    for part in result.parts:
        yield from _by_host(part, _failures(part))
    # Scenarios that have the same error share a line, such as an error of the host.
    alike: dict[tuple[bool, str], list[Part]] = {}
    for part in result.parts:
        for error, _ in part.errors:
            alike.setdefault((part.run is None, error), []).append(part)
    for (unmeasured, error), parts in alike.items():
        were = "was" if len(parts) == 1 else "were"
        what = f"{were} not measured" if unmeasured else f"{were} measured, but"
        yield f"{escaped(_names(parts))} {what}: {escaped(error)}"
    if result.interrupted is not None:
        yield escaped(f"The job was interrupted: {result.interrupted}")
    for part in result.parts:
        yield from _by_host(part, _findings(part))
    yield from (escaped(line) for line in _shortened(list(result.problems), _MOST_LINES))


def _by_host(part: Part, lines: Iterable[str]) -> Iterator[str]:
    """The lines, each with its host before it if the job has several."""
    yield from (f"{escaped(part.host)}: {line}" if part.several else line for line in lines)


def _failures(part: Part) -> Iterator[str]:
    """The kicks that were lost, and the cases that failed."""
    yield from _shortened([escaped(lost_kicks(lost)) for lost in part.lost], _MOST_LINES)
    yield from _shortened(
        [
            f"{code(case['id'])} failed: {escaped(case['reason'] or 'no reason is known')}"
            for case in part.cases("failed")
        ],
        _MOST_LINES,
    )


def _findings(part: Part) -> Iterator[str]:
    """What is odd about the night of a scenario, and what is no alarm."""
    yield from (escaped(remark) for remark in part.remarks)
    if gone := part.decision.of("not measured"):
        names = {j.key.case for j in gone}
        yield (
            f"{plural(len(gone), 'metric')} of {plural(len(names), 'case')} of "
            f"{escaped(part.scenario)} {'has' if len(gone) == 1 else 'have'} no value tonight"
        )
    yield from (escaped(line) for line in _of_load(part))
    if suspects := _ranked(part.decision.suspects):
        busy = any(judgement.verdict == "no witness" for judgement in suspects)
        why = "nights of a busy host raise" if busy else "a single night raises"
        yield f"Far off tonight, but {why} no alarm: {_some(suspects)}"
    if better := _ranked(part.decision.of("improvement")):
        yield f"Better than before: {_some(better)}, {escaped(_since(part, better[0]))}"


def _of_load(part: Part) -> Iterator[str]:
    """What other work on the host means for the figures, one line each."""
    if disturbed := part.disturbed:
        count = f"{len(disturbed)} of {plural(len(part.cases('ok')), 'case')} of {part.scenario}"
        are = "is" if len(disturbed) == 1 else "are"
        yield f"{count} {are} not evidence tonight: {_why_no_witness([part])}"
    if still := [judgement for judgement in part.decision.judgements if judgement.open]:
        first = f"{_what(still[0].key)} in {still[0].key.case}"
        more = f" and {plural(len(still) - 1, 'more metric')}" if len(still) > 1 else ""
        yield f"The last alarm still stands; tonight neither confirms nor ends it: {first}{more}"


def _some(judgements: list[Judgement]) -> str:
    first = judgements[0]
    more = f" and {len(judgements) - 1} more" if len(judgements) > 1 else ""
    return f"{escaped(_what(first.key))} in {code(first.key.case)} ({_amount(first)}){more}"


def _overview(result: Result) -> str:
    """A row per scenario, and per host if the job has several."""
    heads: tuple[str, ...] = ("scenario", "cases", "metrics", "worse", "better", "baseline")
    right: tuple[bool, ...] = (False, False, True, True, True, False)
    rows = [_row(part) for part in result.parts]
    if any(part.several for part in result.parts):
        heads, right = ("host", *heads), (False, *right)
        rows = [(escaped(p.host), *row) for p, row in zip(result.parts, rows, strict=True)]
    return table(heads, rows, right)


def _row(part: Part) -> tuple[str, ...]:
    if part.night is None:
        what = "not measured" if part.run is None else "not judged"
        return (escaped(part.scenario), what, "-", "-", "-", "-")
    counts = [(len(part.cases(status)), status) for status in ("ok", "failed", "skipped")]
    cases = ", ".join(f"{count} {status}" for count, status in counts if count) or "none"
    if not part.judged:
        return (escaped(part.scenario), cases, "-", "-", "-", "none yet")
    return (
        escaped(part.scenario),
        cases,
        f"{len(part.judged):,}",
        f"{len(part.regressions) + len(part.lost):,}",
        f"{len(part.decision.of('improvement')):,}",
        "pinned" if part.pinned else plural(max(j.baseline_nights for j in part.judged), "night"),
    )


def _shown(path: Path) -> str:
    """The path, relative to the current folder if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# --- JUnit -------------------------------------------------------------------------------------


def junit(result: Result) -> str:
    """XML as JUnit's Ant task writes it, for a CI. Each metric is a test case."""
    top = ElementTree.Element("testsuites", name="kickbench nightly")
    for part in result.parts:
        _suite(ElementTree.SubElement(top, "testsuite"), part)
    for name in ("tests", "failures", "errors", "skipped"):
        top.set(name, str(sum(int(suite.get(name, "0")) for suite in top)))
    ElementTree.indent(top)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(top, encoding="unicode")}\n'
    )


def _suite(suite: ElementTree.Element, part: Part) -> None:
    name = printable(part.name)
    when = "" if part.night is None else part.night.created_utc.rstrip("Z")
    suite.attrib |= {"name": name, "timestamp": when} if when else {"name": name}
    for error, exit_code in part.errors:
        what = "measuring" if part.night is None else "after measuring"
        _test(suite, name, what, "error", error, _KINDS_OF_ERROR.get(exit_code, "measurement"))
    if part.run is None and not part.errors:
        _test(suite, name, "measuring", "skipped", "the job ended before this scenario")
    for case in (*part.cases("failed"), *part.cases("skipped")):
        how = "error" if case["status"] == "failed" else "skipped"
        _test(suite, f"{name}.{case['id']}", "measuring", how, case["reason"] or case["status"])
    for lost in part.lost:
        _test(
            suite,
            f"{name}.{lost['case']}",
            f"{lost['method']} is free of races"
            if lost["what"] != "accesses"
            else f"{lost['method']} does each access once",
            "failure",
            lost_kicks(lost),
        )
    alarms = {judgement.key for judgement in part.regressions}
    for judgement in part.decision.judgements:
        key = judgement.key
        outcome, message = None, ""
        if key in alarms:
            outcome, message = "failure", sentence(part, judgement)
        elif judgement.verdict in ("not measured", "too little history", "no witness"):
            outcome, message = "skipped", f"{judgement.verdict}: {judgement.reason}"
        metric = key_name(key).removeprefix(f"{key.case}/")
        _test(suite, f"{name}.{key.case}", metric, outcome, message)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))
    suite.set("time", "0")


_KINDS_OF_ERROR = {EXIT_HOST: "host", EXIT_USAGE: "usage"}


def _test(
    suite: ElementTree.Element,
    group: str,
    name: str,
    outcome: str | None,
    message: str,
    kind: str = "measurement",
) -> None:
    # Characters that XML cannot have, even escaped, are not printable.
    names = {"classname": printable(group), "name": printable(name), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", names)
    if outcome is not None:
        found = ElementTree.SubElement(case, outcome, message=printable(message))
        if outcome != "skipped":
            found.set("type", "regression" if outcome == "failure" else kind)
            found.text = printable(message)


# --- JSON --------------------------------------------------------------------------------------


def json(result: Result) -> str:
    """The night for programs. ``docs/nightly.md`` has the keys."""
    document = {
        "schema": SCHEMA,
        "kickbench": kickbench.__version__,
        "exit_code": result.exit_code,
        "headline": headline(result),
        "interrupted": result.interrupted is not None,
        "scenarios": [_scenario(part) for part in result.parts],
        "problems": list(result.problems),
    }
    return dump_json(document).decode()


def _scenario(part: Part) -> dict[str, Any]:
    night = part.night
    rows = {} if night is None else dict(zip(night.keys(), night.table.to_pylist(), strict=True))
    return {
        "scenario": part.scenario,
        "host": part.host,
        "exit_code": part.exit_code,
        "run_id": None if night is None else night.run_id,
        "night_utc": None if night is None else night.created_utc,
        "fingerprint": None if night is None else night.fingerprint,
        "emulated": None if night is None else night.document["emulated"],
        "nights": len(part.nights),
        "pinned": part.pinned,
        "run": _path(part.run),
        "report": _path(part.report),
        "trend": _path(part.trend),
        "errors": [error for error, _ in part.errors],
        "remarks": part.remarks,
        "cases": [] if night is None else night.document["cases"],
        "no_witness": [{"case": case, "reason": why} for case, why in part.disturbed.items()],
        "lost": part.lost,
        "metrics": [_metric(part, j, rows.get(j.key)) for j in part.decision.judgements],
    }


def _metric(part: Part, judgement: Judgement, row: Mapping[str, Any] | None) -> dict[str, Any]:
    last, changes = part.changed_with(judgement)
    key = judgement.key
    return {
        **key._asdict(),
        "unit": None if row is None else row["unit"],
        "better": None if row is None else row["better"],
        "value": None if row is None else row["value"],
        "ci95": None
        if row is None or row["ci95_low"] is None
        else [row["ci95_low"], row["ci95_high"]],
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "suspect": judgement.suspect,
        "drift": judgement.drift,
        "common": judgement.common,
        "open": judgement.open,
        "baseline_level": _number(judgement.baseline),
        "baseline_nights": judgement.baseline_nights,
        "between_nights": _number(judgement.tau),
        "effect": _number(judgement.effect),
        "effect_ci95": _ends(judgement),
        "relative": _number(judgement.relative),
        "p": _number(judgement.p),
        "q": _number(judgement.q),
        "nights": [part.nights.run_id[night] for night in judgement.nights],
        "since": _night(part, judgement.since),
        "last_before": _night(part, last),
        "changed_with_it": [
            {"title": c.title, "before": c.before, "after": c.after} for c in changes
        ],
        "message": sentence(part, judgement)
        if judgement.verdict in ("regression", "improvement")
        else None,
    }


def _night(part: Part, night: int | None) -> dict[str, str] | None:
    if night is None:
        return None
    return {"run_id": part.nights.run_id[night], "night_utc": part.nights.when_utc[night]}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ends(judgement: Judgement) -> list[float] | None:
    ends = [judgement.low, judgement.high]
    return ends if all(map(math.isfinite, ends)) else None


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


OUTPUTS: dict[str, Callable[[Result], str]] = {"markdown": markdown, "junit": junit, "json": json}
