// A list of ten thousand deliveries: few rows are drawn of it, frames stay short, and nothing of it is out of reach.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { openBrowser, settle, startStage, test, violations } from "./support.mjs";

const MANY = 10_000;
/** Milliseconds. A machine that tests draws without a graphics card, and shares its processors. */
const LONGEST = 80;

/** Repeats the one delivery there is, under ids of the days before: each begins with its time. */
const REPEAT = `
import os, sqlite3, sys, time
path, many = sys.argv[1], int(sys.argv[2])
database = sqlite3.connect(path, timeout=30)
event, = database.execute("SELECT id FROM events LIMIT 1").fetchone()
columns = lambda table: [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
now = int(time.time() * 1000)
with database:
    for number in range(many - 1):
        at = now - 60_000 - number * 20_000
        id = at.to_bytes(6, "big") + bytes([0x70]) + os.urandom(1) + bytes([0x80]) + os.urandom(7)
        for table, key, when in (("events", "id", "inserted_at"), ("attempts", "event_id", "started_at")):
            values = ["?1" if name == key else "?2" if name == when else "'repeated:' || hex(?1)" if name == "moment" else name for name in columns(table)]
            database.execute(f"INSERT INTO {table} SELECT {', '.join(values)} FROM {table} WHERE {key} = ?3", (id, at * 1000, event))
`;

/** In the page: scrolls to the end, so many pixels a frame, and tells how long frames took. */
async function scroll([many, way]) {
  const gaps = [];
  let most = 0;
  let before = performance.now();
  const list = document.querySelector('ul[aria-label="Deliveries"]');
  const row = list.querySelector("li").offsetHeight;
  const deadline = performance.now() + 100_000;
  while (performance.now() < deadline) {
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const now = performance.now();
    gaps.push(now - before);
    before = now;
    most = Math.max(most, list.children.length);
    const bottom = document.documentElement.scrollHeight - window.innerHeight;
    if (way === "up" ? window.scrollY <= 0 : list.offsetHeight >= row * many && window.scrollY >= bottom - 1) break;
    window.scrollBy({ top: way === "up" ? -240 : 240, behavior: "instant" });
  }
  gaps.sort((one, other) => one - other);
  const at = (share) => Math.round(gaps[Math.min(gaps.length - 1, Math.floor(gaps.length * share))] * 10) / 10;
  return { frames: gaps.length, median: at(0.5), p95: at(0.95), p99: at(0.99), most, rows: list.offsetHeight / row };
}

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

describe("ten thousand deliveries", () => {
  let server, api, home, hook, page, stop;
  before(async () => {
    ({ server, api, home, hook, page, stop } = await startStage(browser, 1));
    await test(api, home.at, hook);
    execFileSync("python3", ["-c", REPEAT, join(server.folder, "pulsehook.db"), String(MANY)], { stdio: "inherit" });
  });
  after(() => stop());

  it("scroll from the first to the last in short frames", { timeout: 240_000 }, async (context) => {
    await page.goto(`${server.base}/sites/example.com/deliveries`);
    await page.getByText("10,000 in all").waitFor();
    await settle(page);
    const rows = page.locator('li a[href*="/deliveries/"]');
    assert.ok((await rows.count()) < 100);
    // Down while the list is loaded, up when all of it is there.
    for (const way of ["down", "up"]) {
      const told = await page.evaluate(scroll, [MANY, way]);
      context.diagnostic(`${way}: ${told.frames} frames, gaps: median ${told.median} ms, p95 ${told.p95} ms, p99 ${told.p99} ms; at most ${told.most} rows drawn of ${told.rows}`);
      assert.equal(told.rows, MANY);
      assert.ok(told.most < 100, `${told.most} rows`);
      assert.ok(told.p95 < LONGEST, `${told.p95} ms`);
    }
    await page.evaluate(() => window.scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" }));
    await page.locator(`li[aria-posinset="${MANY}"][aria-setsize="${MANY}"]`).waitFor();
    assert.deepEqual(await violations(page), []);
  });

  it("keeps the place of whoever comes back, and of whoever goes by keyboard", async () => {
    const last = page.locator(`li[aria-posinset="${MANY - 3}"] a`);
    const href = await last.getAttribute("href");
    await last.click();
    await page.getByRole("heading", { level: 1, name: "Test event" }).waitFor();
    await page.goBack();
    await page.locator(`a[href="${href}"]`).waitFor();
    await page.locator(`a[href="${href}"]`).focus();
    await page.evaluate(() => window.scrollTo({ top: 0, behavior: "instant" }));
    await page.locator('li[aria-posinset="1"]').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), href, "a row that has the focus stays");
    await page.keyboard.press("Shift+Tab");
    assert.notEqual(await page.evaluate(() => document.activeElement), null);
    assert.deepEqual(page.complaints, []);
  });
});
