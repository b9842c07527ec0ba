"""Runs rows: all of them, those whose names begin as asked, the fuzzer, or the soak. See faults.sh and soak.sh."""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback

import clients
import clocks
import database
import executions
import executions_database
import executions_hosts
import fuzz
import lab
import load
import nasty
import sessions
import several
import soak
import starts
import tenants


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--fuzz", type=float, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--soak", type=float, default=None)
    parser.add_argument("rows", nargs="*")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.raise_file_limit()
    lab.slack = 5 if asked.short else 1
    seed = asked.seed if asked.seed is not None else int(time.time())
    # What is measured while a server is pressed is measured alone.
    alone = [*clients.ROWS, *database.ROWS, *several.ROWS, *sessions.ROWS, *starts.ROWS]
    beside = [*clocks.ROWS, *tenants.ROWS, *executions.ROWS, *executions_database.ROWS, *nasty.ROWS, *executions_hosts.ROWS]
    everything = [*alone, *beside]
    known = [function.__name__ for function in everything]
    for name in asked.rows:
        if name not in known:
            parser.error(f"unknown row {name}; known are {', '.join(known)}")
    chosen = [function for function in everything if not asked.rows or function.__name__ in asked.rows]
    rows = [(function.__name__, function, (asked.short,)) for function in chosen]
    if not asked.rows:
        rows.append(("fuzz", fuzz.fuzz, (20 if asked.short else 60, seed)))
    if asked.soak is not None:
        rows = [("soak", soak.soak, (asked.soak,))]
    elif asked.fuzz is not None:
        rows = [("fuzz", fuzz.fuzz, (asked.fuzz, seed))]
    pairs = [row for row in rows if asked.short and row[1] in beside]
    try:
        return two_at_a_time(pairs) | run([row for row in rows if row not in pairs])
    finally:
        lab.clean_up()


def run(rows):
    cluster = None
    for name, function, arguments in rows:
        cluster = cluster or lab.Cluster()
        guarded(name, function, cluster, *arguments)
    if lab.failed:
        print(f"{len(lab.failed)} rows failed: {'; '.join(lab.failed)}")
    return 1 if lab.failed else 0


def two_at_a_time(rows):
    """These wait most of the time. Each of two processes takes the next row when it is done with one."""
    numbers, given = os.pipe()
    os.write(given, bytes(range(len(rows))))
    os.close(given)
    both = [multiprocessing.get_context("fork").Process(target=run_some, args=(rows, numbers)) for _ in range(2)]
    for process in both:
        process.start()
    try:
        for process in both:
            process.join()
    finally:
        for process in both:
            process.terminate()
            process.join()
    return max(process.exitcode != 0 for process in both)


def run_some(rows, numbers):
    """With a directory, a PostgreSQL and random ports of its own."""
    lab.make_scratch()
    random.seed()
    try:
        sys.exit(run(rows[number[0]] for number in iter(lambda: os.read(numbers, 1), b"")))
    finally:
        lab.clean_up()


def guarded(name, function, *arguments):
    """A row that cannot be measured has failed; the others are measured all the same."""
    before = len(lab.started)
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        lab.row(name, "could not be measured, see above", False)
    for thing in reversed(lab.started[before:]):
        try:
            thing.stop()
        except Exception as error:
            print(f"cannot stop {thing}: {error}", file=sys.stderr)
    del lab.started[before:]


sys.exit(main())
