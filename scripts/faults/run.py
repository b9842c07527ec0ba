"""Runs rows: all of them, those whose names begin as asked, the fuzzer, or the soak. See faults.sh and soak.sh."""

import argparse
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
    everything = [*clients.ROWS, *database.ROWS, *several.ROWS, *sessions.ROWS, *starts.ROWS, *clocks.ROWS, *tenants.ROWS, *executions.ROWS, *executions_database.ROWS, *nasty.ROWS, *executions_hosts.ROWS]
    known = [function.__name__ for function in everything]
    for name in asked.rows:
        if name not in known:
            parser.error(f"unknown row {name}; known are {', '.join(known)}")
    try:
        cluster = lab.Cluster()
        if asked.soak is not None:
            guarded("soak", soak.soak, cluster, asked.soak)
        elif asked.fuzz is not None:
            guarded("fuzz", fuzz.fuzz, cluster, asked.fuzz, seed)
        else:
            for function in everything:
                if not asked.rows or function.__name__ in asked.rows:
                    guarded(function.__name__, function, cluster, asked.short)
            if not asked.rows:
                guarded("fuzz", fuzz.fuzz, cluster, 20 if asked.short else 60, seed)
    finally:
        lab.clean_up()
    if lab.failed:
        print(f"{len(lab.failed)} rows failed: {'; '.join(lab.failed)}")
    return 1 if lab.failed else 0


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
