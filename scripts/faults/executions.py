"""Rows about executions whose server and supervisors are killed at random points, and that are cancelled there."""

import json
import random
import threading
import time

import lab
import verify
from ledger import Load, Place, execute, kill
from verify import tell


def begin(cluster, number=12, flags=(), long=0.8, most=16, home=None):
    """A server with slots on a fresh database, a tenant with the workflow, and a load of its executions."""
    place, name = Place(), cluster.database()
    server = place.server(cluster.url(name), number, flags=flags, home=home)
    place.tenant(server)
    place.upload_dag(server, long)
    lab.wait_for("a host that runs tasks", lambda: execute(server, place.admin)[0] == 202)
    load = Load(place, server, most)
    load.start()
    return place, name, server, load


def finish(what, cluster, place, name, server, load, figures="", **options):
    load.end()
    wrong = load.wrong + verify.check(place, cluster, name, server, load.ids, **options)
    attempts = sum(line[0] == "begin" for line in place.ledger())
    tell(what, f"{len(load.ids)} executions, {load.refused} refused and {load.cut} cut off until then, {attempts} attempts{figures}", wrong)
    server.stop()
    place.stop()


def killed_servers(cluster, short, with_supervisors=False):
    rounds = (8 if short else 200) if not with_supervisors else (5 if short else 50)
    place, name, server, load = begin(cluster)
    killed = 0
    for _ in range(rounds):
        # Also before it is up again.
        time.sleep(random.random() * random.choice((0.3, 3)))
        if with_supervisors:
            # None of them sees the others go.
            found = place.processes()
            for pid in [server.process.pid, *(pid for pid, what in found.items() if what != "task")]:
                kill(pid)
                killed += pid != server.process.pid
        lab.end(server.process)
        server.out.close(), server.err.close()
        lab.started.remove(server)
        server = load.server = place.server(cluster.url(name), home=server.home, wait=False)
        if random.random() < 0.7:
            server.wait()
    server.wait()
    what = "server and supervisors at once" if with_supervisors else "the server"
    statuses = ("Completed", "Failed") if with_supervisors else ("Completed",)
    finish(f"kill -9 of {what} at {rounds} random points under load", cluster, place, name, server, load, f", {killed} supervisors killed" * with_supervisors, statuses=statuses)


def killed_together(cluster, short):
    killed_servers(cluster, short, True)


def killed_supervisors(cluster, short):
    """One in two of them while it starts: found by looking all the time."""
    rounds = 12 if short else 200
    place, name, server, load = begin(cluster)
    killed = {"supervise-task": 0, "exec-task": 0}
    until = time.monotonic() + lab.limit(300)
    while sum(killed.values()) < rounds and time.monotonic() < until:
        wanted = random.choice(list(killed))
        found = [pid for pid, what in place.processes().items() if what == wanted]
        if found:
            kill(random.choice(found))
            killed[wanted] += 1
            time.sleep(random.random() * 0.3)
    finish(f"kill -9 of {rounds} supervisors and starters under load", cluster, place, name, server, load, f", killed {killed}", statuses=("Completed", "Failed"))


def cancelled(cluster, short):
    """At random points, a few at a time, some of them twice; some are retried afterwards, and cancelled again."""
    count = 40 if short else 500
    place, name, server, load = begin(cluster)
    lab.wait_for("executions", lambda: load.ids)
    answers, wrong = {}, []

    def cancel(number):
        chosen = random.Random(number)
        for _ in range(count // 8):
            execution = chosen.choice(load.ids[-12:])
            time.sleep(chosen.random() * 0.4)
            for _ in range(chosen.choice((1, 1, 2))):
                status, answer = server.ask("POST", f"/tenants/acme/executions/{execution}/cancel", place.admin)
                answers[status] = answers.get(status, 0) + 1
                if status not in (202, 409):
                    wrong.append((status, answer))
            if chosen.random() < 0.2:
                status, answer = server.ask("POST", f"/tenants/acme/executions/{execution}/retry", place.admin)
                if status not in (202, 409):
                    wrong.append((status, answer))

    threads = [threading.Thread(target=cancel, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.wrong += wrong
    finish(f"{count} executions cancelled at random points", cluster, place, name, server, load, f", answers {json.dumps(answers)}", statuses=("Completed", "Failed", "Cancelled"))


ROWS = [killed_servers, killed_supervisors, killed_together, cancelled]
