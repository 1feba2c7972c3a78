"""A network of our own, in which nothing but the program keeps itself from the inside.

    unshare --user --map-root-user --net --mount --pid --fork --kill-child python3 lab.py PULSEHOOK

The program runs as it is in a network namespace with a public address; a second namespace is the internet. Its router answers
for everything: for receivers with public addresses, for canaries where private services and clouds' metadata would be, and
for names, by a name server that lies. Everything is reachable, which is tried first. In the end receivers were reached, every
attempt has the outcome it should have, and no canary saw a packet that opens a connection.
"""

import asyncio
import ipaddress
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

OURS, OURS6 = "45.79.10.1", "2a01:7e00::1"
ROUTER, ROUTER6 = "45.79.10.2", "2a01:7e00::2"
PUBLIC, PUBLIC6 = "93.184.216.34", "2a01:7e01::10"
# What answers in the other namespace.
INSIDE = ["169.254.169.254", "10.0.0.5", "100.100.100.200", "168.63.129.16", "192.168.1.1", "fd00:ec2::254",
          "64:ff9b::a9fe:a9fe", "2002:a00:5::1"]
# What answers on the machine itself.
LOCAL = ["127.0.0.1", "127.0.0.53", "::1", OURS, OURS6]
API_PORT = 8080

# Name, what it leads to, and what an attempt comes to. What is in a list of lists is answered in turn.
NAMES = {
    "good.lab": ([PUBLIC], "success"),
    "good6.lab": ([PUBLIC6], "success"),
    "both.lab": ([PUBLIC, PUBLIC6], "success"),
    "half.lab": (["93.184.217.1", PUBLIC], "success"),
    "many.lab": ([f"93.184.216.{number}" for number in range(1, 201)], "success"),
    "chain.lab": ("chain1.lab", "success"),
    **{f"chain{number}.lab": (f"chain{number + 1}.lab", None) for number in range(1, 7)},
    "chain7.lab": ([PUBLIC], None),
    "late.lab": ([[], [PUBLIC]], "success"),
    "chain-inside.lab": ("inside.lab", "forbidden_address"),
    "inside.lab": (["10.0.0.5"], "forbidden_address"),
    "metadata.lab": (["169.254.169.254"], "forbidden_address"),
    "alibaba.lab": (["100.100.100.200"], "forbidden_address"),
    "azure.lab": (["168.63.129.16"], "forbidden_address"),
    "six.lab": (["fd00:ec2::254"], "forbidden_address"),
    "mapped.lab": (["::ffff:10.0.0.5"], "forbidden_address"),
    "nat64.lab": (["64:ff9b::a9fe:a9fe"], "forbidden_address"),
    "sixtofour.lab": (["2002:a00:5::1"], "forbidden_address"),
    "loopback.lab": (["127.0.0.1"], "forbidden_address"),
    "loopback6.lab": (["::1"], "forbidden_address"),
    "zero.lab": (["0.0.0.0"], "forbidden_address"),
    "own.lab": ([OURS], "forbidden_address"),
    "own6.lab": ([OURS6], "forbidden_address"),
    "mixed.lab": ([PUBLIC, "10.0.0.5"], "forbidden_address"),
    "mixed6.lab": ([PUBLIC, "fd00:ec2::254"], "forbidden_address"),
    "many-inside.lab": ([f"93.184.216.{number}" for number in range(1, 200)] + ["10.0.0.5"], "forbidden_address"),
    "slow.lab": (None, "dns_timeout"),
    "nowhere.lab": ([], "dns_nxdomain"),
}
# A name that leads elsewhere every time it is asked for.
REBINDING = "rebinding.lab"
REBINDING_ADDRESSES = [PUBLIC, "169.254.169.254", "127.0.0.1", OURS]
LITERALS = ["10.0.0.5", "169.254.169.254", "168.63.129.16", "100.100.100.200", "[fd00:ec2::254]", "[::ffff:10.0.0.5]",
            "[64:ff9b::a9fe:a9fe]", "127.0.0.1", "127.1", "2130706433", "0", "[::1]", OURS, f"[{OURS6}]", "localhost"]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


# What the internet is.

async def receive(reader, writer):
    """An endpoint: 200 for whatever comes, or a way inside. It says that it closes, or the next request may come to a
    connection that is about to go."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0]) if length else 0)
        if b" /redirect " in head.split(b"\r\n")[0]:
            start, body = b"HTTP/1.1 302 X\r\nlocation: http://169.254.169.254/latest/", b""
        else:
            start, body = b"HTTP/1.1 200 X", b"ok"
        writer.write(start + b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


class Names:
    """A name server that lies: what it says has no age, so that it is asked every time."""

    def __init__(self):
        self.asked = {}

    def answer(self, query, limit):
        (number,) = struct.unpack_from("!H", query)
        name, place = [], 12
        while query[place]:
            name.append(query[place + 1:place + 1 + query[place]].decode().lower())
            place += 1 + query[place]
        name = ".".join(name)
        kind, _ = struct.unpack_from("!HH", query, place + 1)
        question = query[12:place + 5]
        if name == REBINDING:
            turn = self.asked.get((name, kind), 0)
            self.asked[name, kind] = turn + 1
            found = [REBINDING_ADDRESSES[turn % len(REBINDING_ADDRESSES)]]
        else:
            found = NAMES.get(name, ([], None))[0]
        if found is None:
            return None
        if isinstance(found, list) and found and isinstance(found[0], list):
            turn = self.asked.get((name, kind), 0)
            self.asked[name, kind] = turn + 1
            found = found[min(turn, len(found) - 1)]
        if isinstance(found, str):
            records = [(5, encode(found))]
        else:
            addresses = [ipaddress.ip_address(text) for text in found]
            records = [(1 if one.version == 4 else 28, one.packed) for one in addresses]
            records = [record for record in records if record[0] == kind]
        code = 3 if found == [] else 0
        body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data for kind, data in records)
        flags, count = 0x8580 | code, len(records)
        if 12 + len(question) + len(body) > limit:
            flags, count, body = flags | 0x0200, 0, b""
        return struct.pack("!HHHHHH", number, flags, 1, count, 0, 0) + question + body


class OverUdp(asyncio.DatagramProtocol):
    def __init__(self, names):
        self.names = names

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        answer = self.names.answer(data, 1232)
        if answer:
            self.transport.sendto(answer, sender)


async def over_tcp(names, reader, writer):
    try:
        while True:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = names.answer(await reader.readexactly(length), 65535)
            if answer is None:
                continue
            writer.write(struct.pack("!H", len(answer)) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


# Canaries: whatever opens a connection to one is seen, on any port.

class Watch:
    """Counts packets that open a connection to what nobody should speak to."""

    def __init__(self, interface, canaries, but_port=None):
        self.canaries = {ipaddress.ip_address(text) for text in canaries}
        self.but_port = but_port
        self.seen = {}
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.bind((interface, 3))
        self.socket.setblocking(False)

    def look(self):
        while True:
            try:
                packet, where = self.socket.recvfrom(65535)
            except BlockingIOError:
                return self.seen
            # Each packet on the loopback interface passes twice.
            if where[2] == socket.PACKET_OUTGOING:
                continue
            if where[1] == 0x0800 and packet[9] == 6:
                target, tcp = ipaddress.ip_address(packet[16:20]), packet[(packet[0] & 15) * 4:]
            elif where[1] == 0x86dd and packet[6] == 6:
                target, tcp = ipaddress.ip_address(packet[24:40]), packet[40:]
            else:
                continue
            (port,) = struct.unpack_from("!H", tcp, 2)
            opens = tcp[13] & 0x12 == 0x02
            if opens and port != self.but_port and (target in self.canaries or target.is_loopback):
                key = f"{target}:{port}"
                self.seen[key] = self.seen.get(key, 0) + 1


async def internet():
    """Runs in the other namespace. Every line of input is answered with what the canaries saw."""
    watch = Watch("router", INSIDE)
    names = Names()
    for address in ("0.0.0.0", "::"):
        await asyncio.start_server(receive, address, 80)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: OverUdp(names), local_addr=(ROUTER, 53))
    await asyncio.start_server(lambda reader, writer: over_tcp(names, reader, writer), ROUTER, 53)
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (await reader.readline()):
        print(json.dumps(watch.look()), flush=True)
        watch.seen = {}


def set_up_internet():
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{ROUTER}/24", "dev", "router")
    ip("addr", "add", f"{ROUTER6}/64", "dev", "router", "nodad")
    for network in ("93.184.216.0/24", "169.254.169.254/32", "10.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.168.0.0/16"):
        ip("route", "add", "local", network, "dev", "lo")
    for network in ("2a01:7e01::/64", "fd00::/8", "64:ff9b::/96", "2002::/16"):
        ip("-6", "route", "add", "local", network, "dev", "lo")
    ip("link", "set", "router", "up")
    # It exists and nobody is there.
    ip("route", "add", "blackhole", "93.184.217.0/24")


# The machine.

class Lab:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.failures = []
        self.environment = {
            "PULSEHOOK_LISTEN": f"127.0.0.1:{API_PORT}",
            "PULSEHOOK_DATA_DIR": folder,
            "PULSEHOOK_EGRESS_ALLOW_HTTP": "true",
            "PULSEHOOK_MAX_WEBHOOKS_PER_ACCOUNT": "1000",
            # Nobody's business: a canary would see who asks it.
            **{name: "http://10.0.0.5:3128" for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY",
                                                         "HTTPS_PROXY", "ALL_PROXY")},
        }

    def start(self):
        made = subprocess.run([self.binary, "keys", "create", "--account", "Lab"], env=self.environment, cwd=self.folder,
                              check=True, capture_output=True, text=True)
        self.key = made.stdout.strip()
        self.server = subprocess.Popen([self.binary, "serve"], env=self.environment, cwd=self.folder,
                                       stderr=open(f"{self.folder}/log", "w"))
        for _ in range(300):
            try:
                return self.api("POST", "/api/sites", {"domain": "example.com"}, 201)
            except urllib.error.URLError:
                assert self.server.poll() is None, open(f"{self.folder}/log").read()
                time.sleep(0.1)
        raise SystemExit("it does not answer")

    def api(self, method, path, body=None, expected=None):
        request = urllib.request.Request(f"http://127.0.0.1:{API_PORT}{path}", method=method)
        request.add_header("authorization", f"Bearer {self.key}")
        data = None
        if body is not None:
            request.add_header("content-type", "application/json")
            data = json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, data) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        assert expected in (None, status), f"{method} {path}: {status} {text}"
        return status, json.loads(text or b"null")

    def webhook(self, url, expected=201):
        body = {"name": "x", "url": url, "triggers": [{"type": "goal_completion"}]}
        _, answer = self.api("POST", "/api/sites/example.com/webhooks", body, expected)
        return answer["webhook"]["id"] if expected == 201 else answer

    def send_test(self, webhook):
        _, answer = self.api("POST", f"/api/sites/example.com/webhooks/{webhook}/test", {}, 202)
        return f"/api/sites/example.com/webhooks/{webhook}/deliveries/{answer['delivery']['id']}"

    def outcomes(self, delivery):
        _, answer = self.api("GET", delivery, None, 200)
        return [attempt["outcome"] for attempt in answer["delivery"]["attempts"]]

    def expect(self, what, delivery, outcome, within=12.0):
        """Waits for the outcome; an attempt with another one may be made again."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            found = self.outcomes(delivery)
            if outcome in found:
                return
            time.sleep(0.05)
        self.failures.append(f"{what}: {found}, not {outcome}")


def reach(address, port=80):
    """Whether a connection can be opened, by whoever does not ask whether it may."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as plain:
        plain.settimeout(3)
        return plain.connect_ex((address, port)) == 0


def run(binary, folder):
    ip("link", "set", "lo", "up")
    ip("link", "add", "net", "type", "veth", "peer", "name", "router")
    # The second namespace lives as long as this process.
    other = subprocess.Popen(["unshare", "--net", sys.executable, __file__, "--internet"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "waiting\n"
    ip("link", "set", "router", "netns", str(other.pid))
    ip("addr", "add", f"{OURS}/24", "dev", "net")
    ip("addr", "add", f"{OURS6}/64", "dev", "net", "nodad")
    ip("link", "set", "net", "up")
    ip("route", "add", "default", "via", ROUTER)
    print(file=other.stdin, flush=True)
    assert other.stdout.readline() == "ready\n"
    ip("-6", "route", "add", "default", "via", ROUTER6)
    with open(f"{folder}/resolv.conf", "w") as file:
        file.write(f"search lab\nnameserver {ROUTER}\n")
    with open(f"{folder}/hosts", "w") as file:
        file.write("127.0.0.1 localhost\n::1 localhost\n")
    for name in ("resolv.conf", "hosts"):
        subprocess.run(["mount", "--bind", f"{folder}/{name}", f"/etc/{name}"], check=True)

    canaries = [socket.create_server((address, 80), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
                for address in LOCAL]
    machine = Watch("lo", [OURS, OURS6], but_port=API_PORT)

    def seen():
        print(file=other.stdin, flush=True)
        found = {**json.loads(other.stdout.readline()), **machine.look()}
        machine.seen = {}
        return found

    # Everything can be reached and is seen.
    for address in [*INSIDE, *LOCAL, PUBLIC, PUBLIC6]:
        assert reach(address), f"{address} cannot be reached, so that nothing would be proved"
    witnessed = seen()
    for address in [*INSIDE, *LOCAL]:
        assert any(key.startswith(f"{address}:") for key in witnessed), f"{address} has no witness: {witnessed}"

    lab = Lab(binary, folder)
    lab.start()
    expected = []
    for name, (_, outcome) in NAMES.items():
        if outcome:
            delivery = lab.send_test(lab.webhook(f"http://{name}/hook"))
            expected.append((name, delivery, outcome))
    expected.append(("a redirect", lab.send_test(lab.webhook("http://good.lab/redirect")), "redirect"))
    expected.append(("a public address", lab.send_test(lab.webhook(f"http://{PUBLIC}/hook")), "success"))
    expected.append(("a public IPv6 address", lab.send_test(lab.webhook(f"http://[{PUBLIC6}]/hook")), "success"))
    for literal in LITERALS:
        lab.webhook(f"http://{literal}/hook", 422)
        # And where somebody wrote it into the database.
        webhook = lab.webhook("http://good.lab/hook")
        with sqlite3.connect(f"{folder}/pulsehook.db") as database:
            changed = database.execute("UPDATE webhooks SET url = ?, sealed_url = NULL WHERE id = ?",
                                       (f"http://{literal}/hook", bytes.fromhex(webhook.replace("-", ""))))
            assert changed.rowcount == 1
        expected.append((literal, lab.send_test(webhook), "forbidden_url"))
    # Asked for again and again, some of the time while the last answer still stands.
    rebinding = lab.webhook(f"http://{REBINDING}/hook")
    turns = [lab.send_test(rebinding) for _ in range(16)]
    for what, delivery, outcome in expected:
        lab.expect(what, delivery, outcome)
    until = time.monotonic() + 10
    while not all(lab.outcomes(delivery) for delivery in turns) and time.monotonic() < until:
        time.sleep(0.05)
    found = {outcome for delivery in turns for outcome in lab.outcomes(delivery)}
    if not {"forbidden_address"} <= found <= {"success", "forbidden_address"}:
        lab.failures.append(f"{REBINDING}: {found}")
    for name in [*NAMES, REBINDING]:
        if NAMES.get(name, (0, "success"))[1] and name != "slow.lab":
            status, answer = lab.api("POST", "/api/sites/example.com/webhooks/check", {"url": f"http://{name}/hook"})
            if status == 429:
                break
            addresses = [*INSIDE, OURS, OURS6]
            if any(address in json.dumps(answer) for address in addresses):
                lab.failures.append(f"{name}: the check tells where it leads: {answer}")
    touched = seen()
    lab.server.send_signal(signal.SIGTERM)
    lab.server.wait(20)
    other.stdin.close()
    other.wait(10)
    for canary in canaries:
        canary.close()
    if touched:
        lab.failures.append(f"canaries were spoken to: {touched}")
    for failure in lab.failures:
        print(failure)
    if lab.failures:
        sys.exit(1)
    print(f"{len(expected)} attempts and {len(turns)} at a name that changes, {len(INSIDE) + len(LOCAL)} canaries, no packet")


def main():
    if sys.argv[1] == "--internet":
        print("waiting", flush=True)
        # Unbuffered: what comes after this line is the loop's.
        while os.read(0, 1) != b"\n":
            pass
        set_up_internet()
        asyncio.run(internet())
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(os.path.abspath(sys.argv[1]), folder)


main()
