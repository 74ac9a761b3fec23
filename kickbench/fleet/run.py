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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kickbench.errors import (
    EXIT_HOST,
    EXIT_INTERRUPTED,
    EXIT_MEASUREMENT,
    EXIT_OK,
    HostError,
    UsageError,
)
from kickbench.fleet import host as on_host
from kickbench.fleet.files import INSTALL, Files
from kickbench.fleet.host import Order, Seen
from kickbench.fleet.only import Test
from kickbench.fleet.query import ask
from kickbench.fleet.versions import differing, versions
from kickbench.methods import is_protocol_file
from kickbench.numbers import plural
from kickbench.results.schema import is_safe_name, one_line, place, safe_name
from kickbench.scenario.files import load
from kickbench.scenario.shipped import resolve

if TYPE_CHECKING:
    import distributed
    from distributed.security import Security

CONNECT_SECONDS = 30
LOOK_SECONDS = 120
GONE_SECONDS = 60
"""How long a host that measures may be out of the scheduler's sight."""
POLL_SECONDS = 0.5


@dataclass
class Outcome:
    """How it ended. ``ok`` has the run of each host that finished, ``failed`` why another did not.

    ``left_out`` says why a host could not begin.
    """

    fleet: str
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


def new_order(files: Files, scenario: str, options: Sequence[str]) -> Order:
    """The order for a scenario, which is kept in the store as ``fleets/ID.json``.

    Raises ScenarioError for a wrong scenario, UsageError for one with protocols of your own.
    """
    path = resolve(scenario)
    loaded = load(path)
    own = [method for method in loaded.measure.methods if is_protocol_file(method)]
    if own:
        raise UsageError(
            f"{own[0]}: a fleet does not carry protocol files to its hosts; measure them with "
            "kickbench run --host"
        )
    order = Order(
        fleet=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{secrets.token_hex(4)}",
        name=safe_name(path.stem, default="scenario"),
        scenario=path.read_text(encoding="utf-8"),
        options=tuple(options),
        store=files.absolute_url,
    )
    files.write(_place(order.fleet), json.dumps(asdict(order)).encode())
    return order


def begun(files: Files, fleet: str) -> tuple[Order, set[str]]:
    """The order of a fleet that was begun, and the hosts that have finished it.

    Raises UsageError, in one line, if the store has no such fleet.
    """
    if not is_safe_name(fleet) or not files.list(_place(fleet), ""):
        raise UsageError(f"{place(files.url)} has no fleet {one_line(fleet)[:80]!r} to resume")
    kept = json.loads(files.read(_place(fleet)))
    kept |= {"options": tuple(kept["options"]), "store": files.absolute_url}
    order = Order(**kept)
    answer = ask(files, "SELECT host, fleet FROM runs WHERE failed = 0", lambda _: None)
    return order, {str(host) for host, of in answer.rows if of == fleet}


def _place(fleet: str) -> str:
    return f"fleets/{fleet}.json"


def run(
    client: distributed.Client,
    order: Order,
    done: Collection[str],
    wanted: Test | None,
    say: Callable[[str, str], None],
) -> Outcome:
    """Have all hosts measure that are ``wanted``, can, and are not ``done``.

    ``say`` gets a host, or "kickbench", and a line of progress.
    """
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    say("kickbench", f"fleet {order.fleet}: looking at {plural(workers, 'worker')}")
    seen, faults = look_at_hosts(client)
    chosen = {
        host: worker
        for host, (worker, what) in seen.items()
        if wanted is None or wanted(what.environment)
    }
    todo = {host: worker for host, worker in chosen.items() if host not in done}
    say("kickbench", f"{plural(len(todo), 'host')} to measure: {', '.join(sorted(todo))}")
    outcome = measure(client, order, todo, say)
    outcome.ok |= dict.fromkeys(done, "it had finished before")
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
            seen.setdefault(found.host, (worker, found))  # one worker of a host is enough
    return seen, {name: why for name, why in faults.items() if name not in seen}


def _why(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"its Python has no {error.name}: {INSTALL} there"
    if isinstance(error, CancelledError):
        return "the scheduler is gone; the run may go on there"
    if isinstance(error, TimeoutError):
        return f"it did not answer within {LOOK_SECONDS} s"
    return one_line(f"{type(error).__name__}: {error}")[:300]


def _measure(order: Order, topic: str) -> tuple[int, str]:
    """What a worker calls: :func:`kickbench.fleet.host.measure`, which hears of the client."""
    import distributed

    worker = distributed.get_worker()

    def say(line: str) -> None:
        worker.log_event(topic, line)

    def stopped() -> bool:
        # The scheduler forgets a task that nobody wants any more: the client has gone.
        return bool(worker.state.tasks.get(key) is None or cancelled(worker.state.tasks[key]))

    key = worker.get_current_task()

    def cancelled(task: Any) -> bool:
        return task.state in ("cancelled", "forgotten", "released")

    return on_host.measure(order, say, stopped)


def measure(
    client: distributed.Client,
    order: Order,
    workers: Mapping[str, str],
    say: Callable[[str, str], None],
) -> Outcome:
    """Have the hosts measure, each by its worker. ``say`` gets a host and a line of its progress.

    A host whose worker is gone for :data:`GONE_SECONDS` has failed. It may measure on, and
    ``--resume`` finds what it stored.
    """
    outcome = Outcome(order.fleet)
    futures = {}
    for host, worker in workers.items():
        topic = f"kickbench-{order.fleet}-{host}"
        client.subscribe_topic(topic, _listener(say, host))
        futures[host] = client.submit(
            _measure, order, topic, workers=[worker], pure=False, retries=0
        )
    gone: dict[str, float] = {}
    try:
        while futures:
            time.sleep(POLL_SECONDS)
            _collect(futures, outcome)
            _give_up(client, futures, {h: workers[h] for h in futures}, gone, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
        client.cancel(list(futures.values()), force=True)
        for host in futures:
            outcome.failed[host] = "interrupted"
    return outcome


def _listener(say: Callable[[str, str], None], host: str) -> Callable[[tuple[float, Any]], None]:
    return lambda event: say(host, str(event[1]))


def _collect(futures: dict[str, Any], outcome: Outcome) -> None:
    """Move the hosts that have ended to the outcome."""
    for host, future in list(futures.items()):
        if not future.done():
            continue
        del futures[host]
        try:
            code, last = future.result(timeout=10)
        except (Exception, CancelledError) as error:
            outcome.failed[host] = _why(error)
            continue
        (outcome.ok if code == EXIT_OK else outcome.failed)[host] = last


def _give_up(
    client: distributed.Client,
    futures: dict[str, Any],
    workers: Mapping[str, str],
    gone: dict[str, float],
    outcome: Outcome,
) -> None:
    """Give up hosts whose workers are gone, or all if the scheduler is."""
    there: Sequence[str] = ()
    why = "its worker is gone"
    if client.status == "running":
        with suppress(OSError, TimeoutError):
            there = client.scheduler_info(n_workers=-1)["workers"]
    else:
        why = "the scheduler is gone"
    now = time.monotonic()
    for host, worker in workers.items():
        if worker in there:
            gone.pop(host, None)
        elif now - gone.setdefault(host, now) > GONE_SECONDS:
            del futures[host]
            outcome.failed[host] = f"{why}; the run may go on there"
