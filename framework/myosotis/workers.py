"""Worker processes, forked from one process that has imported everything and holds the base model.

A worker runs one function after another; its death is a message like any other, and touches no other
worker. When this process is gone, however it ended, all of them end at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import send_handle
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from myosotis.fork_server import (
    LEAVING_SECONDS,
    THREAD_COUNTS,
    Call,
    Channel,
    Event,
    Finished,
    Raised,
    Reap,
    Start,
    Stop,
    WorkerError,
    receive,
    send,
)

__all__ = [
    "Channel",
    "Died",
    "Event",
    "Finished",
    "ForkServer",
    "Message",
    "Raised",
    "Worker",
    "WorkerError",
    "available_cores",
    "gpus",
    "physical_cores",
]


@dataclass(frozen=True)
class Died:
    """The worker's process is gone.

    Attributes:
        exit_code: its exit code, minus the signal's number where one ended it; None where it is unknown.
    """

    exit_code: int | None

    def __str__(self) -> str:
        if self.exit_code is None:
            return "the worker ended with the process that starts the workers"
        if self.exit_code >= 0:
            return f"the worker ended with exit code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        cause = ", as a system that is out of memory does" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{cause}"


Message = Event | Finished | Raised | Died


class ForkServer:
    """A process that imports once and forks workers; it starts at once, and nobody waits for it.

    It has this process's working folder, search path and environment. Its standard output goes to
    standard error. With GPUs, leave out modules that use one as they are imported (peft does, through
    bitsandbytes). Use it as a context manager: leaving it ends the server and all workers.

    Args:
        modules: what it imports; an error is raised at the first use of the server.
        environment: variables that are set before it imports anything.
    """

    def __init__(self, modules: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._lock = threading.Lock()
        self._awaited = False
        self._workers: set[Worker] = set()
        self._control, other = Pipe()
        with other:
            self._process = _start_server(other.fileno(), modules, environment or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, function: str, argument: Any = None, wait: bool = True) -> None:
        """Call "module:name" with an argument in the server; workers that start later share what it returns.

        The function uses neither a GPU nor `backward`. It replaces what was prepared before. A worker
        that changes what it shares changes its own copy, for its later functions too.

        Args:
            function: what to call.
            argument: pickled.
            wait: whether to wait until it is done; else the next request does, and raises what this would.

        Raises:
            Exception: what the function raised, in its own type where that pickles.
            WorkerError: else, with its text; or the server has ended.
        """
        call = Call.of(function, argument)
        if wait:
            self._request(call)
            return
        with self._lock:
            self._settle()
            with self._ended():
                send(self._control, call)
            self._awaited = True

    def start_worker(self, threads: int = 1, environment: Mapping[str, str] | None = None) -> Worker:
        """Fork a worker that computes on a number of threads, with environment variables of its own."""
        connection, other = Pipe()
        with other:
            try:
                pid = self._request(Start(threads, dict(environment or {})), other.fileno())
            except BaseException:
                connection.close()
                raise
        worker = Worker(self, connection, pid)
        self._workers.add(worker)
        return worker

    def close(self) -> None:
        """End the server and all workers, whatever they are doing."""
        self._control.close()
        if not self._workers:
            self._process.kill()
        for worker in self._workers:
            worker.connection.close()
        self._workers.clear()
        try:
            self._process.wait(LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _forget(self, worker: Worker, grace: float) -> int | None:
        self._workers.discard(worker)
        try:
            code: int = self._request(Reap(worker.pid, grace))
        except WorkerError:
            return None
        return code

    def _request(self, request: Call | Start | Reap, descriptor: int | None = None) -> Any:
        with self._lock:
            self._settle()
            with self._ended():
                send(self._control, request)
                if descriptor is not None:
                    send_handle(self._control, descriptor, self._process.pid)
                reply = receive(self._control)
        return _result(reply)

    def _settle(self) -> None:
        """Take the answer that nobody has waited for."""
        if self._awaited:
            self._awaited = False
            with self._ended():
                reply = receive(self._control)
            _result(reply)

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Tell a server that is gone; end one whose answer would be taken for the next request's."""
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.kill()
            raise WorkerError(
                "the process that starts the workers must live as long as they are wanted; it has ended "
                f"with exit code {self._process.wait()}: what it said stands above"
            ) from error
        except BaseException:
            self._process.kill()
            raise


def _result(reply: Any) -> Any:
    if isinstance(reply, Raised):
        reply.error.add_note(f"In the process that starts the workers:\n{reply.traceback}")
        raise reply.error
    return reply.result


def _start_server(
    descriptor: int, modules: Sequence[str], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # Line by line even with PYTHONUNBUFFERED, so that those of two workers do not mix.
    lines = "sys.stdout.reconfigure(line_buffering=True, write_through=False)"
    script = f"import sys; sys.path[:] = {sys.path!r}; {lines}; "
    script += (
        f"from myosotis import fork_server; fork_server.serve({descriptor}, {list(modules)!r}, {os.getpid()})"
    )
    # CUDA's driver, once asked whether there is a GPU, is of no use in a forked process; NVML is.
    environment = {**dict.fromkeys(THREAD_COUNTS, "1"), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    with _interrupts_blocked():
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.DEVNULL,
            # What it and the workers print must not run into what this process draws on a terminal.
            stdout=subprocess.PIPE if os.isatty(2) else 2,
            stderr=subprocess.STDOUT,
            pass_fds=[descriptor],
            env={**os.environ, **environment, **variables},
        )
    if process.stdout is not None:
        threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True).start()
    return process


def _pass_on(stream: IO[bytes]) -> None:
    """Print what another process prints, line by line."""
    with stream:
        for line in stream:
            with suppress(OSError, ValueError):
                sys.stderr.write(line.decode(errors="replace"))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that the terminal's interrupt does not reach before they ignore it themselves."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
    """A process that runs functions, one after another; `ForkServer.start_worker` makes it.

    Attributes:
        connection: is ready when there is something to receive (`multiprocessing.connection.wait`).
        pid: its process.
    """

    def __init__(self, server: ForkServer, connection: Connection, pid: int) -> None:
        self.connection = connection
        self.pid = pid
        self._server = server
        self._busy = False
        self._died: Died | None = None

    def submit(self, function: str, argument: Any = None) -> None:
        """Let it call "module:name" with what is prepared, the argument and a `Channel`.

        That it has died meanwhile is told by `receive`.

        Raises:
            WorkerError: the function before has not ended yet.
        """
        if self._busy:
            raise WorkerError(
                f"a worker runs one function at a time; {function} was submitted to worker {self.pid}, which "
                "runs one: receive its messages until it has finished"
            )
        self._busy = True
        self._send(Call.of(function, argument))

    def receive(self) -> Message:
        """Wait for the next message: `Event`s, then `Finished` or `Raised`; `Died` for good once it is gone."""
        if self._died is not None:
            return self._died
        try:
            message: Event | Finished | Raised = receive(self.connection)
        except (EOFError, OSError):
            return self._end(LEAVING_SECONDS)
        self._busy = isinstance(message, Event)
        return message

    def stop(self) -> None:
        """Ask the running function to stop: its `channel.stopping` becomes true."""
        self._send(Stop())

    def kill(self) -> Died:
        """End the process at once, and wait until it is gone."""
        return self._died or self._end(grace=0)

    def _send(self, message: Call | Stop) -> None:
        with suppress(OSError):
            send(self.connection, message)

    def _end(self, grace: float) -> Died:
        self._busy = False
        self._died = Died(self._server._forget(self, grace))
        self.connection.close()
        return self._died


# What there is to work on


def available_cores(root: Path = Path("/")) -> int:
    """Count the processors that this process may use: its affinity, and its control group's quota.

    Args:
        root: where the system's files are looked for.
    """
    return _within_quota(len(_processors()), root)


def physical_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: processors that share one are one."""
    folder = root / "sys/devices/system/cpu"
    siblings = [folder / f"cpu{number}/topology/thread_siblings_list" for number in _processors()]
    cores = {path.read_text() if path.is_file() else path for path in siblings}
    return _within_quota(len(cores), root)


def _processors() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def _within_quota(cores: int, root: Path) -> int:
    return max(1, int(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Give the processors' worth of time that the control groups allow, from the process's own upwards."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else []:
        _, controllers, group = line.split(":", 2)
        for part in (PurePosixPath(group), *PurePosixPath(group).parents):
            if controllers == "":
                yield from _quota(root / f"sys/fs/cgroup/{part}/cpu.max")
            elif "cpu" in controllers.split(","):
                folder = root / f"sys/fs/cgroup/cpu/{part}"
                yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _quota(*paths: Path) -> Iterator[float]:
    """Read quota and period; "max" and -1 are none."""
    if all(path.is_file() for path in paths):
        quota, period = " ".join(path.read_text() for path in paths).split()
        if quota not in {"max", "-1"}:
            yield int(quota) / int(period)


def gpus() -> list[str]:
    """List the CUDA devices, as `CUDA_VISIBLE_DEVICES` names each; this process does not initialise CUDA."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if visible is None else visible.split(",")
    return [name.strip() for name in names[:count]]
