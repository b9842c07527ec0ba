"""What has to be true of all executions in the end, by the ledger of their tasks, the API and the tables."""

import os

import lab
from ledger import ENDED, LEFT, show

EVENTS = "SELECT execution::text, count(*), max(number) FROM cloacina_events GROUP BY execution HAVING count(*) <> max(number)"
# A completed attempt's log, where it is not the whole of what it printed and does not say so.
LOGS = """SELECT attempt.id, string_agg(convert_from(bytes, 'UTF8'), '' ORDER BY at) FROM cloacina_tasks AS task
    JOIN cloacina_executions AS execution ON execution.id = task.execution AND execution.workflow = 'dag'
    JOIN cloacina_attempts AS attempt ON attempt.id = task.attempt LEFT JOIN cloacina_log_pieces AS piece ON piece.attempt = attempt.id
    WHERE task.status = 'Completed' AND attempt.log_kept_bytes = attempt.log_bytes GROUP BY attempt.id, attempt.number
    HAVING string_agg(convert_from(bytes, 'UTF8'), '' ORDER BY at) IS DISTINCT FROM format(E'first %s\\nlast %1$s\\n', attempt.number)"""
# Claimed again, though it had been completed and nobody asked for a retry.
AGAIN = """SELECT claimed.execution, claimed.event_data FROM cloacina_events AS completed JOIN cloacina_events AS claimed
    ON claimed.execution = completed.execution AND claimed.number > completed.number
       AND claimed.event_data::json ->> 'task' = completed.event_data::json ->> 'task'
    WHERE completed.event_type = 'task_completed' AND claimed.event_type IN ('task_claimed', 'task_started', 'task_completed')
      AND NOT EXISTS (SELECT FROM cloacina_events AS retried WHERE retried.execution = completed.execution
                      AND retried.event_type = 'pipeline_retried')"""


def settle(place, cluster, name, limit=120, what="every execution to end"):
    """Waits until nothing is under way. What cannot be asked for at the moment is asked for again."""

    def is_over():
        try:
            return cluster.sql(name, LEFT) == "0 0 0"
        except RuntimeError:
            return False

    try:
        lab.wait_for(what, is_over, lab.limit(limit))
        lab.wait_for("the directories of attempts to go", lambda: not left_of(place), lab.limit(20))
    except TimeoutError:
        return False
    return True


def left_of(place):
    directories = [f"{home}/attempts/{one}" for home in place.homes if os.path.isdir(f"{home}/attempts") for one in os.listdir(f"{home}/attempts")]
    return directories + [f"{pid} {what}" for pid, what in place.processes().items()]


def check(place, cluster, name, server, ids, statuses=("Completed",), overlaps=False, lost=False, limit=120):
    """A list of what is wrong. `overlaps`: a person said that a host is gone which was not, so attempts may overlap, and what
    the ledger has of the void ones is nobody's. `lost`: commits were lost, so executions and attempts may be unknown."""
    wrong = []
    if not settle(place, cluster, name, limit):
        states = cluster.sql(name, "SELECT status, count(*) FROM cloacina_executions GROUP BY status")
        stuck = cluster.sql(name, "SELECT execution, task, host, claimed_at FROM cloacina_attempts WHERE ended_at IS NULL LIMIT 3")
        queue = cluster.sql(name, "SELECT execution, task, due_at, timeline FROM cloacina_queue LIMIT 3")
        wrong.append(f"not over: queue, attempts, executions {cluster.sql(name, LEFT)}; {states}; attempts {stuck}; queue {queue}; left {left_of(place)[:3]}")
    wrong += [f"event numbers {line}" for line in cluster.sql(name, EVENTS).splitlines()[:3]]
    wrong += [f"log {line}" for line in cluster.sql(name, LOGS).splitlines()[:3]]
    wrong += [f"completed twice {line}" for line in cluster.sql(name, AGAIN).splitlines()[:3]]
    by_task = in_order(place, wrong, overlaps)
    for execution in ids:
        try:
            shown = show(server, place.admin, f"executions/{execution}")
        except AssertionError as error:
            if not (lost and error.args[0][1] == 404):
                wrong.append(f"{execution}: {error}")
            continue
        if shown["status"] not in statuses:
            wrong.append(f"{execution} is {shown['status']}: {shown['error']}")
        events = show(server, place.admin, f"executions/{execution}/events?limit=1000")
        if [event["sequence_num"] for event in events] != list(range(1, len(events) + 1)):
            wrong.append(f"{execution}: events {[event['sequence_num'] for event in events]}")
        if shown["status"] in ENDED and not any(event["event_type"] == f"pipeline_{shown['status'].lower()}" for event in events):
            wrong.append(f"{execution}: no event of its end")
        for task in shown["tasks"]:
            claims = sum(event["event_type"] == "task_claimed" and event["event_data"]["task"] == task["id"] for event in events)
            # Where its only claim was lost, nothing is left that knows of it.
            is_once = task["id"] == "once" and not overlaps and (claims > 1 or not lost)
            tell_of_task(execution, shown, task, by_task.get((execution, task["id"]), []), wrong, is_once, lost or overlaps)
    return wrong


def in_order(place, wrong, overlaps):
    """The ledger by task: attempts in the order in which they began, each with whether it came to its end."""
    by_task, seen = {}, {}
    for line in place.ledger():
        what, execution, task, number, directory = line
        runs = by_task.setdefault((execution, task), [])
        if what == "begin":
            if directory in seen:
                wrong.append(f"an attempt began twice: {line}")
            seen[directory] = run = {"number": int(number), "ended": False}
            runs.append(run)
        elif what == "end":
            seen[directory]["ended"] = True
        elif not overlaps:
            wrong.append(f"overlap: {line}")
    return by_task


def tell_of_task(execution, shown, task, runs, wrong, is_once, is_loose):
    where = f"{execution} {task['id']} {task['status']}, {task['attempts']} attempts, ledger {runs}"
    if task["status"] in ("Running", "Ready", "NotStarted") and shown["status"] in ENDED:
        wrong.append(f"ended, but {where}")
    if is_once and len(runs) > 1:
        wrong.append(where)
    if task["status"] == "Completed" and shown["context"].get(task["id"]) != task["attempts"]:
        wrong.append(f"output {shown['context'].get(task['id'])} of {where}")
    if is_loose:
        return
    if task["status"] == "Completed":
        # Its last attempt came to its end, and nothing began after it.
        if not runs or runs[-1] != {"number": task["attempts"], "ended": True}:
            wrong.append(where)
    if len(runs) > task["attempts"]:
        wrong.append(where)


def tell(what, figures, wrong):
    lab.row(what, f"{figures}; wrong {len(wrong)}{': ' + '; '.join(wrong[:6]) if wrong else ''}", not wrong)
