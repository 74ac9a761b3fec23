# SPDX-License-Identifier: Apache-2.0
"""A Dask worker on a host of ``kickbench fleet run --hosts``, which ssh has started.

It gets an order on standard input, and answers in a line on standard output
(:mod:`kickbench.fleet.by_ssh` has the other end). It ends with its scheduler, and when its standard
input does: then the connection is gone. What measures is a process of its own, and goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from typing import Any

from kickbench.fleet.files import INSTALL
from kickbench.fleet.versions import differing, versions

ANSWER = "kickbench-worker: "
END = "end\n"
END_SECONDS = 20


def main() -> None:
    """Be a worker until the end. What begins with :data:`ANSWER` is the answer, as JSON."""
    order = json.loads(sys.stdin.readline())
    try:
        import distributed  # noqa: F401
    except ImportError:
        _answer(fault=f"its Python has no distributed: {INSTALL} there")
        return
    if others := differing(versions(), order["versions"]):
        _answer(fault=others)
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_work(order))


async def _work(order: dict[str, Any]) -> None:
    from distributed import Worker
    from distributed.security import Security

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    last = [""]

    def listen() -> None:
        last[0] = sys.stdin.readline()
        loop.call_soon_threadsafe(ended.set)

    async with Worker(
        order["scheduler"],
        host=order["host"],
        contact_address=order["contact"],
        nthreads=1,
        security=Security(require_encryption=True, **order["security"]),  # type: ignore[no-untyped-call]
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    ) as worker:
        _answer(address=worker.contact_address)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # nobody reads on, and a full pipe would stop the worker
            os.dup2(nowhere, stream)
        threading.Thread(target=listen, daemon=True).start()
        over = asyncio.ensure_future(worker.finished())
        await asyncio.wait(
            {over, asyncio.ensure_future(ended.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        if last[0] == END:  # the run has been interrupted, and hears of that from its task
            for _ in range(10 * END_SECONDS):
                if not worker.active_threads:
                    break
                await asyncio.sleep(0.1)
        os._exit(0)  # a thread may follow a measurement, which goes on


def _answer(**what: str) -> None:
    print(f"\n{ANSWER}{json.dumps(what)}", flush=True)
