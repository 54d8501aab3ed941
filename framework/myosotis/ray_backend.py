"""A study's units as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from myosotis.backend import Backend, Surroundings, timed, work
from myosotis.cohort import OUT_OF_MEMORY
from myosotis.errors import ConfigurationError, in_one_line
from myosotis.events import Event
from myosotis.job import Job
from myosotis.local import Queue, Stopping, Unit
from myosotis.measure import Cost
from myosotis.options import Options

PERIOD_SECONDS = 0.2
"""How often events are fetched."""
REACH_SECONDS = 10.0
"""How long to wait for a cluster's head to answer."""
MOST_HANDED_OVER = 1000
"""Units that Ray has at once, for as many nodes as there are or come to be."""


class RayBackend(Backend):
    """Ray's tasks, each with its cores, GPUs and memory.

    Ray tries nothing again by itself: what died is begun again by the study's own count of retries.

    Raises:
        ConfigurationError: the cluster cannot be reached, or no node of it has what a unit asks for.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(options.ray.address)
        if not self.slots():
            has = "; ".join(_listed(each) for each in _nodes())
            self.close()
            raise ConfigurationError(
                f"a node of the Ray cluster must have what a worker asks for, {options.resources()}, but the "
                f"nodes have {has}; ask for less, or add a node that has it"
            )

    def slots(self) -> int:
        """Count the units that all nodes have room for, when nothing else runs there."""
        return sum(_fitting(self._asked(), has) for has in _nodes())

    def time(self, surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
        """Time a few steps in a task."""
        try:
            cost: Cost | None = ray.get(self._task(_timed).remote(surroundings, jobs))
        except RayTaskError as error:
            raise error.cause or error from error
        except RayError as error:
            raise MemoryError(in_one_line(error)) from error
        return cost

    def run(self, queue: Queue, surroundings: Surroundings) -> None:
        """Hand units over, and follow what they tell."""
        post: Any = _post()
        shared, task = ray.put(surroundings), self._task(_work)
        running: dict[Any, Unit] = {}
        units: dict[int, Unit] = {}
        most = MOST_HANDED_OVER if self.options.workers == "auto" else self.options.workers
        cancelled = False
        while True:
            while len(running) < most and (unit := queue.next()) is not None:
                units[id(unit)] = unit
                running[task.remote(shared, id(unit), unit, post)] = unit
            if not running:
                return
            if queue.stopping() and not cancelled:
                cancelled = True
                for reference in running:
                    ray.cancel(reference)
            done, _ = ray.wait(list(running), timeout=PERIOD_SECONDS)
            for number, event in ray.get(post.take.remote()):
                queue.take(units[number], event)
            for reference in done:
                unit = running.pop(reference)
                _ended(queue, unit, reference)
                del units[id(unit)]

    def close(self) -> None:
        """Leave the cluster; one that was started for the command ends."""
        if self._connected:
            ray.shutdown()

    def _asked(self) -> dict[str, float]:
        memory = self.options.memory_gigabytes
        asked = {"CPU": self.options.cpus, "GPU": self.options.gpus, "memory": (memory or 0) * 2**30}
        return {name: amount for name, amount in asked.items() if amount}

    def _task(self, function: Any) -> Any:
        asked = self._asked()
        return ray.remote(function).options(
            num_cpus=asked["CPU"],
            num_gpus=asked.get("GPU", 0),
            memory=asked.get("memory"),
            max_retries=0,
        )


def _connect(address: str | None) -> None:
    given = address or os.environ.get("RAY_ADDRESS")
    if given is not None and given != "local":
        _check_answers(given)
    try:
        ray.init(
            address=given,
            include_dashboard=None if given else False,
            logging_level=logging.ERROR,
            # Trials' logs are written to their folders, wherever they run; the cluster's own are no one's here.
            log_to_driver=False,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"hydra.launcher.ray.address must be that of a Ray cluster's head, but {given or 'starting one'} "
            f"failed: {in_one_line(error)}"
        ) from error


def _check_answers(address: str) -> None:
    """Refuse a head that does not answer: Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    reason = "" if host and port.isdecimal() else "that is not HOST:PORT"
    if not reason:
        try:
            socket.create_connection((host, int(port)), REACH_SECONDS).close()
        except OSError as error:
            reason = f"it does not answer ({error.strerror or error})"
    if reason:
        raise ConfigurationError(
            f"hydra.launcher.ray.address must be that of a Ray cluster's head, but got {address}: {reason}; "
            "start one with ray start --head, which prints its address, or leave it out to use this machine"
        )


def _nodes() -> list[dict[str, float]]:
    """Give what each node that lives has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _fitting(asked: dict[str, float], has: dict[str, float]) -> int:
    """Count the units that a node has room for, when nothing else runs there."""
    return int(min(has.get(name, 0) // amount for name, amount in asked.items()))


def _listed(resources: dict[str, float]) -> str:
    gigabytes = resources.get("memory", 0) / 2**30
    return (
        f"{resources.get('CPU', 0):g} cores, {resources.get('GPU', 0):g} GPUs, {gigabytes:.1f} GB of memory"
    )


def _ended(queue: Queue, unit: Unit, reference: Any) -> None:
    """Take note that a task is over, in whatever way."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        cause = error.cause or error  # without where it cannot be pickled
        text = f"{type(cause).__name__}: {cause}"
        queue.died(unit, text, passing=isinstance(cause, OUT_OF_MEMORY))
    except RayError as error:
        queue.died(unit, in_one_line(error))


# What runs there


class Post:
    """Keeps what units tell until the command fetches it."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []

    def tell(self, unit: int, event: Event) -> None:
        """Take an event of a unit."""
        self.events.append((unit, event))

    def all_told(self) -> None:
        """Answer once all that its caller has told before is here."""

    def take(self) -> list[tuple[int, Event]]:
        """Give what has come since the last time."""
        events, self.events = self.events, []
        return events


def _post() -> Any:
    """Start the post on this machine, where it lives as long as the command."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Post).options(num_cpus=0, scheduling_strategy=here).remote()


def _work(surroundings: Surroundings, number: int, unit: Unit, post: Any) -> None:
    stopping = Stopping()
    # To cancel a task interrupts it.
    with stopping.on_signals():
        try:
            work(surroundings, unit, lambda event: post.tell.remote(number, event), stopping)
        finally:
            ray.get(post.all_told.remote())


def _timed(surroundings: Surroundings, jobs: Sequence[Job]) -> Cost | None:
    return timed(surroundings, jobs)
