// The real binary on a folder of its own, receivers, and a browser. Everything started here ends with the test that asked.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as passed } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
export const binary = process.env.PULSEHOOK_BINARY ?? join(root, "target/debug/pulsehook");
const axe = readFileSync(join(root, "ui/node_modules/axe-core/axe.min.js"), "utf8");
export const PASSWORD = "correct horse battery";
export const EMAIL = "ada@example.com";

/** A server with a site and so many webhooks at an endpoint of its own, and a page somebody is signed in on. */
export async function startStage(browser, webhooks) {
  const endpoint = await startEndpoint();
  const server = await startServer();
  const api = await setUp(server);
  const home = await furnish(api, webhooks, endpoint);
  const page = await openPage(browser, server);
  await signIn(page, server);
  const stop = async () => {
    await page.context().close();
    await server.stop();
    await endpoint.stop();
  };
  return { endpoint, server, api, home, hook: home.webhooks[0], page, stop };
}

/** A child whose lines can be waited for; it is killed by `stop`. */
function run(command, args, { input = "ignore", ...options } = {}) {
  const child = spawn(command, args, { stdio: [input, "pipe", "pipe"], ...options });
  const lines = [];
  const waiting = new Set();
  const take = (line) => {
    lines.push(line);
    for (const look of waiting) look();
  };
  createInterface({ input: child.stdout }).on("line", take);
  createInterface({ input: child.stderr }).on("line", take);
  const gone = new Promise((resolve) => child.once("exit", resolve));
  const line = (pattern, ms = 20_000) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => end(reject, new Error(`${command} did not say ${pattern}:\n${lines.join("\n")}`)), ms);
      const end = (settle, value) => {
        clearTimeout(late);
        waiting.delete(look);
        settle(value);
      };
      const look = () => {
        const found = lines.map((one) => pattern.exec(one)).find(Boolean);
        if (found) end(resolve, found);
      };
      waiting.add(look);
      look();
      void gone.then(() => end(reject, new Error(`${command} ended:\n${lines.join("\n")}`)));
    });
  const stop = async () => {
    child.kill("SIGKILL");
    await gone;
  };
  /** For those whose input is a pipe: it ends, and they with it. */
  const end = async () => {
    child.stdin.end();
    await gone;
  };
  /** As somebody at the terminal would: it tidies up. */
  const interrupt = async () => {
    child.kill("SIGINT");
    await gone;
  };
  return { line, lines, stop, end, interrupt };
}

export { run };

/** A PostgreSQL of its own, gone with this process however that ends. `query` runs statements in one of its databases. */
export async function startPostgres() {
  const command = ["sh", "-c", 'echo "at $PULSEHOOK_BENCH_POSTGRES"; exec cat'];
  const cluster = run(join(root, "scripts/with-postgres.sh"), command, { input: "pipe", detached: true });
  const [, url] = await cluster.line(/^at (\S+)/, 90_000);
  const psql = (database, args) => execFileSync("psql", ["-qtA", "-v", "ON_ERROR_STOP=1", ...args, `${url}/${database}`]).toString().trim();
  const query = (database, sql) => psql(database, ["-c", sql]);
  const file = (database, path) => psql(database, ["-f", join(root, path)]);
  return { url, query, file, stop: cluster.end };
}

/** The ClickHouse of the tests, with the tables of Plausible's current version. */
export async function startClickHouse() {
  const server = run(join(root, "tests/tools/.venv/bin/python"), [join(root, "tests/fixtures/clickhouse/server.py"), "--parent-pipe"], { input: "pipe" });
  const [, url] = await server.line(/^ready (\S+)/, 90_000);
  const ask = async (sql) => {
    const answer = await fetch(`${url}/?database=default`, { method: "POST", body: sql });
    if (!answer.ok) throw new Error(`${sql}: ${await answer.text()}`);
  };
  const tables = readFileSync(join(root, "tests/fixtures/plausible/clickhouse_current.sql"), "utf8");
  for (const statement of tables.split(";\n").filter((one) => one.trim())) await ask(statement);
  return { url: `${url.replace("http://", "clickhouse://")}/default`, ask, stop: server.end };
}

/** A port nobody has just now. */
export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Endpoints of these tests are on this machine, without TLS. */
const LETS_OUT = ["--egress-allow", "127.0.0.0/8", "--egress-allow-http", "true"];

/**
 * A server nobody has set up yet. `below`: the address at which others reach it, when that is not its own; `strict`: with the
 * rules it has by itself, by which nothing gets to this machine; `settled`: it is set up already, or by somebody else.
 */
export async function startServer({ settings = [], below, strict, settled } = {}) {
  if (!existsSync(binary)) throw new Error(`${binary} is not built: cargo build`);
  const folder = mkdtempSync(join(tmpdir(), "pulsehook-ui-"));
  const port = await freePort();
  const args = ["serve", "--listen", `127.0.0.1:${port}`, "--data-dir", join(folder, "data"), ...(strict ? [] : LETS_OUT)];
  const server = run(binary, [...args, ...settings, ...(below ? ["--base-url", below] : [])]);
  const [, link] = settled ? [] : await server.line(/(http\S+\/setup\?token=\S+)/);
  await server.line(/listens on/);
  const stop = async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  const own = `http://127.0.0.1:${port}`;
  return { link, own, base: below ?? own, folder: join(folder, "data"), lines: server.lines, stop };
}

/** What a tracker says of a visitor at `address`. */
export const pageView = (server, address) => tracked(server, { address });

/** The same of any event. */
export const tracked = (server, { name = "pageview", address = "203.0.113.7" }) =>
  fetch(`${server.own}/api/event`, {
    method: "POST",
    headers: { "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "x-forwarded-for": address },
    body: JSON.stringify({ name, url: "https://example.com/", domain: "example.com" }),
  });

/** So many days of history, as an access log says them: more by day than by night, and a surge of half an hour yesterday. */
export async function importHistory(server, domain, days = 10) {
  const now = Math.floor(Date.now() / 300_000) * 300_000;
  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const two = (value) => String(value).padStart(2, "0");
  const surge = now - 86_400_000;
  const lines = [];
  for (let start = now - days * 86_400_000; start < now; start += 300_000) {
    const usual = 9 + 4 * Math.sin(((start % 86_400_000) / 86_400_000) * 2 * Math.PI) + ((start / 300_000) % 3);
    const count = start >= surge && start < surge + 1_800_000 ? 70 : Math.round(usual);
    for (let visitor = 0; visitor < count; visitor += 1) {
      const at = new Date(start + visitor * 3_000);
      const stamp = `${two(at.getUTCDate())}/${months[at.getUTCMonth()]}/${at.getUTCFullYear()}:${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())} +0000`;
      const address = `203.${(start / 300_000) % 200}.${visitor % 250}.${visitor % 7}`;
      lines.push(`${address} - - [${stamp}] "GET / HTTP/1.1" 200 512 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"`);
    }
  }
  const log = join(server.folder, "access.log");
  writeFileSync(log, `${lines.join("\n")}\n`);
  execFileSync(binary, ["import", "access-log", log, "--site", domain, "--data-dir", server.folder], { stdio: "pipe" });
}

/** The first owner by the API, and a way to ask in his name. */
export async function setUp(server) {
  const token = new URL(server.link).searchParams.get("token");
  const send = async (method, path, body, key) => {
    const response = await fetch(server.own + path, {
      method,
      headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : null;
  };
  const { key } = await send("POST", "/api/setup", { token, account: "Analytical Engines", email: EMAIL, password: PASSWORD });
  return Object.assign((method, path, body) => send(method, path, body, key), { key });
}

/** The product's own receiver, over HTTPS with a certificate of this run. */
export async function startReceiver() {
  const receiver = run(binary, ["receive", "--tls", "--listen", "127.0.0.1:0"]);
  const [, url] = await receiver.line(/Listening on (\S+)/);
  const [, authority] = await receiver.line(/--egress-ca (\S+)/);
  return { url, authority, line: receiver.line, stop: async () => { await receiver.stop(); rmSync(authority, { force: true }); } };
}

/**
 * A receiver whose answer can be chosen, for all or by an address that ends in `/answers/503`, and how long it takes until it
 * and until its end; it keeps what came.
 */
export async function startEndpoint(status = 200) {
  const endpoint = { status, takes: [0, 0], arrived: [], url: "", stop: undefined };
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    endpoint.arrived.push({ headers: request.headers, body: Buffer.concat(parts) });
    const status = Number(/\/answers\/(\d{3})/.exec(request.url)?.[1] ?? endpoint.status);
    const [answer, rest] = endpoint.takes;
    if (answer) await passed(answer);
    response.writeHead(status, { "content-type": "text/plain" }).flushHeaders();
    if (rest) await passed(rest);
    response.end(status < 300 ? "thank you" : "the disk is full");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  endpoint.url = `http://127.0.0.1:${server.address().port}/hooks/pulse`;
  endpoint.stop = () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); });
  return endpoint;
}

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export const openBrowser = () =>
  chromium.launch({ executablePath: process.env.PULSEHOOK_CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

export const SIZES = { desktop: { width: 1280, height: 860 }, phone: { width: 360, height: 740 } };

/** A page that remembers everything it should not have had: errors, refused content, requests elsewhere. */
export async function openPage(browser, server, { theme = "light", size = "desktop" } = {}) {
  const context = await browser.newContext({ viewport: SIZES[size], colorScheme: theme, locale: "en-GB", timezoneId: "Europe/Berlin", reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const complaints = [];
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  page.on("console", (message) => {
    // What the API refuses is shown on the page; the browser notes it as well.
    const refused = /Failed to load resource: the server responded with a status of 4\d\d/.test(message.text());
    if (message.type() === "error" && !refused) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== new URL(server.base).origin) complaints.push(`asked ${request.url()}`);
  });
  return Object.assign(page, { complaints });
}

export async function signIn(page, server, { email = EMAIL, password = PASSWORD } = {}) {
  await page.goto(`${server.base}/sign-in`);
  await page.getByLabel("E-mail address").fill(email);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
}

/** Nothing is loading, and everything has been drawn. */
export async function settle(page) {
  await page.waitForFunction(() => document.querySelector("h1") && !document.querySelector('[role="status"][aria-label="Loading"]'));
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
}

/** What axe finds, as lines. */
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => (await globalThis.axe.run(document, { resultTypes: ["violations"] })).violations);
  return found.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")} ${node.failureSummary?.split("\n").slice(1, 3).join(" ")}`));
}

/** Whether something sticks out to the right. */
export const overflows = (page) => page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth + 1);

const LONG = "The channel in which marketing, sales and customer success talk about everything that happens on the site";

/** A site as it is after a while: `count` webhooks of all healths, deliveries, goals, keys. */
export async function furnish(api, count, endpoint, { domain = "example.com" } = {}) {
  const { site } = await api("POST", "/api/sites", { domain, timezone: "Europe/Berlin" });
  const at = `/api/sites/${site.id}`;
  const goals = [];
  for (const goal of count ? [{ event_name: "Signup", display_name: "Sign up" }, { page_path: "/blog/*", scroll_threshold: 90 }, { page_path: "/pricing" }] : []) {
    goals.push((await api("POST", `${at}/goals`, goal)).goal);
  }
  const names = ["Chat room", LONG, "Warehouse", "Paged at night", "CRM", "Billing", "Old receiver", "Staging", "Slack", "Spreadsheet"];
  const webhooks = [];
  for (const name of names.slice(0, count)) {
    const { webhook } = await api("POST", `${at}/webhooks`, {
      name,
      url: name === LONG ? `${endpoint.url}/a/rather/long/path/that/somebody/once/thought/was/a/good/idea?token=secret` : endpoint.url,
      generate_secret: true,
      headers: name === "CRM" ? { "X-Team": "growth" } : {},
      triggers: [{ type: "visitor_spike" }, { type: "goal_completion", goal_id: goals[0].id }],
    });
    webhooks.push(webhook);
  }
  return { site, at, goals, webhooks };
}

export async function ended(api, path, wanted = ["success", "failed", "cancelled", "retrying"]) {
  for (let tries = 0; tries < 200; tries += 1) {
    const { delivery } = await api("GET", path);
    if (wanted.includes(delivery.status)) return delivery;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${path} did not end`);
}

/** Sends a test and waits until an attempt was made. */
export async function test(api, at, webhook) {
  const { delivery } = await api("POST", `${at}/webhooks/${webhook.id}/test`);
  return ended(api, `${at}/webhooks/${webhook.id}/deliveries/${delivery.id}`);
}
