# SPDX-License-Identifier: Apache-2.0
"""The file of hosts that kickbench fleet run reads."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.errors import UsageError
from kickbench.fleet.inventory import Host, read


def inventory(folder: Path, text: str) -> tuple[Host, ...]:
    path = folder / "hosts"
    path.write_text(text, encoding="utf-8", newline="")
    return read(path)


def test_a_file_is_a_host_a_line_or_an_inventory(tmp_path: Path) -> None:
    text = """
# all of them
root@amd   # the new one

  intel
[epyc]
n1 ansible_host=10.0.0.1 ansible_user=root ansible_port=2222 rack="b 2"
n1 ansible_python_interpreter=/opt/kb/bin/python
[epyc:vars]
ansible_become=yes
[all:children]
epyc
[more]
last
"""
    assert inventory(tmp_path, text) == (
        Host("root@amd", "root@amd"),
        Host("intel", "intel"),
        Host("n1", "root@10.0.0.1", 2222, "/opt/kb/bin/python"),
        Host("last", "last"),
    )


NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)


@given(st.lists(NAMES, min_size=1), st.data())
def test_hosts_are_what_they_were_written_as(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    between = st.sampled_from(["\n", "\r\n", "\n\n", "  # why\n", "\n; no\n", "\n[group]\n"])
    text = "".join(name + data.draw(between) for name in names)
    found = inventory(tmp_path_factory.getbasetemp(), text)
    assert [host.address for host in found] == list(dict.fromkeys(names))


@given(st.one_of(st.text(max_size=60), st.text("ab=[]#;: \n\"'-", max_size=40)))
def test_any_text_is_hosts_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "hosts").write_bytes(text.encode(errors="surrogatepass"))
    try:
        said = ""
        found = read(folder / "hosts")
    except UsageError as error:
        said = str(error)
        found = ()
    assert bool(found) != bool(said)
    assert len(said.splitlines()) <= 1
    assert not any(host.address.startswith("-") for host in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("# nothing", "names no host"),
        ("a b", 'hosts:1: "b" is no setting; write one host a line'),
        ("a\n-oProxyCommand=x", 'hosts:2: "-oProxyCommand=x" is no host'),
        ("a ansible_host=-x", '"-x" is no host'),
        ("web[1:9]", "is a pattern; list the hosts with ansible all --list-hosts"),
        ("a ansible_port=x", 'ansible_port: "x" is no port'),
        ("a ansible_python_interpreter='x;y'", '"x;y" is no path'),
        ("a '", "hosts:1: no closing quotation"),
    ],
)
def test_a_fault_of_the_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        inventory(tmp_path, text)
    assert said in str(caught.value)
