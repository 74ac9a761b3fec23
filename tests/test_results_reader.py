# SPDX-License-Identifier: Apache-2.0
"""A results folder from a stranger is data: whatever is wrong with it becomes one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic_run
from hand_made import set_column
from hypothesis import given, settings
from hypothesis import strategies as st

from kickbench.errors import EXIT_USAGE, ResultsError
from kickbench.results import reader
from kickbench.results.reader import RunReader
from kickbench.results.schema import SCHEMA
from kickbench.results.writer import RunWriter
from kickbench.summary.summarise import summarise

CASE = synthetic_run.case(2, processes=2)
ID = CASE["id"]
TABLES = ("blocks", "exit_histograms", "exit_samples")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    cases = [CASE, synthetic_run.case(4, rate=100.0)]
    return synthetic_run.build(tmp_path_factory.mktemp("results"), cases=cases, rounds=4)


@pytest.fixture
def run(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def use(path):
    """Everything that show, report and compare do with a folder."""
    reader = RunReader(path)
    for table in TABLES:
        for _ in reader.batches(ID, table):
            pass
    return summarise(reader)


def refuse(path, *fragments):
    with pytest.raises(ResultsError) as caught:
        use(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    assert caught.value.exit_code == EXIT_USAGE
    for fragment in fragments:
        assert fragment in message


def edit(path, change):
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))


# --- folders -----------------------------------------------------------------------------------


def test_the_pristine_folder_is_fine(run):
    assert [case["status"] for case in use(run)["cases"]] == ["ok", "skipped"]


def test_not_a_results_folder(tmp_path):
    refuse(tmp_path, "not a results folder")
    refuse(tmp_path / "absent", "does not exist")
    (tmp_path / "evil\n\x1b[31mname").mkdir()
    refuse(tmp_path / "evil\n\x1b[31mname", "not a results folder")


def test_resume_refuses_what_the_reader_refuses_and_leaves_no_lock(tmp_path):
    with pytest.raises(ResultsError, match="not a results folder"):
        RunWriter.resume(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["case.json", *(f"{table}.parquet" for table in TABLES)])
def test_a_missing_file_of_a_finished_case(run, name):
    (run / "cases" / ID / name).unlink()
    refuse(run, name, "is missing; copy the whole folder of the run")


def test_a_missing_case_folder(run):
    shutil.rmtree(run / "cases" / ID)
    refuse(run, "case.json", "is missing")


def test_a_newer_schema_asks_for_an_upgrade(run):
    edit(run / "manifest.json", lambda m: m.update(schema=SCHEMA + 1, cases="in another shape"))
    refuse(run, f"was written by a newer kickbench (schema {SCHEMA + 1}); upgrade")
    with pytest.raises(ResultsError, match="newer kickbench"):
        RunWriter.resume(run)


def test_a_kind_of_a_newer_version_asks_for_an_upgrade(run):
    for name in ("manifest.json", f"cases/{ID}/case.json"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace('"kind": "exits"', '"kind": "teleport"'))
    refuse(run, "'teleport'", "upgrade")


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", f"cases/{ID}/case.json"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"\x00" * 1000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1e999}',
        b'{"schema": ' + b"1" * 10_000 + b"}",
        b'{"schema": "\\ud800"}',
        b'{"schema": true}',
        b'{"schema": 1}',
        b'{"schema": -1}',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_json_that_is_not_ours(run, name, data):
    (run / name).write_bytes(data)
    refuse(run, name.rsplit("/", 1)[-1])


def test_truncated_json(run):
    text = (run / "manifest.json").read_bytes()
    for size in range(0, len(text) - 2, 97):
        (run / "manifest.json").write_bytes(text[:size])
        refuse(run, "manifest.json")


def test_huge_json_is_not_read(run, monkeypatch):
    monkeypatch.setattr(reader, "MAX_JSON_BYTES", 1 << 20)
    with (run / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of zeros
    refuse(run, "larger than 1 MiB")


def set_case(**values):
    return lambda m: m["cases"][0].update(values)


def set_both_ids(value):
    def change(manifest):
        manifest["cases"][0]["id"] = manifest["cases"][0]["case"]["id"] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(cases={}),
        lambda m: m.update(cases=[1]),
        lambda m: m.pop("cases"),
        lambda m: m.update(run_id="../../x"),
        lambda m: m.update(run_id=7),
        lambda m: m.update(scenario_name="a\nb"),
        lambda m: m.update(scenario_name="\x1b]0;owned\x07"),
        lambda m: m.update(created_utc="yesterday"),
        lambda m: m.update(created_utc="2026-3-1T1:2:3Z"),
        lambda m: m.update(created_utc="2026-02-30T01:02:03Z"),
        lambda m: m.update(created_utc="\uff12026-03-01T01:02:03Z"),
        lambda m: m.update(complete="yes"),
        lambda m: m.update(emulated=None),
        lambda m: m.update(environment=[]),
        lambda m: m.update(command="rm -rf /"),
        lambda m: m["environment"].update(load=float("nan")),
        lambda m: m["environment"].update(load=float("inf")),
        set_case(status="great"),
        set_case(reason=3),
        set_case(id="other"),
        set_case(case={}),
        set_both_ids("../../x"),
        set_both_ids("/etc"),
        set_both_ids(".hidden"),
        set_both_ids(".."),
        set_both_ids(""),
        set_both_ids("a\x00b"),
        set_both_ids("x" * 300),
        lambda m: m["cases"].append(m["cases"][0]),
        lambda m: m["cases"][1]["case"].update(vcpus=0),
        lambda m: m["cases"][1]["case"].update(vcpus=2.5),
        lambda m: m["cases"][1]["case"].update(vcpus=10**30),
        lambda m: m["cases"][1]["case"].update(exit_rate_hz=-1),
        lambda m: m["cases"][1]["case"].update(placement="local"),
    ],
)
def test_tampered_manifest(run, change):
    edit(run / "manifest.json", change)
    refuse(run, "manifest.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(status="pending"),
        lambda c: c.update(seconds="long"),
        lambda c: c.update(seconds=-1),
        lambda c: c.update(stopped_by="boredom"),
        lambda c: c.update(processes=[]),
        lambda c: c.update(processes=[None]),
        lambda c: c["processes"].append(c["processes"][0]),
        lambda c: c["processes"].pop(),
        lambda c: c["processes"][0].update(index=-1),
        lambda c: c["processes"][0].update(index=10**9),
        lambda c: c["processes"][0].update(warnings="none"),
        lambda c: c["processes"][0]["clock"].update(hz=0),
        lambda c: c["processes"][0]["clock"].update(hz=1e300),
        lambda c: c["processes"][0]["clock"].update(hz="2 GHz"),
        lambda c: c["processes"][0]["clock"].update(kind="sundial"),
        lambda c: c["case"].update(id="other"),
        lambda c: c["case"].update(methods=[]),
        lambda c: c["case"].update(methods=["sigmask"]),
        lambda c: c["case"].update(methods=["immediate_exit", "other"]),
        lambda c: c["case"].update(methods=["immediate_exit"] * 2),
        lambda c: c["case"].update(baseline="other"),
        lambda c: c["case"].pop("placement"),
    ],
)
def test_tampered_case(run, change):
    edit(run / "cases" / ID / "case.json", change)
    refuse(run, ID)


def _placed():
    thread = {"cpus": "0-1", "ran_on": "1", "nodes": [0]}
    memory = {name: [0] for name in ("memory", "flag", "tls", "samples")} | {"kvm_run": None}
    return {
        "creator": thread | {"cpus": None},
        "vcpus": [thread | memory],
        "kickers": [dict(thread)],
    }


@pytest.mark.parametrize("placement", [_placed(), None, {"creator": _placed()["creator"]}])
def test_what_became_of_a_placement_is_read(run, placement):
    edit(
        run / "cases" / ID / "case.json",
        lambda c: c["processes"][0].update(placement=placement),
    )
    use(run)


@pytest.mark.parametrize(
    ("as_asked", "placed"),
    [
        ((True, True), True),
        ((True, False), False),
        ((None, False), False),
        ((True, None), None),
        ((None, None), None),
    ],
)
def test_a_case_was_placed_as_asked_when_all_its_processes_were(run, as_asked, placed):
    def change(case):
        for process, known in zip(case["processes"], as_asked, strict=True):
            process["placement"] = {**_placed(), "as_asked": known}

    edit(run / "cases" / ID / "case.json", change)
    found = {case["id"]: case["placed"] for case in use(run)["cases"]}
    assert found[ID] is placed
    assert [known for case_id, known in found.items() if case_id != ID] == [None]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(creator=None),
        lambda p: p.update(as_asked="yes"),
        lambda p: p["creator"].update(cpus="0;<b>"),
        lambda p: p["creator"].update(cpus="0," * 50_000),
        lambda p: p["creator"].update(ran_on=None),
        lambda p: p["creator"].update(nodes=[-1]),
        lambda p: p["vcpus"][0].update(cpus=None),
        lambda p: p["vcpus"][0].update(memory="0"),
        lambda p: p["vcpus"][0].update(flag=["0"]),
        lambda p: p["vcpus"][0].pop("samples"),
        lambda p: p.update(vcpus=p["vcpus"] * 2**16),
        lambda p: p["kickers"][0].update(nodes=[10**9]),
        lambda p: p.update(kickers={}),
    ],
)
def test_tampered_placement(run, change):
    def tamper(case):
        case["processes"][0]["placement"] = _placed()
        change(case["processes"][0]["placement"])

    edit(run / "cases" / ID / "case.json", tamper)
    refuse(run, ID)


# --- symlinks and odd files --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", f"cases/{ID}/case.json"])
def test_symlinks_out_of_the_folder_are_refused(run, tmp_path, name):
    shutil.move(run / name, tmp_path / "outside.json")
    (run / name).symlink_to(tmp_path / "outside.json")
    refuse(run, "leads out of the results folder")


@pytest.mark.parametrize("name", ["cases", f"cases/{ID}", f"cases/{ID}/blocks.parquet"])
def test_symlinked_folders_and_tables_out_of_the_folder_are_refused(run, tmp_path, name):
    shutil.move(run / name, tmp_path / "outside")
    (run / name).symlink_to(tmp_path / "outside")
    refuse(run, "leads out of the results folder")


def test_symlink_loops_and_dangling_links(run):
    path = run / "cases" / ID / "blocks.parquet"
    path.unlink()
    path.symlink_to(path)
    refuse(run, "blocks.parquet")
    path.unlink()
    path.symlink_to("nowhere")
    refuse(run, "is missing")


def test_resume_does_not_clean_up_behind_a_symlink(run, tmp_path):
    shutil.move(run / "cases", tmp_path / "outside")
    (run / "cases").symlink_to(tmp_path / "outside")
    precious = tmp_path / "outside" / ".precious.tmp-1"
    precious.mkdir()
    with pytest.raises(ResultsError):
        RunWriter.resume(run)
    assert precious.exists()


def test_a_folder_whose_name_is_not_utf8_is_read(run, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/res\xff"))
    shutil.move(run, odd)
    assert [case["status"] for case in use(odd)["cases"]] == ["ok", "skipped"]
    (odd / "cases" / ID / "blocks.parquet").write_bytes(b"")
    refuse(odd, "blocks.parquet", "damaged")


def test_a_run_folder_reached_through_a_symlink_is_fine(run, tmp_path):
    (tmp_path / "latest").symlink_to(run)
    assert use(tmp_path / "latest")["cases"][0]["status"] == "ok"


@pytest.mark.parametrize("name", ["manifest.json", f"cases/{ID}/blocks.parquet"])
def test_a_fifo_does_not_hang_the_reader(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    refuse(run, "is not a regular file")


def test_a_folder_in_place_of_a_file(run):
    (run / "manifest.json").unlink()
    (run / "manifest.json").mkdir()
    refuse(run, "is not a regular file")


# --- Parquet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_truncated_tables(run, name):
    path = run / "cases" / ID / f"{name}.parquet"
    data = path.read_bytes()
    for size in {0, 3, 4, 8, len(data) // 2, len(data) - 8, len(data) - 1}:
        path.write_bytes(data[:size])
        refuse(run, f"{name}.parquet", "damaged")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_tables_are_refused_or_harmless(pristine, data):
    """Any damage ends in a ResultsError or in a summary, never in another error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(pristine, Path(folder) / "run"))
        table = path / "cases" / ID / f"{data.draw(st.sampled_from(TABLES))}.parquet"
        content = bytearray(table.read_bytes())
        # From the end backwards: the footer is where the interesting structures are.
        for _ in range(data.draw(st.integers(1, 4))):
            content[-data.draw(st.integers(1, len(content)))] = data.draw(st.integers(0, 255))
        table.write_bytes(content)
        try:
            json.dumps(use(path), allow_nan=False)
        except ResultsError as error:
            assert str(error).isprintable()  # noqa: PT017


def test_a_flipped_bit_in_the_samples_is_found_by_the_page_checksum(run):
    path = run / "cases" / ID / "exit_samples.parquet"
    options = {"compression": "none", "use_dictionary": ["method"], "write_page_checksum": True}
    pq.write_table(pq.read_table(path), path, **options)
    use(run)
    where = pq.ParquetFile(path).metadata.row_group(0).column(6)
    assert where.path_in_schema == "cycles"
    data = bytearray(path.read_bytes())
    data[where.data_page_offset + where.total_compressed_size - 4] ^= 1
    path.write_bytes(data)
    refuse(run, "exit_samples.parquet", "damaged")


def replace_table(run, name, change):
    path = run / "cases" / ID / f"{name}.parquet"
    table = change(pq.read_table(io.BytesIO(path.read_bytes())))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("name", "change", "fragment"),
    [
        ("blocks", lambda t: t.drop_columns(["exits"]), "it has no column exits"),
        ("blocks", lambda t: t.append_column("exits", t["exits"]), "it has 2 columns exits"),
        ("blocks", lambda _: pa.table({}), "no column"),
        ("blocks", set_column("exits", lambda t: t["exits"].cast("double")), "not int64"),
        ("blocks", set_column("exits", lambda t: pc.negate(t["exits"])), "goes from -"),
        (
            "blocks",
            set_column("timed_cycles", lambda t: pa.array([2**62] * len(t))),
            "timed_cycles goes from",
        ),
        (
            "blocks",
            set_column("process", lambda t: pa.array([7] * len(t), "int16")),
            "unknown process 7",
        ),
        (
            "blocks",
            set_column("vcpu", lambda t: pa.array([2] * len(t), "int16")),
            "has the vCPU 2, and the case's last vCPU is 1",
        ),
        (
            "exit_histograms",
            set_column("method", lambda t: pa.array(["<script>"] * len(t)).dictionary_encode()),
            "unknown method",
        ),
        (
            "exit_samples",
            set_column("cycles", lambda t: pa.array([None] * len(t), "uint32")),
            "empty cells",
        ),
    ],
)
def test_tables_with_other_contents(run, name, change, fragment):
    replace_table(run, name, change)
    refuse(run, f"{name}.parquet", fragment)


def test_columns_of_a_later_version_are_ignored(run):
    before = use(run)
    replace_table(run, "blocks", lambda t: t.append_column("mood", pa.array(["good"] * len(t))))
    assert use(run) == before


def test_a_table_that_would_fill_the_memory_is_refused(run):
    """Run-length encoding: a few kilobytes can claim any number of rows."""
    path = run / "cases" / ID / "blocks.parquet"
    row = pq.read_table(path).slice(0, 1)
    part = pa.concat_tables([row] * 2**15).combine_chunks()
    with pq.ParquetWriter(path, row.schema) as writer:
        for _ in range(reader.TABLES["blocks"].max_rows // len(part) + 1):
            writer.write_table(part)
    assert path.stat().st_size < 16 * 2**20
    refuse(run, "too large", "refused")
