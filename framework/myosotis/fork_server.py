"""The other side of `workers`: the process that has imported everything, and the workers that it forks.

It computes on one thread, since a child of a process that has used a thread pool hangs, and starts no
thread of its own that lives at a fork. Whoever finds that its parent is gone ends at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import pkgutil
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NoReturn

from myosotis.errors import MyosotisError

THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Environment variables from which libraries take their number of threads as they load."""

LEAVING_SECONDS = 10.0
"""How long a worker that has closed its connection may take to end before it is killed."""


class WorkerError(MyosotisError):
    """A worker process, or the process that starts them, cannot do what it was asked."""


# What workers send


@dataclass(frozen=True)
class Event:
    """What a running function sends."""

    value: Any


@dataclass(frozen=True)
class Finished:
    """What a function returned."""

    result: Any


@dataclass(frozen=True)
class Raised:
    """What a function raised; a `WorkerError` with its text where it does not pickle."""

    error: BaseException
    traceback: str

    def __reduce__(self) -> tuple[Callable[..., Raised], tuple[bytes, str, str]]:
        text = "".join(traceback.format_exception_only(self.error)).strip()
        try:
            return _raised, (pickle.dumps(self.error), text, self.traceback)
        except Exception:
            return _raised, (b"", text, self.traceback)


def _raised(pickled: bytes, text: str, trace: str) -> Raised:
    # Much that pickles does not come back: an exception whose constructor wants more than its message.
    try:
        error = pickle.loads(pickled)
    except Exception:
        error = None
    return Raised(error if isinstance(error, BaseException) else WorkerError(text), trace)


# What they are asked


@dataclass(frozen=True)
class Call:
    """A function, as "module:name", and its pickled argument."""

    function: str
    argument: bytes

    @classmethod
    def of(cls, function: str, argument: Any) -> Call:
        """Pickle the argument."""
        return cls(function, pickle.dumps(argument))

    def load(self) -> tuple[Callable[..., Any], Any]:
        """Import the function and unpickle its argument."""
        return pkgutil.resolve_name(self.function), pickle.loads(self.argument)


@dataclass(frozen=True)
class Start:
    """Fork a worker; its connection's descriptor follows."""

    threads: int
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Reap:
    """Wait for a worker to end, and kill it after the grace, in seconds; the answer is its exit code."""

    pid: int
    grace: float


class Stop:
    """The running function is to stop."""


def send(connection: Connection, message: Any) -> None:
    """Send a pickled message; tensors go by value, which multiprocessing's own pickling would share."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    """Receive a message that `send` sent."""
    return pickle.loads(connection.recv_bytes())


def answer(action: Callable[[], Any]) -> bytes:
    """Do something, and pickle what it returned or raised."""
    try:
        return pickle.dumps(Finished(action()))
    except BaseException as error:
        return pickle.dumps(Raised(error, traceback.format_exc()))


# The server


def serve(descriptor: int, modules: Sequence[str], parent: int) -> NoReturn:
    """Import modules, then do what the parent asks until it is gone; it may be gone already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = _Server(Connection(descriptor), parent)
    try:
        server.load(modules)
        server.run()
    except BaseException:
        traceback.print_exc()
    finally:
        server.end()


class _Server:
    """Holds what is prepared, and the workers that have not been waited for."""

    def __init__(self, control: Connection, parent: int) -> None:
        self.control = control
        self.parent = parent
        self.prepared: Any = None
        self.failure: BaseException | None = None
        self.workers: set[int] = set()

    def load(self, modules: Sequence[str]) -> None:
        try:
            with _watched(self.parent), _uncollected():
                for name in modules:
                    importlib.import_module(name)
            _limit_threads(1)
            _settle(f"importing {', '.join(modules)}")
        except BaseException as error:
            self.failure = error

    def run(self) -> None:
        while True:
            while not self.control.poll(1.0):
                if os.getppid() != self.parent:
                    return
            try:
                request = receive(self.control)
                descriptor = recv_handle(self.control) if isinstance(request, Start) else -1
                self.control.send_bytes(answer(partial(self.do, request, descriptor)))
            except (EOFError, OSError):
                return

    def do(self, request: Call | Start | Reap, descriptor: int) -> int | None:
        if self.failure is not None and not isinstance(request, Reap):
            raise self.failure
        match request:
            case Call():
                self.prepare(request)
                return None
            case Start():
                return self.start(request, descriptor)
            case Reap():
                self.workers.discard(request.pid)
                return _wait(request.pid, request.grace)

    def prepare(self, call: Call) -> None:
        if self.prepared is not None:
            self.prepared = None
            gc.unfreeze()
            gc.collect()
        with _watched(self.parent), _uncollected():
            function, argument = call.load()
            self.prepared = function(argument)
        try:
            _settle(call.function)
        except WorkerError as error:
            self.failure = error
            raise

    def start(self, request: Start, descriptor: int) -> int:
        server = os.getpid()
        # At a fork some versions of tokenizers look whether this is set, and warn where it is not.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with Connection(descriptor) as connection:
            os.set_inheritable(descriptor, False)
            pid = os.fork()
            if pid == 0:
                self.control.close()
                _work(connection, server, self.prepared, request)
            self.workers.add(pid)
            return pid

    def end(self) -> NoReturn:
        for pid in self.workers:
            _wait(pid, grace=0)
        os._exit(0)


@contextmanager
def _watched(parent: int) -> Iterator[None]:
    """End this process, in the middle of what it does, when its parent is gone."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if os.getppid() != parent:
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage: imports and encoding make a million objects, and hardly any of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _wait(pid: int, grace: float) -> int:
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _limit_threads(threads: int) -> None:
    for name in THREAD_COUNTS:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def _settle(what: str) -> None:
    """See that this process can be forked, and that its objects stay shared.

    Raises:
        WorkerError: what was done has spoilt it for all workers.
    """
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            raise WorkerError(
                f"what is done before workers start must leave the GPU alone, or none of them can use one; "
                f"{what} initialised CUDA: leave that to the workers"
            )
        if torch.get_num_threads() > 1:
            raise WorkerError(
                f"what is done before workers start must compute on one thread, or workers with two hang; "
                f"{what} set {torch.get_num_threads()}: leave the number as it is"
            )
    # The garbage collection writes into all that it looks at, and what is written to is shared no longer.
    gc.freeze()


# A worker


class Channel:
    """What a function that runs in a worker has of the parent.

    Attributes:
        stopping: the parent, or a SIGTERM, asks the function to stop.
    """

    def __init__(self, connection: Connection) -> None:
        self.stopping = False
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, event: Any) -> None:
        """Send anything that pickles to the parent, at once.

        It blocks while the parent does not read and some hundred kilobytes wait already.
        """
        self._post(pickle.dumps(Event(event)))

    def _post(self, message: bytes) -> None:
        try:
            with self._lock:
                self._connection.send_bytes(message)
        except OSError:
            os._exit(1)  # the parent is gone


def _work(connection: Connection, server: int, prepared: Any, request: Start) -> NoReturn:
    """Run one function after another, until the parent closes the connection."""
    try:
        channel = Channel(connection)
        _begin(connection, channel, server, request)
        calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(connection, channel, calls, server), daemon=True).start()
        while True:
            _run(calls.get(), prepared, channel)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _begin(connection: Connection, channel: Channel, server: int, request: Start) -> None:
    _die_with_parent()
    if os.getppid() != server:
        os._exit(1)
    signal.signal(signal.SIGTERM, lambda *_: setattr(channel, "stopping", True))
    # Who is forked from a worker, such as a data loader's process, is ended by SIGTERM, and must not
    # keep the connection of a dead worker open.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    os.register_at_fork(after_in_child=connection.close)
    _limit_threads(request.threads)
    os.environ.update(request.environment)
    _seed_apart()


def _die_with_parent() -> None:
    """Let the kernel end this process with its parent, where it can."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _seed_apart() -> None:
    """Seed NumPy's and torch's generators anew, as Python does its own, or all workers draw the same."""
    seed = int.from_bytes(os.urandom(4), "big")
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed(seed)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def _listen(connection: Connection, channel: Channel, calls: queue.SimpleQueue[Call], server: int) -> None:
    """Take what the parent sends, and end this process when the parent is gone."""
    try:
        while True:
            while not connection.poll(1.0):
                if os.getppid() != server:
                    os._exit(1)
            message = receive(connection)
            channel.stopping = isinstance(message, Stop)
            if isinstance(message, Call):
                calls.put(message)
    finally:
        os._exit(0)


def _run(call: Call, prepared: Any, channel: Channel) -> None:
    def action() -> Any:
        function, argument = call.load()
        return function(prepared, argument, channel)

    outcome = answer(action)
    # This process ends without Python's own flushing; what the function printed to may be gone.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    gc.collect()
    channel._post(outcome)
