"""Load from processes of their own, so that what measures is not slowed down by what presses."""

import multiprocessing
import resource
import select
import socket
import time

import lab


def raise_file_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def press(address, requests, connections, seconds, pause=0.0, churn=0):
    """So many connections, each of which asks again as soon as it is answered; after so many answers (where `churn` is
    not 0) it is made anew. Hands back {status: [seconds each]}, and how many ended without an answer."""
    poll = select.epoll()
    open_ones = {}
    outcomes, lost, turn = {}, 0, 0

    def connect():
        nonlocal turn
        one = socket.socket()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.settimeout(30)
        one.connect(address)
        one.setblocking(False)
        open_ones[one.fileno()] = [one, b"", 0.0, 0]
        poll.register(one, select.EPOLLIN)
        send(open_ones[one.fileno()])

    def send(state):
        nonlocal turn, lost
        turn += 1
        state[2] = time.monotonic()
        try:
            state[0].send(requests[turn % len(requests)])
        except OSError:
            pass

    def close(state):
        open_ones.pop(state[0].fileno())
        poll.unregister(state[0])
        state[0].close()

    until = time.monotonic() + seconds
    for _ in range(connections):
        connect()
    while (now := time.monotonic()) < until:
        for number, _ in poll.poll(min(0.2, until - now)):
            state = open_ones[number]
            try:
                more = state[0].recv(262144)
            except BlockingIOError:
                continue
            except OSError:
                more = b""
            if not more:
                lost += state[2] > 0
                close(state)
                connect()
                continue
            state[1] += more
            length = lab.answer_length(state[1])
            if length is None:
                continue
            answer = state[1]
            outcomes.setdefault(int(answer[9:12]), []).append(time.monotonic() - state[2])
            state[1] = answer[length:]
            state[3] += 1
            state[2] = 0.0
            if b"\r\nConnection: close" in answer[:600] or churn and state[3] % churn == 0:
                close(state)
                connect()
            else:
                send(state)
        if pause:
            time.sleep(pause)
    for state in list(open_ones.values()):
        close(state)
    return outcomes, lost


def probe(address, seconds, asks, pause=0.01):
    """Asks each of these in turn, on new connections: {path: [seconds each]}, and answers that were not 200 or 204."""
    times, wrong = {}, []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path, key in asks:
            try:
                status, took = lab.timed(address, "GET", path, key)
            except OSError as error:
                status, took = repr(error), 99.0
            times.setdefault(path, []).append(took)
            if status not in (200, 204):
                wrong.append((path, status))
        time.sleep(pause)
    return times, wrong


def beside(function, *arguments):
    """Runs it in a process of its own; call what comes back for its result."""
    receive, send = multiprocessing.Pipe(False)

    def run():
        raise_file_limit()
        send.send(function(*arguments))

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()

    def result():
        try:
            found = receive.recv()
        finally:
            process.join(10)
        return found

    return result
