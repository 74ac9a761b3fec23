# SPDX-License-Identifier: Apache-2.0
"""The file of a nightly job: what it may say, and what a wrong one is told."""

from __future__ import annotations

import re
import string
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kickbench.compare.metrics import METRICS
from kickbench.errors import UsageError
from kickbench.nightly.config import THIS_HOST, Baseline, Config, Decision, _File, load
from kickbench.nightly.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


def write(folder: Path, text: str) -> Path:
    path = folder / "nightly.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        load(write(folder, text))
    return str(error.value)


def test_what_is_not_said_has_the_defaults_of_deciding(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'scenarios = "quick"'))
    assert [scenario.name for scenario in config.scenarios] == ["quick"]
    assert config.settings == Settings()
    assert config.pinned == ()
    assert config.hosts == (THIS_HOST,)
    for name in ("history", "results", "reports"):
        assert getattr(config, name) == tmp_path / name


def test_everything_that_can_be_said_is_heard(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    own = tmp_path / "sub" / "own.toml"
    own.write_text('name = "own"\n[vm]\nvcpus = 1\n[guest]\nprogram = "hlt"\n')
    config = load(
        write(
            tmp_path,
            """
            scenarios = ["quick", "sub/own.toml"]
            hosts = ["this host", "root@box"]
            history = "/somewhere/else"
            results = "../results"
            reports = "pages"
            [baseline]
            nights = 30
            min_nights = 10
            pinned = "20260301T020000Z-vm-00000000"
            [decision]
            false_discovery_rate = 0.01
            window = 2
            [min_effect]
            default = 0.02
            ns_per_exit = 0.005
            "ns_per_exit difference" = 0.003
            """,
        )
    )
    assert [scenario.name for scenario in config.scenarios] == ["quick", "own"]
    assert config.history == Path("/somewhere/else")
    assert config.results == tmp_path / "../results"
    assert config.pinned == ("20260301T020000Z-vm-00000000",)
    assert config.hosts == ("this host", "root@box")
    # Two scenarios on two hosts share what may be false.
    assert config.settings == Settings(
        baseline_nights=30,
        min_nights=10,
        window=2,
        false_discovery_rate=0.0025,
        min_effect={"ns_per_exit": 0.005, "ns_per_exit difference": 0.003},
        default_min_effect=0.02,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "scenarios: missing, and required"),
        ("scenarios = []", "scenarios: expected a value or a list of values"),
        ("scenarios = [1]", "scenarios[0]: expected the name of a shipped scenario"),
        ('scenarios = "quik"', 'no shipped scenario; did you mean "quick"?'),
        ('scenarios = ["quick", "no.toml"]', 'scenarios[1]: "no.toml" is no file beside this one'),
        ('scenarios = ["quick", "quick"]', "listed twice"),
        ('scenarios = "quick"\nhistory = ""', "history: expected a path"),
        ('scenarios = "quick"\nhistory = 3', "history: expected a path, found 3"),
        ('scenarios = "quick"\nhosts = []', "hosts: expected a value or a list of values"),
        ('scenarios = "quick"\nhosts = ""', "hosts: expected a host for ssh (user@box or box)"),
        ('scenarios = "quick"\nhosts = ["a", "-oProxyCommand=x"]', "hosts[1]: expected a host for"),
        ('scenarios = "quick"\nhosts = "This host"', 'or "this host", found "This host"'),
        ('scenarios = "quick"\nhosts = ["a", 1]', "hosts[1]: expected a host for ssh"),
        ('scenarios = "quick"\nhosts = ["a", "a"]', 'hosts: "a" is listed twice'),
        ('scenarios = "quick"\nwindow = 2', 'window: unknown key; did you mean "decision.window"?'),
        ('scenarios = "quick"\n[baselin]\n', 'baselin: unknown key; did you mean "baseline"?'),
        ('scenarios = "quick"\n[baseline]\nnights = 4', "baseline.nights: expected a whole number"),
        ('scenarios = "quick"\n[baseline]\nmin_nights = 61', "is more than nights (60)"),
        ('scenarios = "quick"\n[baseline]\npinned = "../x"', "baseline.pinned: expected the id"),
        ('scenarios = "quick"\n[decision]\nwindow = 4', "expected a whole number of nights from 1"),
        ('scenarios = "quick"\n[decision]\nfalse_discovery_rate = 1.0', "between 0 and 1"),
        ('scenarios = "quick"\n[decision]\nfalse_discovery_rate = nan', "between 0 and 1"),
        ('scenarios = "quick"\nmin_effect = 0.1', "min_effect: expected a table"),
        ('scenarios = "quick"\n[min_effect]\nns_per_exi = 1', 'did you mean "ns_per_exit"?'),
        ('scenarios = "quick"\n[min_effect]\nlost = -0.1', "min_effect.lost: expected a share"),
        ('scenarios = "quick"\n[min_effect]\nlost = true', "min_effect.lost: expected a share"),
        ("scenarios = ", "TOML syntax error"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(str(tmp_path / "nightly.toml") + ":")
    assert said in message
    assert len(message.splitlines()) <= 2


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ('results = "history"', "results: is the folder of the history"),
        ('reports = "./x/../results"', "reports: is the folder of the results"),
        ('reports = "history/reports"', "reports: is in the folder of the history"),
        ('results = "link"', "results: is the folder of the history"),
        ('results = "."\nhistory = "quick"', "history: is where the runs of quick go"),
        ('results = "."\nreports = "quick/a"', "reports: is where the runs of quick go"),
    ],
)
def test_folders_that_would_get_into_each_other_are_refused(
    tmp_path: Path, folders: str, said: str
) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / "link").symlink_to("history")
    message = refused(tmp_path, f'scenarios = "quick"\n{folders}')
    assert said in message
    assert len(message.splitlines()) == 1


def test_folders_beside_each_other_or_around_are_fine(tmp_path: Path) -> None:
    folders = 'results = "all/raw"\nreports = "all"\nhistory = "all/history"'
    assert load(write(tmp_path, f'scenarios = "quick"\n{folders}')).reports == tmp_path / "all"


def test_a_wrong_scenario_is_refused_in_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('name = "bad"\n[vm]\nvcpus = 0\n')
    assert re.search(r"bad\.toml: vm\.vcpus", refused(tmp_path, 'scenarios = ["bad.toml"]'))


def test_two_scenarios_of_one_name_would_mix_their_nights(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "quick"\n[vm]\nvcpus = 1\n[guest]\nprogram = "hlt"\n')
    assert "is called quick, as another" in refused(tmp_path, 'scenarios = ["quick", "a.toml"]')


def test_a_file_beside_it_wins_over_a_shipped_name(tmp_path: Path) -> None:
    (tmp_path / "quick").write_text('name = "mine"\n[vm]\nvcpus = 1\n[guest]\nprogram = "hlt"\n')
    config = load(write(tmp_path, 'scenarios = "quick"'))
    assert config.scenarios[0].name == "mine"
    (tmp_path / "quick").unlink()
    (tmp_path / "quick").mkdir()  # of results, say
    assert load(write(tmp_path, 'scenarios = "quick"')).scenarios[0].name == "quick"


@pytest.mark.parametrize("what", ["missing", "folder", "huge", "binary"])
def test_what_is_no_file_of_text_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "nightly.toml"
    if what == "folder":
        path.mkdir()
    elif what == "huge":
        path.write_bytes(b"#" * (2 << 20))
    elif what == "binary":
        path.write_bytes(b"\x80")
    with pytest.raises(UsageError) as error:
        load(path)
    assert "\n" not in str(error.value)


_VALUES = st.recursive(
    st.one_of(
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.booleans(),
        st.text(alphabet=string.printable.replace('"', "").replace("\\", ""), max_size=20),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


_KEYS = {
    "": ["scenarios", "hosts", "history", "results", "reports", "store", "nonsense"],
    "baseline": ["nights", "min_nights", "pinned"],
    "decision": ["false_discovery_rate", "window"],
    "min_effect": ["default", *METRICS],
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_says_it_is_a_job_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    lines = []
    for table, keys in _KEYS.items():
        lines += [f"[{table}]"] if table else []
        for key in data.draw(st.lists(st.sampled_from(keys), unique=True, max_size=3)):
            value = data.draw(st.one_of(st.just("quick"), _VALUES))
            lines.append(f"{key} = {_toml(value)}")
    path = write(tmp_path, "\n".join(lines))
    message = ""
    try:
        assert isinstance(load(path), Config)
    except UsageError as error:
        message = str(error)
    assert len(message.splitlines()) <= 2
    assert message.replace("\n", "").isprintable()


def test_the_shipped_example_says_every_default_as_it_is() -> None:
    example = ROOT / "examples" / "nightly.toml"
    config = load(example)
    assert config.settings == replace(
        Settings(), false_discovery_rate=Settings().false_discovery_rate / len(config.scenarios)
    )
    assert config.pinned == ()
    said = tomllib.loads(example.read_text())
    assert said.keys() == _File.model_fields.keys()
    assert said["baseline"].keys() == Baseline.model_fields.keys()
    assert said["decision"].keys() == Decision.model_fields.keys()


def test_the_documentation_has_every_key_with_its_default() -> None:
    text = (ROOT / "docs" / "nightly.md").read_text()
    text = text[text.index("## The job's file") :].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*?) \|", text, re.MULTILINE))
    defaults = {
        **{name: field.default for name, field in _File.model_fields.items()},
        **{f"baseline.{name}": field.default for name, field in Baseline.model_fields.items()},
        **{f"decision.{name}": field.default for name, field in Decision.model_fields.items()},
        "min_effect.default": Settings().default_min_effect,
    }
    for name in ("scenarios", "baseline", "decision", "min_effect"):
        del defaults[name]
    assert rows["scenarios"] == "required"
    for name, default in defaults.items():
        said = rows[name].strip("`")
        assert said == {(): "[]", (THIS_HOST,): THIS_HOST, "": "none"}.get(default, str(default)), (
            name
        )
