# SPDX-License-Identifier: Apache-2.0
"""Runs a scenario on every host of a fleet, by Dask.

The scheduler, its workers and how they got to the hosts are yours: by SSH, Slurm or Kubernetes. See
``docs/fleet.md``. One worker of each host gets the order, and the host's own lock has one run at a
time measure there (:mod:`kickbench.host.turn`).

A host writes to the store itself, before it reports (:mod:`kickbench.fleet.host`). So what is lost
on the way costs nothing that was measured.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kickbench.errors import (
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_MEASUREMENT,
    EXIT_OK,
    HostError,
    ScenarioError,
    UsageError,
)
from kickbench.fleet import host as on_host
from kickbench.fleet.files import INSTALL, Files
from kickbench.fleet.host import Order, Seen
from kickbench.fleet.only import Test
from kickbench.fleet.progress import Observer
from kickbench.fleet.query import ask
from kickbench.fleet.tables import check_schema, note_schema
from kickbench.fleet.versions import differing, versions
from kickbench.methods import is_protocol_file
from kickbench.nightly import config as nightly
from kickbench.numbers import plural
from kickbench.results.schema import Model, check_model, is_safe_name, one_line, parse_json, place
from kickbench.scenario.files import load, read_toml
from kickbench.scenario.shipped import resolve

if TYPE_CHECKING:
    import distributed
    from distributed.security import Security

    from kickbench.scenario.model import Scenario

CONNECT_SECONDS = 30
LOOK_SECONDS = 120
GONE_SECONDS = 60
"""How long a host that measures may be out of the scheduler's sight."""
SEEN_SECONDS = 2
POLL_SECONDS = 0.5


@dataclass
class Outcome:
    """How it ended. ``ok`` has the run of each host that finished, ``failed`` why another did not.

    ``left_out`` says why a host could not begin.
    """

    fleet: str = ""
    ok: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0: every host finished. 4: some failed. 3: none could. 130: it was interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.failed:
            return EXIT_MEASUREMENT
        return EXIT_OK if self.ok else EXIT_HOST


class _Kept(Model):
    """What the store has of an order, and any host may have written."""

    scenarios: dict[str, str]
    options: list[str]


def new_order(files: Files, measured: str, options: Sequence[str]) -> Order:
    """The order for a scenario or the file of a nightly job. The store keeps it.

    Raises UsageError for a wrong one, and for one with protocols of your own.
    """
    scenarios = _scenarios(resolve(measured))
    for _, scenario in scenarios:
        for method in filter(is_protocol_file, scenario.measure.methods):
            raise UsageError(
                f"{method}: a fleet does not carry protocol files to its hosts; measure them with "
                "kickbench run --host"
            )
    order = Order(
        fleet=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{secrets.token_hex(4)}",
        scenarios={one.name: path.read_text(encoding="utf-8") for path, one in scenarios},
        options=tuple(options),
        store=files.absolute_url,
    )
    note_schema(files)
    files.write(on_host.order_name(order.fleet), json.dumps(asdict(order)).encode())
    return order


def _scenarios(path: Path) -> list[tuple[Path, Scenario]]:
    data, _ = read_toml(path, "a scenario file", ScenarioError)
    if "scenarios" not in data:
        return [(path, load(path))]
    job = nightly.load(path)
    return list(zip(job.files[1:], job.scenarios, strict=True))


def begun(files: Files, fleet: str) -> tuple[Order, dict[str, set[str]]]:
    """The order of a fleet that was begun, and which of its scenarios each host has finished.

    Raises UsageError, in one line, if the store has no such fleet, or one of an earlier version, or
    a damaged one.
    """
    check_schema(files)
    name = on_host.order_name(fleet)
    if not is_safe_name(fleet) or not files.list(name, ""):
        raise UsageError(f"{place(files.url)} has no fleet {one_line(fleet)[:80]!r} to resume")
    where = f"{files.url}/{name}"
    kept = parse_json(files.read(name), where)
    if "scenario" in kept:
        raise UsageError(f"fleet {fleet} was begun by an earlier kickbench; start a new one")
    sound = check_model(_Kept, kept, where)
    order = Order(fleet, sound.scenarios, tuple(sound.options), files.absolute_url)
    answer = ask(files, "SELECT host, scenario, fleet FROM runs WHERE failed = 0", lambda _: None)
    done: dict[str, set[str]] = {}
    for host, scenario, of in answer.rows:
        if of == fleet:
            done.setdefault(str(host), set()).add(str(scenario))
    return order, done


def _orders(
    order: Order, hosts: Collection[str], done: Mapping[str, Collection[str]]
) -> dict[str, Order]:
    """What each host has yet to do, without those that have nothing to do."""
    todo = {}
    for host in hosts:
        left = {n: text for n, text in order.scenarios.items() if n not in done.get(host, ())}
        if left:
            todo[host] = replace(order, scenarios=left)
    return todo


def run(
    client: distributed.Client,
    order: Order,
    done: Mapping[str, Collection[str]],
    wanted: Test | None,
    watching: Observer,
) -> Outcome:
    """Have all hosts measure that are ``wanted``, can, and have scenarios that are not ``done``."""
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    watching.note(f"fleet {order.fleet}: looking at {plural(workers, 'worker')}")
    seen, faults = look_at_hosts(client)
    chosen = {
        host: worker
        for host, (worker, what) in seen.items()
        if wanted is None or wanted(what.environment)
    }
    todo = _orders(order, chosen, done)
    watching.planned(todo)
    outcome = measure(client, todo, chosen, watching)
    finished = [host for host in {*chosen, *done} if not _orders(order, [host], done)]
    outcome.ok |= dict.fromkeys(finished, "it had finished before")
    outcome.fleet = order.fleet
    outcome.left_out = faults
    return outcome


@contextmanager
def connected(address: str, security: Security | None = None) -> Iterator[distributed.Client]:
    """A client of the scheduler. Raises HostError, in one line, if there is none."""
    try:
        import distributed
        from distributed.versions import VersionMismatchWarning
    except ImportError:
        raise UsageError(f"fleet run needs Dask; {INSTALL}") from None
    # Dask logs the traceback of a connection that breaks. It is told in a line here.
    for name in ("distributed", "distributed.client"):  # each has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", VersionMismatchWarning)
    try:
        client = distributed.Client(
            address, timeout=CONNECT_SECONDS, security=security, set_as_default=False
        )
    except (OSError, ValueError, TypeError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise HostError(f"the scheduler {address} cannot be reached: {reason}") from None
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def look_at_hosts(
    client: distributed.Client,
) -> tuple[dict[str, tuple[str, Seen]], dict[str, str]]:
    """The worker to use of each host with what the host is, and why others cannot say that."""
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    futures = {
        worker: client.submit(on_host.look, workers=[worker], pure=False, retries=0)
        for worker in workers
    }
    seen: dict[str, tuple[str, Seen]] = {}
    faults: dict[str, str] = {}
    deadline = time.monotonic() + LOOK_SECONDS
    for worker, future in futures.items():
        try:
            found = future.result(timeout=max(1.0, deadline - time.monotonic()))
        except Exception as error:  # whatever a host raises, a missing kickbench among it
            faults[worker] = _why(error)
            continue
        if others := differing(found.versions, versions()):
            faults[found.host] = others
        elif found.faults:
            faults[found.host] = found.faults[0]
        else:
            _, before = seen.setdefault(found.host, (worker, found))  # one worker is enough
            if _is_other_machine(before, found):
                faults[f"{found.host} at {worker}"] = (
                    "another machine has this name, too; set KICKBENCH_HOSTNAME there"
                )
    return seen, {name: why for name, why in faults.items() if name not in seen}


def _is_other_machine(one: Seen, other: Seen) -> bool:
    ids = {seen.environment.get("machine_id") for seen in (one, other)} - {None}
    return len(ids) > 1


def _why(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"its Python has no {error.name}: {INSTALL} there"
    if isinstance(error, CancelledError):
        return "the scheduler is gone; the run may go on there"
    if isinstance(error, TimeoutError):
        return f"it did not answer within {LOOK_SECONDS} s"
    return one_line(f"{type(error).__name__}: {error}")[:300]


def _topic(fleet: str) -> str:
    """Where the hosts of a fleet say their lines."""
    return f"kickbench-{fleet}"


def _measure(order: Order, host: str) -> tuple[int, str]:
    """What a worker calls: :func:`kickbench.fleet.host.measure`, which hears of the client."""
    import distributed

    worker = distributed.get_worker()

    def say(line: str) -> None:
        worker.log_event(_topic(order.fleet), (host, line))

    def stopped() -> bool:
        # The scheduler forgets a task that nobody wants any more: the client has gone.
        return bool(worker.state.tasks.get(key) is None or cancelled(worker.state.tasks[key]))

    key = worker.get_current_task()

    def cancelled(task: Any) -> bool:
        return task.state in ("cancelled", "forgotten", "released")

    return on_host.measure(order, say, stopped)


def measure(
    client: distributed.Client,
    orders: Mapping[str, Order],
    workers: Mapping[str, str],
    watching: Observer,
) -> Outcome:
    """Have the hosts do their orders, each by its worker.

    A host whose worker is gone for :data:`GONE_SECONDS` has failed. It may measure on, and
    ``--resume`` finds what it stored.
    """
    outcome = Outcome()
    for topic in {_topic(order.fleet) for order in orders.values()}:
        client.subscribe_topic(topic, lambda event: watching.said(*map(str, event[1])))
    futures = {
        host: client.submit(_measure, order, host, workers=[workers[host]], pure=False, retries=0)
        for host, order in orders.items()
    }

    def failed(host: str, why: str) -> None:
        del futures[host]
        outcome.failed[host] = why
        watching.ended(host, why)

    seen = _Seen(client)
    try:
        while futures:
            time.sleep(POLL_SECONDS)
            for host in [host for host, future in futures.items() if future.done()]:
                try:
                    code, last = futures[host].result(timeout=10)
                except (Exception, CancelledError) as error:
                    failed(host, _why(error))
                    continue
                if code == EXIT_OK:
                    del futures[host]
                    outcome.ok[host] = last
                    watching.ended(host, None)
                else:
                    failed(host, last)
            for host, why in seen.lost({host: workers[host] for host in futures}):
                failed(host, f"{why}; the run may go on there")
    except KeyboardInterrupt:
        outcome.interrupted = True
        client.cancel(list(futures.values()), force=True)
        for host in futures:
            outcome.failed[host] = "interrupted"
    return outcome


class _Seen:
    """When the scheduler has last seen each worker. It is asked rarely: its answer has them all."""

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._gone: dict[str, float] = {}
        self._looked = 0.0

    def lost(self, workers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Hosts whose workers are gone for good, or all if the scheduler is, and which it is."""
        now = time.monotonic()
        if now - self._looked < SEEN_SECONDS:
            return []
        self._looked = now
        there: Collection[str] = ()
        why = "its worker is gone"
        if self._client.status == "running":
            with suppress(OSError, TimeoutError):
                there = self._client.scheduler_info(n_workers=-1)["workers"]
        else:
            why = "the scheduler is gone"
        lost = []
        for host, worker in workers.items():
            if worker in there:
                self._gone.pop(host, None)
            elif now - self._gone.setdefault(host, now) > GONE_SECONDS:
                lost.append((host, why))
        return lost
