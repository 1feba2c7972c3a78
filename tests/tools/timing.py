"""Whether the time an answer takes tells what the answer does not: that somebody else has the object, or the address.

    timing.py PULSEHOOK [--requests N] [--database URL] [--analytics URL] [--only TEXT]

It starts the program on a folder of its own (or on an empty PostgreSQL), makes two accounts, and asks in the name of one for
what is the other's and for what nobody has, in turn and in an order drawn by lot for each pair. With a PostgreSQL and a
ClickHouse it also signs in beside a Plausible whose tables it makes there. For each question it prints both medians, the
chance that an answer about somebody's took longer than one about nobody's (0.500 means that time says nothing), and what a
rank test (Mann-Whitney, two-sided) makes of it. A measurement, not a test: the machine takes part in it.
"""

import argparse
import http.client
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid

OBJECTS = 10
BESIDE = "sign in beside Plausible"
# To compare a password with one of Plausible's takes a quarter of a second, and two are compared at once at most.
SIGN_INS_BESIDE = 300
TABLES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "plausible")
BCRYPT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PASSWORD = "correct horse battery staple"


class Server:
    def __init__(self, binary, database, plausible=None, analytics=None):
        self.folder = tempfile.TemporaryDirectory()
        settings = {
            "PULSEHOOK_LISTEN": "127.0.0.1:0",
            "PULSEHOOK_DATA_DIR": self.folder.name,
            "PULSEHOOK_API_RATE": "0",
            "PULSEHOOK_MAX_WEBHOOKS_PER_ACCOUNT": "1000",
            "PULSEHOOK_LOG_FORMAT": "text",
        }
        if database:
            settings |= {"PULSEHOOK_DATABASE_URL": database, "PULSEHOOK_MASTER_KEY": "Bw" * 21 + "c="}
        if plausible:
            settings |= {"PULSEHOOK_DIRECTORY": "plausible", "PULSEHOOK_PLAUSIBLE_DATABASE_URL": plausible,
                         "PULSEHOOK_ANALYTICS_URL": analytics}
        self.run = lambda *arguments, **options: subprocess.Popen([binary, *arguments], env=settings, **options)
        self.keys = [] if plausible else [self.make_key(account) for account in ("Mine", "Theirs")]
        log = os.path.join(self.folder.name, "log")
        with open(log, "w") as file:
            self.process = self.run("serve", stdout=subprocess.DEVNULL, stderr=file)
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", open(log).read())):
            if self.process.poll() is not None:
                sys.exit(f"the server did not start: {open(log).read()}")
            time.sleep(0.05)
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]))

    def make_key(self, account):
        made = self.run("keys", "create", "--account", account, "--role", "owner", stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL, text=True)
        return made.communicate()[0].strip()

    def ask(self, method, path, body=None, key=None, origin=None):
        """Status, body and the seconds from the first byte sent to the last one read."""
        headers = {"host": "x"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        if origin:
            headers["x-forwarded-for"] = origin
        if body is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        began = time.perf_counter()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, text, time.perf_counter() - began

    def make(self, key, method, path, body):
        status, text, _ = self.ask(method, path, body, key)
        if status // 100 != 2:
            sys.exit(f"{method} {path}: {status} {text.decode()}")
        return json.loads(text or b"null")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def furnish(server, key, domain):
    """What an account has of each kind, by the name it has in a path."""
    make = lambda method, path, body: server.make(key, method, path, body)
    found = {name: [] for name in ("domain", "site", "goal", "webhook", "trigger", "delivery", "key", "invitation")}
    for number in range(OBJECTS):
        name = f"{domain}{number}.example"
        site = make("POST", "/api/sites", {"domain": name})["site"]
        goal = make("POST", f"/api/sites/{name}/goals", {"event_name": "Signup"})["goal"]
        body = {"name": "x", "url": "https://hooks.example.com/in", "triggers": [{"type": "goal_completion"}]}
        webhook = make("POST", f"/api/sites/{name}/webhooks", body)["webhook"]
        delivery = make("POST", f"/api/sites/{name}/webhooks/{webhook['id']}/test", {})["delivery"]
        # Nothing is to be tried again while time is taken.
        make("PATCH", f"/api/sites/{name}/webhooks/{webhook['id']}", {"active": False})
        invited = make("POST", "/api/invitations", {"email": f"{number}@{domain}.example", "role": "viewer"})
        new_key = make("POST", "/api/keys", {"name": "x", "role": "viewer"})
        values = (name, site["id"], goal["id"], webhook["id"], webhook["triggers"][0]["id"], delivery["id"],
                  new_key["api_key"]["id"], invited["invitation"]["id"])
        for one, value in zip(found, values):
            found[one].append(value)
    return found


def unknown_like(value):
    """What nobody has and what is written like it: an id of the same moment, another number, another name."""
    if value.isdigit():
        return str(int(value) + 1_000_000)
    try:
        return str(uuid.UUID(int=uuid.UUID(value).int ^ random.getrandbits(62)))
    except ValueError:
        return value.replace("theirs", "nobody")


def questions(mine):
    site, webhook = mine["domain"][0], mine["webhook"][0]
    hooks = f"/api/sites/{site}/webhooks"
    return [
        ("a site by its name", "GET", "/api/sites/{}", "domain", None),
        ("a site by its id", "GET", "/api/sites/{}", "site", None),
        ("change a site", "PATCH", "/api/sites/{}", "domain", {"timezone": "UTC"}),
        ("webhooks of a site", "GET", "/api/sites/{}/webhooks", "domain", None),
        ("delete a goal", "DELETE", f"/api/sites/{site}/goals/{{}}", "goal", None),
        ("a webhook", "GET", f"{hooks}/{{}}", "webhook", None),
        ("change a webhook", "PATCH", f"{hooks}/{{}}", "webhook", {"name": "y"}),
        ("delete a webhook", "DELETE", f"{hooks}/{{}}", "webhook", None),
        ("test a webhook", "POST", f"{hooks}/{{}}/test", "webhook", None),
        ("change a trigger", "PATCH", f"{hooks}/{webhook}/triggers/{{}}", "trigger", {"shadow": True}),
        ("deliveries of a webhook", "GET", f"{hooks}/{{}}/deliveries", "webhook", None),
        ("a delivery", "GET", f"{hooks}/{webhook}/deliveries/{{}}", "delivery", None),
        ("resend a delivery", "POST", f"{hooks}/{webhook}/deliveries/{{}}/resend", "delivery", None),
        ("delete a key", "DELETE", "/api/keys/{}", "key", None),
        ("delete an invitation", "DELETE", "/api/invitations/{}", "invitation", None),
    ]


def compare(about, pairs, sample):
    """Asks for both of each pair, in an order drawn by lot, and prints what the times say."""
    somebodys, nobodys = [], []
    for theirs, unknown in pairs:
        order = [(theirs, somebodys), (unknown, nobodys)]
        random.shuffle(order)
        for what, times in order:
            times.append(sample(what))
    ranked = sorted([(taken, 1) for taken in somebodys] + [(taken, 0) for taken in nobodys])
    ranks = sum(place + 1 for place, (_, whose) in enumerate(ranked) if whose)
    n, m = len(somebodys), len(nobodys)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    p = math.erfc(abs(z) / math.sqrt(2))
    one, other = statistics.median(somebodys) * 1e6, statistics.median(nobodys) * 1e6
    print(f"{about:<26} {n:>6} {one:>10.1f} {other:>10.1f} {one - other:>+9.1f} {u / (n * m):>8.3f} {p:>8.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--requests", type=int, default=3000, help="of each kind")
    parser.add_argument("--database", help="an empty PostgreSQL: postgres://…")
    parser.add_argument("--analytics", help="an empty ClickHouse: clickhouse://…")
    parser.add_argument("--only", help="questions with this in their name")
    options = parser.parse_args()
    server = Server(os.path.abspath(options.binary), options.database)
    try:
        measure(server, options)
    finally:
        server.stop()
    if options.database and options.analytics and (not options.only or options.only in BESIDE):
        sign_in_beside(options)


def measure(server, options):
    mine_key, their_key = server.keys
    mine, theirs = furnish(server, mine_key, "mine"), furnish(server, their_key, "theirs")
    wanted = lambda about: not options.only or options.only in about
    print(f"{'':<26} {'n':>6} {'theirs':>10} {'nobody':>10} {'µs':>9} {'longer':>8} {'p':>8}")
    for about, method, path, kind, body in questions(mine):
        if not wanted(about):
            continue
        unknown = [unknown_like(value) for value in theirs[kind]]
        pairs = [(theirs[kind][turn % OBJECTS], unknown[turn % OBJECTS]) for turn in range(options.requests)]
        alike = {server.ask(method, path.format(value), body, mine_key)[:2] for value in [*theirs[kind], *unknown]}
        if len(alike) != 1 or next(iter(alike))[0] != 404:
            sys.exit(f"{about}: not answered alike: {alike}")

        def sample(value):
            return server.ask(method, path.format(value), body, mine_key)[2]

        compare(about, pairs, sample)
    if wanted("sign in"):
        sign_in(server, their_key, options.requests)


def sign_in(server, key, requests):
    """A wrong password of somebody, and of nobody. A person's may be tried a hundred times, so there are several, and what is
    asked comes from many networks."""
    people = [f"person{number}@theirs.example" for number in range(math.ceil(requests / 80))]
    for email in people:
        invited = server.make(key, "POST", "/api/invitations", {"email": email, "role": "viewer"})
        body = {"token": invited["link"].split("token=")[1], "password": PASSWORD}
        server.make(None, "POST", "/api/invitations/accept", body)
    compare_sign_ins(server, "sign in", people, requests)


def sign_in_beside(options):
    """The same where passwords are Plausible's."""
    plausible = urllib.parse.urlsplit(options.database)._replace(path="/plausible_of_timing").geturl()
    psql = lambda url, *arguments, **more: subprocess.run(
        ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, *arguments], check=True, stdout=subprocess.DEVNULL, **more)
    psql(options.database, "-c", "CREATE DATABASE plausible_of_timing")
    for version in ("v2_0", "v2_1", "current"):
        psql(plausible, "-f", os.path.join(TABLES, f"postgres_{version}.sql"))
    requests = min(options.requests, SIGN_INS_BESIDE)
    people = [f"person{number}@plausible.example" for number in range(math.ceil(requests / 80))]
    # Of passwords that nobody knows.
    hashes = ["$2b$12$" + "".join(random.choices(BCRYPT, k=21)) + "." + "".join(random.choices(BCRYPT, k=30)) + "."
              for _ in people]
    rows = ", ".join(f"('{email}', '{text}', now(), now())" for email, text in zip(people, hashes))
    psql(plausible, "-c", f"INSERT INTO users (email, password_hash, inserted_at, updated_at) VALUES {rows}")
    for statement in open(os.path.join(TABLES, "clickhouse_current.sql")).read().split(";\n"):
        if statement.strip():
            url = options.analytics.replace("clickhouse://", "http://") + "/?database=default"
            urllib.request.urlopen(url, statement.encode()).read()
    server = Server(os.path.abspath(options.binary), None, plausible, f"{options.analytics}/default")
    try:
        compare_sign_ins(server, BESIDE, people, requests)
    finally:
        server.stop()
        psql(options.database, "-c", "DROP DATABASE plausible_of_timing")


def compare_sign_ins(server, about, people, requests):
    turns = iter(range(1, 1 << 20))

    def sample(email):
        turn = next(turns)
        body = {"email": email, "password": "not the password at all"}
        status, text, taken = server.ask("POST", "/api/session", body, origin=f"2001:db8:{turn:x}::1")
        if status != 401:
            sys.exit(f"sign in: {status} {text.decode()}")
        return taken

    times = min(requests, 80 * len(people))
    pairs = [(people[turn % len(people)], people[turn % len(people)].replace("person", "nobody")) for turn in range(times)]
    compare(about, pairs, sample)


main()
