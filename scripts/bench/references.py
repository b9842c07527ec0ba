"""What we are measured against: nginx for HTTP, pgbench with the server's own SQL for the database, psql for a start.
And the SQL itself, read from PostgreSQL's log while the server is asked, so that it cannot be another one."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile

import lab

HERE = os.path.dirname(os.path.abspath(__file__))
PROCESSORS = os.cpu_count()
# A key that nobody has. It does not look like one of ours, so that its checksum does not already give it away.
UNKNOWN_KEY = "nobody-has-this-key-of-an-older-server-000000001"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Nginx:
    """`return 200` with our body and field lines as long as ours, as many workers as it would choose itself. The id stands
    still: nginx takes its own from OpenSSL's random numbers, which costs it more than the rest of the answer."""

    CONFIGURATION = """
daemon off;
worker_processes auto;
pid {place}/pid;
error_log {place}/error.log;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            default_type application/json;
            add_header X-Request-Id 00000000-0000-4000-8000-000000000000;
            return 200 '{{"status":"ok"}}';
        }}
    }}
}}
"""

    def __init__(self):
        place = tempfile.mkdtemp(prefix="nginx-", dir=lab.SCRATCH)
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        with open(f"{place}/conf", "w", encoding="ascii") as file:
            file.write(self.CONFIGURATION.format(place=place, port=port, user=user))
        path = os.environ["PATH"] + ":/usr/sbin"
        self.program = shutil.which("nginx", path=path)
        self.process = subprocess.Popen(
            [self.program, "-p", place, "-c", f"{place}/conf", "-e", f"{place}/error.log"], stdin=subprocess.DEVNULL
        )
        lab.started.append(self)
        self.address = ("127.0.0.1", port)
        lab.wait_for("nginx", self.is_up)

    def is_up(self):
        try:
            return lab.ask(self.address, "GET", "/health")[0] == 200
        except OSError:
            return False

    def version(self):
        said = subprocess.run([self.program, "-v"], capture_output=True, text=True, check=True).stderr
        return said.strip().removeprefix("nginx version: ")

    def stop(self):
        # Its master ends its workers.
        lab.end(self.process, 15)


def wrk(address, requests, connections, seconds, refused=False):
    """Asks these (method, path, key, body) in turn on so many kept connections: {requests, per_second, p50, p99}, times in
    microseconds. `refused`: all of them have to be refused; else none."""
    with tempfile.NamedTemporaryFile("w", dir=lab.SCRATCH, suffix=".tsv", encoding="ascii") as file:
        for method, path, key, body in requests:
            file.write(f"{method}\t{path}\t{key}\t{body}\n")
        file.flush()
        threads = "1"
        command = ["wrk", "-t", threads, "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s"]
        command += ["-s", f"{HERE}/load.lua", f"http://{address[0]}:{address[1]}", "--", file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.M)
    if done.returncode or not found:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    said = json.loads(found[1])
    expected = said["requests"] if refused else 0
    if said["broken"] or said["over_399"] != expected or not said["requests"]:
        raise RuntimeError(f"{requests[0][:2]}: not every answer is as it should be: {said}")
    said["per_second"] = said["requests"] / said["microseconds"] * 1e6
    return said


class Statement:
    """A statement of the server and the values that it was given."""

    def __init__(self, text, values):
        self.text, self.values = text, values

    def for_pgbench(self, instead):
        """Its text with pgbench's variables, and their definitions. `instead` has an expression for a value that has to be
        another one each time."""
        definitions = []

        def variable(found):
            number = int(found[1])
            if number in instead:
                return instead[number]
            if self.values[number] is None:
                return "NULL"
            definition = f"p{number}={self.values[number]}"
            if definition not in definitions:
                definitions.append(definition)
            return f":p{number}"

        text = re.sub(r"\$(\d+)", variable, self.text)
        return text, [argument for definition in definitions for argument in ("-D", definition)]

    def explain(self, cluster, database):
        """What PostgreSQL does for it, with the plan that fits every value."""
        values = ["NULL" if value is None else "'" + value.replace("'", "''") + "'" for value in self.values.values()]
        return cluster.sql(
            database,
            f"BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; PREPARE ours AS {self.text}; "
            "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) "
            f"EXECUTE ours ({', '.join(values)}); ROLLBACK",
        )


def pgbench(cluster, database, statement, clients, seconds, instead=None):
    """Transactions in a second: this statement again and again, prepared once in each session."""
    text, definitions = statement.for_pgbench(instead or {})
    with tempfile.NamedTemporaryFile("w", dir=lab.SCRATCH, suffix=".sql", encoding="utf-8") as file:
        file.write(f"{text};\n")
        file.flush()
        command = [f"{cluster.bin}/pgbench", "--no-vacuum", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, PROCESSORS))]
        command += ["-T", str(seconds), "-f", file.name, *definitions]
        command += ["-h", cluster.host, "-p", str(cluster.port), "-U", "postgres", database]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = re.search(r"^tps = ([0-9.]+) \(without initial connection time\)$", done.stdout, re.M)
    failed = re.search(r"^number of failed transactions: (\d+)", done.stdout, re.M)
    if done.returncode or not found or failed and failed[1] != "0":
        raise RuntimeError(f"pgbench: {done.stdout}{done.stderr}")
    return float(found[1])


def statements(cluster):
    """{name: Statement}: what the server has PostgreSQL execute, known by the values that only it was given."""
    database = cluster.database()
    cluster.sql("postgres", f"ALTER DATABASE {database} SET log_statement = 'all'")
    server = lab.Server(cluster.url(database))
    key = server.key()
    cluster.sql(database, f"INSERT INTO api_keys (id, key_hash, name) SELECT gen_random_uuid(), n::text, 'k' FROM generate_series(1, 30) n")
    found = {}

    def note(name, value, ask):
        with open(f"{cluster.place}/log", encoding="utf-8") as log:
            log.seek(0, os.SEEK_END)
            answer = ask()
            text = log.read()
        executed = re.findall(
            r"LOG:  execute [^:]*: (.*\n(?:\t.*\n)*).*DETAIL:  parameters: (.*)\n", text.replace("\n\t", "\n\t")
        )
        ours = [(text, given) for text, given in executed if f"'{value}'" in given]
        if len({text for text, _ in ours}) != 1:
            raise RuntimeError(f"{name}: expected one statement with {value} in the log, found {ours} in:\n{text}")
        text, given = ours[0]
        values = {
            int(number): None if null else quoted.replace("''", "'")
            for number, null, quoted in re.findall(r"\$(\d+) = (?:(NULL)|'((?:[^']|'')*)')", given)
        }
        found[name] = Statement(text.replace("\n\t", "\n").strip(), values)
        return answer

    def asked(status, method, path, key, body=None):
        def ask():
            said, answer = server.ask(method, path, key, body)
            assert said == status, (method, path, said, answer)
            return json.loads(answer)

        return ask

    note("find", hashlib.sha256(UNKNOWN_KEY.encode()).hexdigest(), asked(401, "GET", "/auth/verify", UNKNOWN_KEY))
    page = note("first page of 10", 11, asked(200, "GET", "/auth/keys?limit=10", key))
    note("page of 10", 11, asked(200, "GET", f"/auth/keys?limit=10&after={page['next']}", key))
    note("first page of 1000", 1001, asked(200, "GET", "/auth/keys?limit=1000", key))
    made = note("insert", "bench", asked(201, "POST", "/auth/keys", key, {"name": "bench"}))
    note("revoke", made["id"], asked(200, "DELETE", f"/auth/keys/{made['id']}", key))
    server.stop()
    return found
