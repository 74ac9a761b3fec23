# SPDX-License-Identifier: Apache-2.0
"""The kernels that a plan boots: what their files say, and what this host is asked for."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from kickbench.ab import hosts, image
from kickbench.ab.hosts import Kexec, Systemd
from kickbench.ab.state import Kernel
from kickbench.errors import HostError, KickbenchError, UsageError

PACKED = b"HdrS\0" + b"6.12.9-lab (me@box) #3 SMP PREEMPT_DYNAMIC Fri Nov 20\0" + b"\xff" * 99
PLAIN = b"ARM\x64\0Linux version 6.12.9-lab (me@box) (gcc 12, ld 2.40) #3 SMP Fri Nov 20\n\0"
BUILD = "6.12.9-lab #3 SMP PREEMPT_DYNAMIC Fri Nov 20"


def file(folder: Path, data: bytes, name: str = "vmlinuz-6.12.9-lab") -> Path:
    (path := folder / name).write_bytes(data)
    return path


# --- what a file says ---------------------------------------------------------------------------


def test_a_kernel_says_what_uname_prints_when_it_runs(tmp_path: Path) -> None:
    assert image.build(file(tmp_path, PACKED)) == BUILD
    assert image.build(file(tmp_path, PLAIN)) == "6.12.9-lab #3 SMP Fri Nov 20"
    assert image.build(file(tmp_path, gzip.compress(PLAIN))) == "6.12.9-lab #3 SMP Fri Nov 20"


def test_a_unified_image_says_it_too(tmp_path: Path) -> None:
    assert image.build(file(tmp_path, b"MZ" + b"\0" * 5000 + PACKED)) == BUILD


@pytest.mark.parametrize("end", ["and more of it, for ever", "and a gap: it stays"])
def test_a_long_version_is_cut_as_the_kernel_cuts_it(tmp_path: Path, end: str) -> None:
    """init/Makefile cuts what is longer by cut(1), which leaves a blank at the end."""
    version = f"#1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22) {end}".encode()
    found = image.build(file(tmp_path, b"\0" + b"6.1.0 (me@box) " + version + b"\0"))
    assert found == f"6.1.0 {version[:64].decode()}"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"no kernel", b"\x1f\x8bnot packed", gzip.compress(b"a", mtime=0)[:9]),
        gzip.compress(b"a", mtime=0)[:10] + b"\xff" * 9,
    ],
)
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError):
        image.build(file(tmp_path, data))
    with pytest.raises(UsageError, match="No such file"):
        image.build(tmp_path / "none")


def test_the_running_kernel_is_named_as_a_file_names_it() -> None:
    assert image.running() == f"{os.uname().release} {os.uname().version}"


# --- kexec --------------------------------------------------------------------------------------


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "BOOT_IMAGE=/boot/vmlinuz-6.1 root=/dev/sda1 ro kickbench.ab initrd=\\old quiet"
    monkeypatch.setattr(hosts, "_command_line", lambda: words)


@pytest.mark.usefixtures("command_line")
def test_the_next_kernel_gets_the_command_line_of_this_one(tmp_path: Path) -> None:
    kernel = Kexec().kernel(str(file(tmp_path, PACKED)), "mitigations=off")
    assert kernel.parameters == "kickbench.ab panic=30 mitigations=off root=/dev/sda1 ro quiet"
    own = Kexec().kernel(str(file(tmp_path, PACKED)), "panic=5").parameters
    assert own == "kickbench.ab panic=5 root=/dev/sda1 ro quiet"
    for append in ("a\nb", "a\udcffb", "a" * 5000):
        with pytest.raises(UsageError) as refused:
            Kexec().kernel(str(file(tmp_path, PACKED)), append)
        assert "\n" not in str(refused.value)
    assert kernel.build == BUILD
    assert kernel.initrd is None


@pytest.mark.parametrize(
    "name", ["initrd.img-6.12.9-lab", "initramfs-6.12.9-lab.img", "initrd-6.12.9-lab"]
)
def test_the_initrd_beside_a_kernel_is_its_own(tmp_path: Path, name: str) -> None:
    given, initrd = file(tmp_path, PACKED), file(tmp_path, b"initrd", name)
    assert Kexec().kernel(str(given), None).initrd == str(initrd)
    assert Kexec().kernel(f"{given},", None).initrd is None
    (link := tmp_path / "vmlinuz").symlink_to(given)
    assert Kexec().kernel(str(link), None).initrd == str(initrd)
    other = file(tmp_path, b"other", "other")
    assert Kexec().kernel(f"{given},{other}", None).initrd == str(other)
    with pytest.raises(UsageError, match="no such initrd"):
        Kexec().kernel(f"{given},{tmp_path}/none", None)


@pytest.mark.usefixtures("command_line")
def test_a_boot_by_kexec_is_known_by_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(given="/boot/a", build=BUILD)
    assert Kexec().came(kernel)
    monkeypatch.setattr(hosts, "_command_line", lambda: "root=/dev/sda1 kickbench.abc")
    assert not Kexec().came(kernel)


def test_a_kernel_that_cannot_be_loaded_is_said_so_and_nothing_reboots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_shut_down", lambda *_: pytest.fail("it rebooted"))
    kernel = Kexec().kernel(str(file(tmp_path, PACKED)), None)
    with pytest.raises(HostError, match="does not load"):
        Kexec().boot(kernel)  # not permitted, not supported, or no kernel: never loaded
    with pytest.raises(HostError, match="No such file"):
        Kexec().boot(kernel.model_copy(update={"given": str(tmp_path / "none")}))


# --- systemd ------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for bootctl and systemctl that note how they are called, in the file ``calls``."""
    file(tmp_path, PACKED, "linux")
    entries = [
        {"id": "a.conf", "root": str(tmp_path), "linux": "/linux", "isSelected": True},
        {"id": "b.efi", "root": str(tmp_path), "path": str(tmp_path / "linux")},
    ]
    (tmp_path / "entries").write_text(json.dumps(entries))
    for tool in ("bootctl", "systemctl"):
        path = tmp_path / tool
        path.write_text(
            f'#!/bin/sh\necho {tool} "$@" >> {tmp_path}/calls\n'
            f'[ "$1" = list ] && cat {tmp_path}/entries\nexit 0\n'
        )
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(hosts, "has_systemd", lambda: True)
    return tmp_path


def test_an_entry_is_booted_once_by_the_boot_loader(tools: Path) -> None:
    host = Systemd()
    host.check()
    kernel = host.kernel("a.conf", None)
    assert kernel.build == host.kernel("b.efi", None).build == BUILD
    (tools / "calls").unlink()
    host.boot(kernel)
    assert (tools / "calls").read_text().splitlines() == [
        "bootctl set-oneshot a.conf",
        "systemctl reboot --no-block",
    ]


@pytest.mark.usefixtures("tools")
def test_the_boot_loader_says_which_entry_came_up() -> None:
    assert Systemd().came(Kernel(given="a.conf", build=BUILD))
    assert not Systemd().came(Kernel(given="b.efi", build=BUILD))


@pytest.mark.usefixtures("tools")
def test_an_entry_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"bootctl list has: a\.conf, b\.efi"):
        Systemd().kernel("c.conf", None)
    with pytest.raises(UsageError, match="leave out --append"):
        Systemd().kernel("a.conf", "quiet")


def test_a_host_without_bootctl_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hosts, "has_systemd", lambda: True)
    with pytest.raises(HostError, match="bootctl"):
        Systemd().check()


# --- before the first reboot --------------------------------------------------------------------


def kernels(*builds: str) -> list[Kernel]:
    return [Kernel(given=f"/boot/{build}", build=build) for build in builds]


@pytest.fixture
def as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts, "has_systemd", lambda: False)
    (emptied := tmp_path / "emptied").mkdir()
    monkeypatch.setattr(hosts, "_EMPTIED", emptied)
    own = Path("/proc/self/ns/pid").stat().st_ino
    monkeypatch.setattr(hosts, "_FIRST_PID_NAMESPACE", own)


@pytest.mark.usefixtures("as_root")
def test_a_host_without_kvm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="this host cannot measure: no /dev/kvm"):
        hosts.check(tmp_path, kernels("a", "b"), "no /dev/kvm")


@pytest.mark.usefixtures("as_root")
def test_two_kernels_of_one_build_are_refused(tmp_path: Path) -> None:
    hosts.check(tmp_path, kernels("a", "b"))
    with pytest.raises(UsageError, match="CONFIG_LOCALVERSION"):
        hosts.check(tmp_path, kernels("a", "a"))


@pytest.mark.usefixtures("as_root")
def test_who_cannot_reboot_the_host_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_FIRST_PID_NAMESPACE", 1)
    with pytest.raises(HostError, match="container"):
        hosts.check(tmp_path, kernels("a", "b"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="root"):
        hosts.check(tmp_path, kernels("a", "b"))


@pytest.mark.usefixtures("as_root")
def test_a_kernel_without_name_spaces_is_of_no_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_PID_NAMESPACE", tmp_path / "none")
    hosts.check(tmp_path, kernels("a", "b"))


@pytest.mark.usefixtures("as_root")
def test_a_host_on_which_nothing_would_go_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in(tool: str, prints: str, status: int = 0) -> None:
        path = tmp_path / tool
        path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
        path.chmod(0o755)

    stand_in("systemd-escape", "kickbench-ab@plan.service")
    stand_in("systemctl", "", 1)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(hosts, "has_systemd", lambda: True)
    with pytest.raises(KickbenchError, match=r"systemctl enable 'kickbench-ab@plan\.service'"):
        hosts.check(tmp_path, kernels("a", "b"))
    # The service would not find what this shell finds.
    stand_in("of-one-user", "")
    stand_in("systemctl", "ExecStart=of-one-user ab continue %f")
    with pytest.raises(HostError, match="services find no of-one-user"):
        hosts.check(tmp_path, kernels("a", "b"))
    for prefix in ("", "-", "+:"):  # systemd.service(5), "Command lines"
        stand_in("systemctl", f"ExecStart={prefix}{tmp_path}/of-one-user ab continue %f")
        hosts.check(tmp_path, kernels("a", "b"))


@pytest.mark.usefixtures("as_root")
def test_a_plan_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_told", lambda *_, **__: "tmpfs\n")
    with pytest.raises(UsageError, match="is in memory"):
        hosts.check(Path("/dev/shm/no/plan"), kernels("a", "b"))


@pytest.mark.usefixtures("as_root")
def test_a_plan_that_a_boot_deletes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a boot empties; choose another --state"):
        hosts.check(tmp_path / "emptied" / "plan", kernels("a", "b"))


@pytest.mark.usefixtures("as_root")
def test_another_file_system_below_that_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_EMPTIED", Path("/"))
    monkeypatch.setattr(hosts, "_told", lambda *_, **__: "ext4\n")
    hosts.check(Path("/proc/self"), kernels("a", "b"))
    with pytest.raises(UsageError):
        hosts.check(Path("/none"), kernels("a", "b"))


@pytest.mark.usefixtures("tools")
def test_a_boot_loader_may_print_what_is_no_text(tools: Path) -> None:
    (tools / "entries").write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(UsageError, match="no boot entry"):
        Systemd().kernel("c.conf", None)
