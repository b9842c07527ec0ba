"""Tasks that do not behave: each is held, ended where it has to be, and leaves nothing behind."""

import json
import time

import lab
import verify
from ledger import ENDED, Place, execute, show

# Killed by these a program is gone; 19 and 20 to 22 would only stop it, and 17, 18, 23 and 28 do nothing.
SIGNALS = [number for number in range(1, 32) if number not in (17, 18, 19, 20, 21, 22, 23, 28)]
HEAD = "#!/bin/sh\nexec 9>>{place}/ledger\n"
# Name: script, further lines of its table, and what comes of it.
TASKS = {
    "prints": ("yes 'a line like any other' | head -c {bytes}; echo the end", "", ("Completed", None)),
    "output": ("head -c 100M /dev/zero >$CLOACINA_OUTPUT", "", ("Failed", "1048576")),
    "scratch": ("i=0; while head -c 64M /dev/zero >$HOME/$i; do i=$((i + 1)); sleep 0.1; done; sleep 100", "", ("Failed", "1073741824")),
    "daemon": ("(setsid sh -c 'setsid sleep {sleeps} & sleep {sleeps}' >/dev/null 2>&1 </dev/null &); sleep 0.2", "", ("Completed", None)),
    "stripped": ("(env -i setsid sleep {sleeps} >/dev/null 2>&1 </dev/null &); sleep 0.2", "", ("Completed", None)),
    "holds": ("(setsid sleep {sleeps} &); echo held", "", ("Completed", None)),
    "ignores": ("trap '' TERM INT HUP; while :; do sleep 1; done", 'timeout = "1s"', ("Failed", "timed out")),
    "closes": ("exec <&- >&- 2>&-; sleep 0.5", "", ("Completed", None)),
    "binary": ("head -c 3M /dev/urandom; printf '\\000\\377\\376'", "", ("Completed", None)),
    "reads": ("cat; cat; cat; cat >/dev/null", "", ("Completed", None)),
    "fills": ("while :; do echo $HOME; done", 'timeout = "2s"', ("Failed", "timed out")),
    "stopped": ("kill -STOP $$", 'timeout = "2s"', ("Failed", "timed out")),
    "stops": ("kill -STOP $PPID; sleep 0.5", "", ("Completed", None)),
    # Too deep for any path to lead to its end.
    "deep": ("deep() {{ mkdir $HOME/$1; cd $HOME/$1; for i in $(seq 100); do mkdir directory-of-a-long-name && cd directory-of-a-long-name || exit 1; done; }}; deep b; deep a; mv $HOME/b .", "", ("Completed", None)),
    "closed": ("mkdir -p $HOME/a/b; chmod 0 $HOME/a $HOME; sleep 0.1", "", ("Completed", None)),
    "removes": ("rm -rf $HOME $CLOACINA_OUTPUT; sleep 0.1", "", ("Completed", None)),
    "links": ("rm -f $CLOACINA_OUTPUT; ln -s /etc/passwd $CLOACINA_OUTPUT", "", ("Failed", "")),
    "fifo": ("rm -f $CLOACINA_OUTPUT; mkfifo $CLOACINA_OUTPUT", "", ("Failed", "")),
    "list": ("echo '[1]' >$CLOACINA_OUTPUT", "", ("Failed", "")),
    "nul": ("printf '{{\"a\":\"\\\\u0000\"}}' >$CLOACINA_OUTPUT", "", None),
    "surrogate": ("printf '{{\"a\":\"\\\\ud800\"}}' >$CLOACINA_OUTPUT", "", None),
    "digits": ("printf '{{\"a\":1e400,\"b\":123456789012345678901234567890}}' >$CLOACINA_OUTPUT", "", None),
    "missing": ("exec /no/such/program", "", ("Failed", "exit code 127")),
    "forks": ("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (setsid sh -c '(setsid sleep {sleeps} &); setsid sleep {sleeps}' &) ; done; echo", "", ("Completed", None)),
}


def nasty_tasks(cluster, short):
    place, name = Place(), cluster.database()
    server = place.server(cluster.url(name), 6)
    place.tenant(server)
    size = 200 << 20 if short else 10 << 30
    head = HEAD.format(place=place.path)
    files = {f"{task}.sh": head + script.format(bytes=size, sleeps=place.sleeps) for task, (script, _, _) in TASKS.items()}
    tables = [f'[[tasks]]\nid = "{task}"\ncommand = ["./{task}.sh"]\nallow_failure = true\n{lines}' for task, (_, lines, _) in TASKS.items()]
    for number in SIGNALS:
        files[f"signal-{number}.sh"] = f"{head}kill -{number} $$; sleep 1"
        tables.append(f'[[tasks]]\nid = "signal-{number}"\ncommand = ["./signal-{number}.sh"]\nallow_failure = true')
    place.upload(server, '[package]\nname = "nasty"\nversion = "1.0.0"\n' + "\n".join(tables), files)
    status, answer = lab.wait_for("it to be taken", lambda: (taken := execute(server, place.admin, "nasty"))[0] == 202 and taken)
    execution = json.loads(answer)["execution_id"]
    wrong = verify.check(place, cluster, name, server, [], limit=120 if short else 900)
    shown = show(server, place.admin, f"executions/{execution}")
    if shown["status"] not in ENDED:
        wrong.append(f"{shown['status']}")
    tasks = {task["id"]: task for task in shown["tasks"]}
    for task, (_, _, expected) in TASKS.items():
        found = tasks[task]
        if expected and (found["status"] != expected[0] or (expected[1] or "") not in (found["error"] or "") or expected[0] == "Failed" and not found["error"]):
            wrong.append(f"{task}: {found['status']}, {found['error']}")
        if not expected:
            print(f"      {task}: {found['status']}, {found['error']}")
    for number in SIGNALS:
        found = tasks[f"signal-{number}"]
        if found["status"] != "Failed" or "SIG" not in (found["error"] or ""):
            wrong.append(f"signal {number}: {found['status']}, {found['error']}")
    status, log = server.ask("GET", f"/tenants/acme/executions/{execution}/tasks/prints/log", place.admin)
    if status != 200 or not log.endswith(b"the end\n") or not log.startswith(b"a line like any other\n") or len(log) > 1.1 * (1 << 20):
        wrong.append(f"log of prints: {status}, {len(log)} bytes, {log[-80:]}")
    # All memory and a fork bomb are tried where they hurt no one: under scripts/vm.sh, where a cgroup is delegated.
    if "max_memory is not held" not in server.stderr() and "each task has a cgroup of its own" not in server.stderr():
        wrong.append("the start does not say whether memory and processes of a task are held")
    now, most, threads, files_open = server.footprint()
    verify.tell(f"{len(tasks)} tasks that do not behave, {size >> 20} MiB printed", f"memory {now:.0f} MiB, at most {most:.0f}; {threads} threads, {files_open} descriptors", wrong)
    server.stop()
    place.stop()


def files_without_limit(cluster, short):
    """As many as a tenant may have that may have any number: they are gone soon after their task."""
    place, name = Place(), cluster.database()
    server = place.server(cluster.url(name), 2)
    place.tenant(server)
    status, answer = server.ask("PATCH", "/tenants/acme", place.admin, {"max_scratch_bytes": None})
    assert status == 200, (status, answer)
    count = 20 if short else 1000
    script = HEAD.format(place=place.path) + f"for i in $(seq {count}); do head -c 10M /dev/zero >$HOME/$i || exit 1; done; du -sm $HOME"
    place.upload(server, '[package]\nname = "files"\nversion = "1.0.0"\n[[tasks]]\nid = "files"\ncommand = ["./files.sh"]\n', {"files.sh": script})
    status, answer = lab.wait_for("it to be taken", lambda: (taken := execute(server, place.admin, "files"))[0] == 202 and taken)
    execution = json.loads(answer)["execution_id"]
    began = time.monotonic()
    wrong = verify.check(place, cluster, name, server, [], limit=600)
    took = time.monotonic() - began
    shown = show(server, place.admin, f"executions/{execution}")
    if shown["status"] != "Completed":
        wrong.append(f"{shown['status']}, {shown['error']}")
    status, log = server.ask("GET", f"/tenants/acme/executions/{execution}/tasks/files/log", place.admin)
    if status != 200 or not log or int(log.split()[0]) < count * 10:
        wrong.append(f"log {status}, {log[-80:]}")
    verify.tell(f"{count * 10} MiB of files", f"written and gone after {took:.1f} s", wrong)
    server.stop()
    place.stop()


ROWS = [nasty_tasks, files_without_limit]
