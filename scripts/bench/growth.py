"""How cost grows: with the keys in the table, with the tenants, and with the connections."""

import json
import random
import time

import lab
import report
from references import Statement, wrk

PAGE = 100


class Filled:
    """A server on a table with so many keys, whose texts are known."""

    def __init__(self, cluster, count):
        self.count = count
        self.server, self.key, self.database = lab.database_with(cluster)
        cluster.sql(
            self.database,
            "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at) "
            "SELECT gen_random_uuid(), encode(sha256(convert_to('growth-key-' || n, 'UTF8')), 'hex'), 'growth-key-', 'key-' || n, 'read', "
            f"now() - n * interval '1 s' FROM generate_series(1, {count - 1}) n",
        )
        cluster.sql(self.database, "VACUUM ANALYZE api_keys")
        self.last_page = self.walk()
        # Far more than the cache holds, in turn: each is looked up anew.
        numbers = random.Random(1).sample(range(1, count), min(count - 1, 5000))
        self.lookups = [("GET", "/auth/verify", f"growth-key-{number}", "") for number in numbers]
        self.costs = {}

    def page(self, limit, after):
        path = f"/auth/keys?limit={limit}" + (f"&after={after}" if after else "")
        status, body = self.server.ask("GET", path, self.key)
        assert status == 200, (status, body)
        return json.loads(body)

    def walk(self):
        """All pages, which have to show every key once; then where the last page begins."""
        ids, after = set(), None
        while True:
            page = self.page(1000, after)
            ids.update(key["id"] for key in page["keys"])
            if "next" not in page:
                break
            after = page["next"]
        assert len(ids) == self.count, f"the listing shows {len(ids)} of {self.count} keys"
        before = self.page(len(page["keys"]) - PAGE, after)
        last = self.page(PAGE, before["next"])
        assert len(last["keys"]) == PAGE and "next" not in last
        return before["next"]

    def note(self, what, microseconds):
        self.costs.setdefault(what, []).append(microseconds)

    def measure(self, seconds, changes):
        def p50(requests):
            return wrk(self.server.address, requests, 1, seconds)["p50"]

        self.note("a lookup of a key that is not cached", p50(self.lookups))
        self.note("the first page", p50([("GET", f"/auth/keys?limit={PAGE}", self.key, "")]))
        self.note("the last page", p50([("GET", f"/auth/keys?limit={PAGE}&after={self.last_page}", self.key, "")]))
        connection = lab.Connection(self.server.address)

        def timed(status, *asked):
            request = lab.request(*asked)
            began = time.perf_counter()
            said, body = connection.ask(request)
            took = time.perf_counter() - began
            assert said == status, (asked[:2], said, body)
            return took * 1e6, json.loads(body)

        made = [timed(201, "POST", "/auth/keys", self.key, {"name": "growth"}) for _ in range(changes)]
        gone = [timed(200, "DELETE", f"/auth/keys/{body['id']}", self.key) for _, body in made]
        self.note("a create", report.median([took for took, _ in made]))
        self.note("a revoke", report.median([took for took, _ in gone]))
        connection.close()


def grown(bench, make, changes):
    """Sizes, and what was made of each and measured, in turn."""
    sizes = [1_000, 20_000] if bench.brief else [1_000, 100_000, 1_000_000]
    made = [make(bench.cluster, size) for size in sizes]
    for _ in range(2 if bench.brief else 5):
        for one in made:
            one.measure(bench.seconds, 20 if bench.brief else changes)
    return sizes, made


def with_keys(bench):
    sizes, tables = grown(bench, Filled, 200)
    for what in tables[0].costs:
        costs = [report.median(table.costs[what]) for table in tables]
        ratio = max(costs) / costs[0]
        report.seen(
            f"{what} with {', '.join(f'{size:,}' for size in sizes)} keys",
            ", ".join(f"{cost:,.0f}" for cost in costs) + " µs",
            f"with {sizes[0]:,} keys",
            f"{ratio:.2f}",
            "1.3 or less",
            ratio <= 1.3,
            {f"{table.count}": table.costs[what] for table in tables},
        )
    explain(bench, tables[-1])


def explain(bench, table):
    """The plans on the largest table, which have to go by an index and never sort."""
    name = table.database
    middle = f"FROM api_keys ORDER BY created_at, id OFFSET {table.count // 2} LIMIT 1"
    hash_, moment, key_id = (bench.cluster.sql(name, f"SELECT {column} {middle}") for column in ("key_hash", "created_at", "id"))
    values = {
        "find": {1: hash_},
        "first page of 10": {},
        "page of 10": {1: moment, 2: key_id},
        "insert": {1: "6f9619ff-8b86-4011-b42d-00c04fc964ff", 2: "a new hash"},
        "revoke": {1: key_id},
    }
    for what, instead in values.items():
        statement = bench.sql[what]
        plan = Statement(statement.text, statement.values | instead).explain(bench.cluster, name)
        bench.plans[f"{what}, {table.count:,} keys"] = plan
        for wasteful in ("Seq Scan on api_keys", "Sort"):
            if wasteful in plan:
                raise RuntimeError(f"{what}: {wasteful} in its plan:\n{plan}")


class Peopled:
    """A server with so many tenants of ten keys each, one of which is known. Without a cache every request looks its key up."""

    def __init__(self, cluster, count):
        self.server, self.admin, database = lab.database_with(cluster, flags=("--auth-cache-size", "0"))
        cluster.sql(
            database,
            "INSERT INTO cloacina_tenants (id, name, created_at) "
            f"SELECT gen_random_uuid(), 'tenant_' || n, now() - n * interval '1 s' FROM generate_series(1, {count}) n",
        )
        cluster.sql(
            database,
            "INSERT INTO api_keys (id, key_hash, prefix, name, permissions, created_at, tenant, tenant_id) "
            "SELECT gen_random_uuid(), encode(sha256(convert_to(cloacina_tenants.name || '-key-' || n, 'UTF8')), 'hex'), 'tenant-key-', "
            "'key-' || n, 'admin', now() - n * interval '1 s', cloacina_tenants.id, cloacina_tenants.name "
            "FROM cloacina_tenants, generate_series(1, 10) n",
        )
        cluster.sql(database, "VACUUM ANALYZE api_keys, cloacina_tenants")
        self.name = f"tenant_{(count + 1) // 2}"

    def asks(self):
        key = f"{self.name}-key-5"
        return {
            "`GET /auth/verify?tenant=`": ("GET", f"/auth/verify?tenant={self.name}", key, ""),
            "`GET /auth/whoami`": ("GET", "/auth/whoami", key, ""),
            "a tenant's list of its keys": ("GET", f"/tenants/{self.name}/keys", key, ""),
            "the same by the server's admin": ("GET", f"/tenants/{self.name}/keys", self.admin, ""),
        }


def with_tenants(bench):
    counts = [1, 100, 10_000]
    servers = [Peopled(bench.cluster, count) for count in counts]
    costs = {what: [[] for _ in counts] for what in servers[0].asks()}
    for _ in range(2 if bench.brief else 9):
        for number, server in enumerate(servers):
            for what, request in server.asks().items():
                costs[what][number].append(wrk(server.server.address, [request], 1, bench.seconds)["p50"])
    for what, measured in costs.items():
        medians = [report.median(one) for one in measured]
        ratio = max(medians) / min(medians)
        report.seen(
            f"{what} with {', '.join(f'{count:,}' for count in counts)} tenants of 10 keys, none cached",
            ", ".join(f"{median:,.0f}" for median in medians) + " µs",
            "the quickest of them",
            f"{ratio:.2f}",
            "1.1 or less",
            ratio <= 1.1,
            {f"{count}": one for count, one in zip(counts, measured)},
        )


def with_connections(bench):
    server, key, _ = lab.database_with(bench.cluster, keys=9)
    counts = [1, 8, 64, 512]
    for path in ("/health", "/auth/verify", "/auth/keys?limit=10"):
        rates = {count: [] for count in counts}
        for _ in range(1 if bench.brief else 5):
            for count in counts:
                rates[count].append(bench.asks(server, "GET", path, key, connections=count)())
        medians = [report.median(rates[count]) for count in counts]
        peak = medians.index(max(medians))
        least = min(medians[peak:]) / medians[peak]
        report.seen(
            f"`GET {path}` on {', '.join(str(count) for count in counts)} connections",
            ", ".join(f"{rate:,.0f}" for rate in medians) + "/s",
            "its peak",
            f"{least:.2f}",
            "0.8 or more",
            least >= 0.8,
            rates,
        )


ROWS = [with_keys, with_tenants, with_connections]
