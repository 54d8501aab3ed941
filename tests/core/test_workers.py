"""Workers: what they send, how they stop, how they die, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from myosotis.errors import DataError
from myosotis.workers import (
    Channel,
    Died,
    Event,
    Finished,
    ForkServer,
    Message,
    Raised,
    Worker,
    WorkerError,
    available_cores,
    gpus,
    physical_cores,
)
from tests.core.commands import python, search_path

HERE = __name__

pytestmark = pytest.mark.slow

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system has no /proc")


# What the workers run


def prepare(argument: Any) -> dict[str, Any]:
    return {"prepared": argument, "process": os.getpid()}


def report(prepared: Any, argument: Any, channel: Channel) -> tuple[Any, Any, int]:
    return prepared, argument, os.getpid()


def count(prepared: Any, argument: int, channel: Channel) -> str:
    for number in range(argument):
        channel.send(number)
    return "counted"


def refuse(*arguments: Any) -> None:
    raise DataError("rows are not rows")


def missing_file(*arguments: Any) -> None:
    Path("/nowhere").read_text()


class Stubborn(Exception):
    """Pickles, and does not come back."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def stubborn(*arguments: Any) -> None:
    raise Stubborn(1, 2)


def leave(*arguments: Any) -> None:
    sys.exit("left")


def unpicklable(*arguments: Any) -> Callable[[], None]:
    return lambda: None


def until_stopped(prepared: Any, argument: Any, channel: Channel) -> int:
    channel.send("running")
    steps = 0
    while not channel.stopping and steps < 5000:
        time.sleep(0.002)
        steps += 1
    return steps


def end(prepared: Any, argument: int, channel: Channel) -> None:
    channel.send("before")
    os._exit(argument)


def sleep(*arguments: Any) -> None:
    time.sleep(60)


def fork_and_sleep(prepared: Any, argument: Any, channel: Channel) -> None:
    child = os.fork()
    if child:
        channel.send(child)
    time.sleep(60)


def entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def sockets(*arguments: Any) -> list[tuple[int, bool]]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        number = int(path.name)
        if number > 2 and path.is_socket():
            found.append((number, os.get_inheritable(number)))
    return found


def multiply(prepared: Any, argument: int, channel: Channel) -> tuple[int, float, int]:
    import torch

    before = entries("/proc/self/task")
    matrix = torch.full((512, 512), 0.5)
    total = float((matrix @ matrix).sum())
    return torch.get_num_threads(), total, entries("/proc/self/task") - before


def draw(prepared: Any, argument: Any, channel: Channel) -> tuple[float, float]:
    import numpy
    import torch

    return float(torch.rand(())), float(numpy.random.rand())


def megabytes(argument: int) -> Any:
    import torch

    return torch.ones(argument, 1 << 18)


def own_kilobytes(prepared: Any, argument: Any, channel: Channel) -> tuple[float, int]:
    total = float(prepared.sum())
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return total, sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def use_cuda(argument: Any) -> None:
    import torch

    torch.cuda._initialized = True


def use_threads(argument: Any) -> None:
    import torch

    torch.set_num_threads(2)


def tokenize(*arguments: Any) -> list[int]:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"forget": 0, "me": 1, "not": 2}, unk_token="not"))
    return [encoding.ids[0] for encoding in tokenizer.encode_batch(["forget", "me", "not"] * 200)]


def environment_of(prepared: Any, argument: list[str], channel: Channel) -> list[str | None]:
    return [os.environ.get(name) for name in argument]


def write_on(prepared: Any, argument: str, channel: Channel) -> None:
    while True:
        with Path(argument).open("a") as file:
            file.write("line\n")
        time.sleep(0.01)


# The tests


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(["torch"]) as server:
        server.prepare(f"{HERE}:prepare", "base")
        yield server


@pytest.fixture
def worker(server: ForkServer) -> Iterator[Worker]:
    worker = server.start_worker()
    yield worker
    worker.kill()


def messages(worker: Worker) -> list[Message]:
    """Receive up to the function's end."""
    received = [worker.receive()]
    while isinstance(received[-1], Event):
        received.append(worker.receive())
    return received


def run(worker: Worker, function: Callable[..., Any], argument: Any = None) -> Message:
    worker.submit(f"{HERE}:{function.__name__}", argument)
    return messages(worker)[-1]


def result(worker: Worker, function: Callable[..., Any], argument: Any = None) -> Any:
    outcome = run(worker, function, argument)
    assert isinstance(outcome, Finished), outcome
    return outcome.result


def is_alive(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() != "" and not done.stdout.startswith("Z")


def seconds_until(condition: Callable[[], bool], limit: float = 60.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit
        time.sleep(0.01)
    return time.monotonic() - started


def test_function_gets_what_is_prepared_and_its_argument(server: ForkServer, worker: Worker) -> None:
    prepared, argument, process = result(worker, report, {"rank": 4})
    assert prepared == {"prepared": "base", "process": server._process.pid}
    assert argument == {"rank": 4}
    assert process == worker.pid


def test_events_come_in_order_then_the_result(worker: Worker) -> None:
    worker.submit(f"{HERE}:count", 300)
    assert messages(worker) == [*(Event(number) for number in range(300)), Finished("counted")]


def test_events_come_at_once(worker: Worker) -> None:
    worker.submit(f"{HERE}:until_stopped")
    assert worker.receive() == Event("running")
    assert wait([worker.connection], timeout=0.05) == []
    worker.stop()
    assert wait([worker.connection], timeout=30) == [worker.connection]


def test_worker_runs_one_function_after_another(worker: Worker) -> None:
    assert [result(worker, report, number)[1:] for number in range(20)] == [
        (number, worker.pid) for number in range(20)
    ]


def test_one_function_at_a_time(worker: Worker) -> None:
    worker.submit(f"{HERE}:until_stopped")
    with pytest.raises(WorkerError, match="one function at a time"):
        worker.submit(f"{HERE}:report")


def test_two_workers_are_waited_on_together(server: ForkServer) -> None:
    workers = [server.start_worker(), server.start_worker()]
    for each in workers:
        each.submit(f"{HERE}:until_stopped")
        assert each.receive() == Event("running")
    workers[1].stop()
    assert wait([each.connection for each in workers], timeout=30) == [workers[1].connection]
    assert isinstance(workers[1].receive(), Finished)
    assert wait([each.connection for each in workers], timeout=0.05) == []
    for each in workers:
        each.kill()


# What is raised


def test_error_keeps_its_type_and_says_where(worker: Worker) -> None:
    raised = run(worker, refuse)
    assert isinstance(raised, Raised)
    assert type(raised.error) is DataError
    assert str(raised.error) == "rows are not rows"
    assert "in refuse" in raised.traceback
    assert result(worker, report, 1)[1] == 1


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (stubborn, WorkerError, "Stubborn: 1 and 2"),
        (leave, SystemExit, "left"),
        (unpicklable, AttributeError, "lambda"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_any_failure_comes_as_a_message(
    worker: Worker, function: Callable[..., Any], kind: type, text: str
) -> None:
    raised = run(worker, function)
    assert isinstance(raised, Raised)
    assert isinstance(raised.error, kind)
    assert text in str(raised.error)
    assert result(worker, report, 1)[1] == 1


def test_unknown_function_is_raised(worker: Worker) -> None:
    worker.submit("tests.nowhere:nothing")
    raised = worker.receive()
    assert isinstance(raised, Raised)
    assert isinstance(raised.error, ModuleNotFoundError)


def test_prepare_raises_what_its_function_raised() -> None:
    with ForkServer() as server:
        with pytest.raises(DataError, match="rows are not rows") as caught:
            server.prepare(f"{HERE}:refuse")
        assert "in refuse" in "".join(caught.value.__notes__)
        with pytest.raises(WorkerError, match="Stubborn: 1 and 2"):
            server.prepare(f"{HERE}:stubborn")
        server.prepare(f"{HERE}:prepare", 5)
        assert result(server.start_worker(), report)[0]["prepared"] == 5


def test_what_is_not_waited_for_is_done_before_the_next_request() -> None:
    with ForkServer() as server:
        server.prepare(f"{HERE}:prepare", 5, wait=False)
        assert result(server.start_worker(), report)[0]["prepared"] == 5
        server.prepare(f"{HERE}:refuse", wait=False)
        with pytest.raises(DataError, match="rows are not rows"):
            server.start_worker()
        server.prepare(f"{HERE}:missing_file", wait=False)
        with pytest.raises(FileNotFoundError, match="nowhere"):  # and not that the server is gone
            server.prepare(f"{HERE}:prepare", 6)
        server.prepare(f"{HERE}:prepare", 7)
        assert result(server.start_worker(), report)[0]["prepared"] == 7


def test_import_error_is_raised_at_the_first_use() -> None:
    with ForkServer(["json", "module_that_is_not_there"]) as server:
        for use in (server.start_worker, lambda: server.prepare(f"{HERE}:prepare")):
            with pytest.raises(ModuleNotFoundError, match="module_that_is_not_there"):
                use()


@pytest.mark.parametrize(
    ("function", "text"),
    [("use_cuda", "leave the GPU alone.*use_cuda"), ("use_threads", "on one thread.*use_threads set 2")],
)
def test_server_that_cannot_be_forked_any_more_says_so(function: str, text: str) -> None:
    with ForkServer() as server:
        worker = server.start_worker()
        with pytest.raises(WorkerError, match=text):
            server.prepare(f"{HERE}:{function}")
        with pytest.raises(WorkerError, match=text):
            server.start_worker()
        assert worker.kill() == Died(-signal.SIGKILL)


def test_server_that_has_died_is_an_error_and_its_workers_are_dead() -> None:
    with ForkServer() as server:
        worker = server.start_worker()
        os.kill(server._process.pid, signal.SIGKILL)
        died = worker.receive()
        assert isinstance(died, Died)
        assert "with the process that starts the workers" in str(died)
        with pytest.raises(WorkerError, match="exit code -9"):
            server.start_worker()


# Stopping and dying


def test_stop_reaches_the_running_function_alone(worker: Worker) -> None:
    for _ in range(2):
        worker.submit(f"{HERE}:until_stopped")
        assert worker.receive() == Event("running")
        assert wait([worker.connection], timeout=0.05) == []
        worker.stop()
        [finished] = messages(worker)
        assert isinstance(finished, Finished)
        assert finished.result < 5000
        worker.stop()  # too late: the next function does not see it


def test_sigterm_only_asks_to_stop(worker: Worker) -> None:
    worker.submit(f"{HERE}:until_stopped")
    assert worker.receive() == Event("running")
    os.kill(worker.pid, signal.SIGTERM)
    [finished] = messages(worker)
    assert isinstance(finished, Finished)
    assert finished.result < 5000


def test_interrupts_of_the_terminal_are_ignored() -> None:
    with ForkServer() as server:
        os.kill(server._process.pid, signal.SIGINT)  # before it has begun
        worker = server.start_worker()
        worker.submit(f"{HERE}:until_stopped")
        assert worker.receive() == Event("running")
        for process in (server._process.pid, worker.pid):
            os.kill(process, signal.SIGINT)
            os.kill(server._process.pid, signal.SIGTERM)
        assert wait([worker.connection], timeout=0.2) == []
        worker.stop()
        assert isinstance(worker.receive(), Finished)
        assert result(server.start_worker(), report, 1)[1] == 1


def test_killed_worker_is_a_message_and_the_other_goes_on(server: ForkServer, worker: Worker) -> None:
    other = server.start_worker()
    other.submit(f"{HERE}:sleep")
    os.kill(other.pid, signal.SIGKILL)
    assert wait([other.connection], timeout=30) == [other.connection]
    died = other.receive()
    assert died == Died(-signal.SIGKILL)
    assert "SIGKILL" in str(died)
    other.submit(f"{HERE}:report")
    assert other.receive() == other.kill() == died
    assert result(worker, report, 1)[1] == 1


def test_exit_code_comes_after_what_was_sent(worker: Worker) -> None:
    worker.submit(f"{HERE}:end", 3)
    assert messages(worker) == [Event("before"), Died(3)]
    assert "exit code 3" in str(worker.receive())


def test_kill_ends_a_running_worker(server: ForkServer) -> None:
    worker = server.start_worker()
    worker.submit(f"{HERE}:sleep")
    assert worker.kill() == Died(-signal.SIGKILL)
    assert not is_alive(worker.pid)


def test_process_of_a_worker_does_not_hide_its_death(worker: Worker) -> None:
    worker.submit(f"{HERE}:fork_and_sleep")
    forked = worker.receive()
    assert isinstance(forked, Event)
    os.kill(worker.pid, signal.SIGKILL)
    try:
        assert wait([worker.connection], timeout=30) == [worker.connection]
        assert worker.receive() == Died(-signal.SIGKILL)
        assert is_alive(forked.value)
    finally:
        os.kill(forked.value, signal.SIGTERM)
    seconds_until(lambda: not is_alive(forked.value))


# Threads, seeds, memory


@needs_proc
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_worker_computes_on_its_threads(server: ForkServer, threads: int) -> None:
    worker = server.start_worker(threads)
    given, total, started = result(worker, multiply)
    assert given == threads
    assert total == 512**3 / 4
    assert started == threads - 1
    worker.kill()


def test_environment_is_the_workers_own(server: ForkServer) -> None:
    names = ["CUDA_VISIBLE_DEVICES", "MYOSOTIS_SLOT", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS"]
    first = server.start_worker(2, {"CUDA_VISIBLE_DEVICES": "1", "MYOSOTIS_SLOT": "a"})
    second = server.start_worker(1, {"MYOSOTIS_SLOT": "b", "OMP_NUM_THREADS": "5"})
    assert result(first, environment_of, names) == ["1", "a", "false", "2"]
    assert result(second, environment_of, names) == [
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        "b",
        "false",
        "5",
    ]
    first.kill()
    second.kill()


def test_workers_draw_different_numbers(server: ForkServer) -> None:
    workers = [server.start_worker() for _ in range(3)]
    drawn = [result(each, draw) for each in workers]
    assert len({numbers[0] for numbers in drawn}) == len({numbers[1] for numbers in drawn}) == 3
    for each in workers:
        each.kill()


@needs_proc
def test_what_is_prepared_is_shared() -> None:
    with ForkServer(["torch"]) as server:
        server.prepare(f"{HERE}:megabytes", 200)
        for _ in range(2):
            total, own = result(server.start_worker(), own_kilobytes)
            assert total == 200 * (1 << 18)
            assert own < 50 * 1024


def test_tokenizers_of_the_server_work_in_workers_and_do_not_warn(tmp_path: Path) -> None:
    script = f"""
from myosotis.workers import ForkServer
with ForkServer() as server:
    server.prepare("{HERE}:tokenize")
    worker = server.start_worker()
    worker.submit("{HERE}:tokenize")
    print(sum(worker.receive().result))
"""
    done = python(["-c", script], tmp_path)
    assert (done.stdout, done.stderr) == ("600\n", "")


# Nothing is left


@needs_proc
def test_many_workers_leave_no_process_and_no_descriptor(server: ForkServer) -> None:
    def held() -> list[int]:
        return [entries(f"/proc/{pid}/fd") for pid in (os.getpid(), server._process.pid)]

    def children() -> str:
        pid = server._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()

    before = held(), children()
    for number in range(30):
        worker = server.start_worker()
        [(_, inheritable)] = result(worker, sockets)  # its own connection
        assert not inheritable
        if number % 2:
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.receive() == Died(-signal.SIGKILL)
        worker.kill()
    assert (held(), children()) == before


def test_leaving_ends_everything_also_when_an_exception_flies() -> None:
    def use() -> None:
        with ForkServer() as server:
            pids.append(server._process.pid)
            for function in ("until_stopped", "sleep", "report"):
                worker = server.start_worker()
                worker.submit(f"{HERE}:{function}")
                pids.append(worker.pid)
            raise DataError("flies")

    pids: list[int] = []
    with pytest.raises(DataError, match="flies"):
        use()
    assert len(pids) == 4
    assert [pid for pid in pids if is_alive(pid)] == []


def test_server_that_nobody_used_ends_at_once() -> None:
    started = time.monotonic()
    with ForkServer(["torch", "lightning"]):
        pass
    assert time.monotonic() - started < 2  # importing these takes longer


def test_interrupted_request_ends_the_server() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ForkServer() as server:
            worker = server.start_worker()
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                server.prepare(f"{HERE}:sleep")
            with pytest.raises(WorkerError, match="has ended"):
                server.start_worker()
    finally:
        signal.signal(signal.SIGALRM, before)
    seconds_until(lambda: not is_alive(worker.pid))


# A command that is killed, and a script without a guard


WRITES = f"""
from pathlib import Path
from myosotis.workers import ForkServer

with Path("runs").open("a") as file:
    file.write("once ")
server = ForkServer()
workers = [server.start_worker() for _ in range(2)]
for worker in workers:
    worker.submit("{HERE}:write_on", "lines")
print(server._process.pid, *[worker.pid for worker in workers], flush=True)
"""


def start_script(script: str, folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Run a script that prints the processes that it has started."""
    path = folder / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": search_path()}
    process = subprocess.Popen(
        [sys.executable, str(path)], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def test_orphans_end_at_once_and_write_nothing_more(tmp_path: Path) -> None:
    process, pids = start_script(WRITES + "import time\ntime.sleep(60)", tmp_path)
    with process:
        lines = tmp_path / "lines"
        seconds_until(lambda: lines.is_file() and lines.stat().st_size > 500)
        assert len(pids) == 3
        assert all(map(is_alive, pids))
        process.kill()
    assert seconds_until(lambda: not any(map(is_alive, pids))) < 10
    size = lines.stat().st_size
    time.sleep(0.1)
    assert lines.stat().st_size == size


def test_server_whose_parent_is_gone_before_it_looks_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(60)")
    script = """
import os, signal
from myosotis.workers import ForkServer
print(ForkServer(["slow_module"])._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process, pids = start_script(script, tmp_path)
    with process:
        process.wait(60)
    assert len(pids) == 1
    assert seconds_until(lambda: not any(map(is_alive, pids))) < 10


def test_server_that_prepares_ends_with_its_parent(tmp_path: Path) -> None:
    script = f"""
from myosotis.workers import ForkServer
server = ForkServer()
print(server._process.pid, server.start_worker().pid, flush=True)
server.prepare("{HERE}:sleep")
"""
    process, pids = start_script(script, tmp_path)
    with process:
        time.sleep(0.1)
        process.kill()
    assert seconds_until(lambda: not any(map(is_alive, pids))) < 10


def test_script_without_a_guard_runs_once_and_leaves_nothing_at_its_end(tmp_path: Path) -> None:
    process, pids = start_script(WRITES, tmp_path)
    with process:
        assert process.wait(60) == 0
    assert (tmp_path / "runs").read_text() == "once "
    assert seconds_until(lambda: not any(map(is_alive, pids))) < 10


# What there is to work on


def system(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myosotis.workers._processors", lambda: set(range(8)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        # An outer group's quota holds for the inner one too.
        (
            {
                "proc/self/cgroup": "0::/pod/me\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/me/cpu.max": "max 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/me\n4:memory:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_quota_bounds_the_processors(
    eight_processors: None, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    assert available_cores(system(tmp_path, files)) == cores


def test_processors_of_one_core_count_once(eight_processors: None, tmp_path: Path) -> None:
    files = {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{number % 4},{number % 4 + 4}\n"
        for number in range(8)
    }
    assert physical_cores(tmp_path) == 8
    assert physical_cores(system(tmp_path, files)) == 4
    assert available_cores(tmp_path) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_bounds_the_processors(tmp_path: Path) -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from myosotis.workers import available_cores, physical_cores; print(available_cores(), physical_cores())"
    )
    assert python(["-c", script], tmp_path).stdout == "1 1\n"


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("2,3", 2, ["2", "3"]),
        ("3, 1,-1,0", 2, ["3", "1"]),
    ],
)
def test_gpus_are_named_as_workers_are_given_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, names: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names
