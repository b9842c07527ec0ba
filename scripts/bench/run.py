"""Runs the rows, or those that are named, and prints the table. See bench.sh."""

import argparse
import os
import signal
import sys
import traceback

# PostgreSQL, servers and a client: the same as for the faults.
sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "faults"))

import executions
import growth
import held
import history
import instructions
import lab
import load
import report
import rows

EVERYTHING = [*rows.ROWS, *executions.ROWS, *held.ROWS, *growth.ROWS, *history.ROWS]


def main():
    parser = argparse.ArgumentParser(prog="bench.sh")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("rows", nargs="*")
    asked = parser.parse_args()
    known = [row.__name__ for row in EVERYTHING]
    for name in asked.rows:
        if name not in known:
            parser.error(f"unknown row {name}; known are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.raise_file_limit()
    try:
        cluster = lab.Cluster()
        if asked.instructions:
            instructions.count(cluster)
            return 0
        bench = rows.Bench(cluster, asked.brief)
        about = report.machine({"postgresql": cluster.sql("postgres", "SELECT 'PostgreSQL ' || current_setting('server_version')"), "nginx": bench.nginx.version()})
        for row in EVERYTHING:
            if not asked.rows or row.__name__ in asked.rows:
                measured(row, bench)
        report.write(about, bench.plans, whole=not asked.brief and not asked.rows and not lab.failed)
    finally:
        lab.clean_up()
    return 1 if lab.failed else 0


def measured(row, bench):
    """A row that cannot be measured is said to be so; the others are measured all the same."""
    print(f"{row.__name__} ...", file=sys.stderr, flush=True)
    before = len(lab.started)
    try:
        row(bench)
    except Exception:
        traceback.print_exc()
        lab.failed.append(row.__name__)
    for thing in reversed(lab.started[before:]):
        thing.stop()
    del lab.started[before:]


sys.exit(main())
