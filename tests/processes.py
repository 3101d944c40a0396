"""Runs of the command line in processes of their own, forked from one that has imported everything, and killed at will.

A point is where the program is killed: the n-th call of a function, before it is made or after.
"""

import contextlib
import gc
import importlib
import inspect
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from functools import cache
from pathlib import Path

if sys.platform == "win32":  # which cannot fork
    context = multiprocessing.get_context("spawn")
else:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes", "lit_continual.cli.continual_cli"])

REPORT = "lit_continual.reports.report.write_report"  # where the command line takes it from
STUCK = "stuck"


def wait_until(happens, seconds=300, pause=0.02):
    """Return what ``happens()`` returns as soon as that is true; fail when it is not by then."""
    end = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < end, f"{happens} has not happened in {seconds} s"
        time.sleep(pause)
    return found


def no_report(runs, folder=None):
    """Stand in for `write_report`, which takes longer than a run: read the runs as it does, and write nothing."""
    from lit_continual.runs.run import Run

    assert {Run.load(run).described["status"] for run in runs} == {"finished"}
    return (Path(folder) if folder else Path(runs[0]) / "report") / "report.html"


def know_once(setattr=setattr):
    """Keep what libraries find out again for each `Trainer`, seed and type, which takes longer than a tiny fit."""
    import jsonargparse._util
    import jsonargparse.typing
    import lightning.fabric.utilities.registry as registry
    import torch

    setattr(registry, "entry_points", cache(registry.entry_points))  # reads files of all that is installed
    if not torch.accelerator.is_available():  # each seed would be kept for devices, with the stack it came from
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if hasattr(device, "manual_seed_all"):  # torch 2.10's mtia has none
                setattr(device, "manual_seed_all", lambda seed: None)
    path = jsonargparse._util.get_import_path  # imports and compares, some thousand times a command line
    known = cache(path)
    for module in (jsonargparse._util, jsonargparse.typing):
        setattr(module, "get_import_path", lambda value: (known if inspect.isclass(value) else path)(value))


def _place(function):
    """The module or class that a dotted name's last part is an attribute of, and that part."""
    place, _, name = function.rpartition(".")
    module, _, cls = place.rpartition(".")
    owner = importlib.import_module(place) if not cls[:1].isupper() else getattr(importlib.import_module(module), cls)
    return owner, name


def kill_at(function, call=1, after=False, since=None, rank=0, number=signal.SIGKILL, group=False):
    """Kill this process, or its group, if it has the rank, at the n-th call of a function, counted since a point."""
    if int(os.environ.get("LOCAL_RANK", 0)) != rank:
        return
    if since:
        _at(*since, lambda: kill_at(function, call, after, rank=rank, number=number, group=group))
    elif group:
        os.setpgid(0, 0)
        _at(function, call, lambda: os.killpg(0, number), after)
    else:
        _at(function, call, lambda: os.kill(os.getpid(), number), after)


def _at(function, call, act, after=False):
    owner, name = _place(function)
    original, made = getattr(owner, name), iter(range(1, call))

    def counted(*args, **kwargs):
        reached = counted.armed and next(made, None) is None
        counted.armed &= not reached
        if reached and not after:
            act()
        result = original(*args, **kwargs)
        if reached and after:
            act()
        return result

    counted.armed = True
    setattr(owner, name, counted)


def quiet_process(log, reports):
    """Write into a log, with one thread, as a process that nobody forked."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    if sys.platform != "win32":
        multiprocessing.set_start_method("fork", force=True)  # for loaders: as in a process that nobody forked
    import torch

    torch.set_num_threads(1)
    know_once()
    if not reports:
        setattr(*_place(REPORT), no_report)


def _run(args, kill, log, reports):
    quiet_process(log, reports)
    from lit_continual.cli import main

    if kill:
        kill_at(**kill)
    main(args)


def run(args, log, kill=None, reports=True, seconds=900):
    """Run the command line; return its exit code, -9 if it was killed, or that it is stuck."""
    process = context.Process(target=_run, args=(list(args), kill, str(log), reports))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return STUCK
    return process.exitcode


class Prepared:
    """A `fit` whose command line is read once: each run of it is a fork that begins where the stream does.

    Args:
        args: The command line.
        log: Where its output goes.
        ranks: How many processes make a run, each with the environment that torchrun gives it.
    """

    def __init__(self, args, log, ranks=1):
        self.log, self.ranks = log, ranks
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=_prepare, args=(list(args), str(log), theirs))
        self.process.start()

    def run(self, folder, kill=None, resume=False, seconds=300):
        """Run in a folder, killed at a point if one is given; return the exit code of each rank, or STUCK."""
        self.orders.send((str(folder), kill, resume, self.ranks, seconds))
        assert self.orders.poll(2 * seconds), "the process that forks is gone"
        return self.orders.recv()

    def close(self):
        """End the process that forks."""
        with contextlib.suppress(BrokenPipeError):
            self.orders.send(None)
        self.process.join(10)
        self.process.kill()


def _prepare(args, log, orders):
    quiet_process(log, reports=False)
    from lit_continual.cli import main

    owner, name = _place("lit_continual.cli.continual_cli.ContinualCLI._learn")
    learn = getattr(owner, name)

    def fork(cli):
        gc.collect()
        gc.freeze()  # memory that the forks share
        while order := orders.recv():
            *what, ranks, seconds = order
            port = str(_free_port())
            torchrun = [_torchrun(rank, ranks, port) if ranks > 1 else {} for rank in range(ranks)]
            pids = [os.fork() or _learn(learn, cli, env, *what) for env in torchrun]
            orders.send(_exit_codes(pids, time.monotonic() + seconds))

    setattr(owner, name, fork)
    main(args)


def _learn(learn, cli, environment, folder, kill, resume):
    """Learn the stream in a fork, which ends here."""
    code = 1
    try:
        from lightning.fabric.utilities.rank_zero import rank_zero_only

        os.environ.update(environment)
        rank_zero_only.rank = int(os.environ.get("RANK", 0))
        cli.config.trainer.default_root_dir, cli.config.resume = folder, resume
        if kill:
            kill_at(**kill)
        learn(cli)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _torchrun(rank, ranks, port):
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {**environment, **{name: str(value) for name, value in own.items()}}


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _exit_codes(pids, end):
    """The exit codes of processes; those that have not ended by then are killed, and said to be stuck."""
    codes = dict.fromkeys(pids)
    while None in codes.values() and time.monotonic() < end:
        for pid in (pid for pid, code in codes.items() if code is None):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for pid in (pid for pid, code in codes.items() if code is None):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        codes[pid] = STUCK
    return list(codes.values())
