// Every page, in light and dark, on a desk and on a phone: nothing that axe finds, nothing that the policy refuses, nothing
// that sticks out.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { backtest, furnished } from "./routes.mjs";
import { admitViewer, each, states, VIEWER, viewed } from "./states.mjs";
import { openBrowser, openPage, overflows, settle, signIn, startServer, violations } from "./support.mjs";

let browser, fresh;
before(async () => {
  browser = await openBrowser();
  fresh = await startServer();
});
after(async () => {
  await browser.close();
  await fresh.stop();
});

const VIEWS = [["light", "desktop"], ["dark", "desktop"], ["light", "phone"], ["dark", "phone"]];

for (const count of [0, 10]) {
  describe(`with ${count} webhooks`, () => {
    let full;
    before(async () => { full = await furnished(count); });
    after(() => full.stop());
    for (const [theme, size] of VIEWS) {
      it(`every page in ${theme} on a ${size}`, async (context) => {
        const page = await openPage(browser, full.server, { theme, size });
        await signIn(page, full.server);
        await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
        for (const [name, path] of Object.entries(full.routes)) {
          await page.goto(full.server.base + path);
          await settle(page);
          if (name.endsWith("trigger")) await page.locator("figure canvas").waitFor();
          assert.deepEqual(await violations(page), [], name);
          assert.equal(await overflows(page), false, `${name} is wider than the window`);
        }
        assert.deepEqual(page.complaints, []);
        context.diagnostic(`${Object.keys(full.routes).length} pages`);
        await page.context().close();
      });
    }
  });
}

describe("in states that an address alone does not bring about", () => {
  let full;
  before(async () => {
    full = await furnished(10);
    await admitViewer(full);
  });
  after(() => full.stop());
  for (const [theme, size] of VIEWS) {
    it(`every state in ${theme} on a ${size}`, { timeout: 300_000 }, async (context) => {
      for (const [email, found] of [[VIEWER, viewed(full)], [undefined, states(full)]]) {
        const page = await openPage(browser, full.server, { theme, size });
        await signIn(page, full.server, { email });
        await each(page, found, async (name) => {
          assert.deepEqual(await violations(page), [], name);
          assert.equal(await overflows(page), false, `${name} is wider than the window`);
        });
        context.diagnostic(`${Object.keys(found).length} states`);
        await page.context().close();
      }
    });
  }
});

describe("before anybody is signed in", () => {
  for (const [theme, size] of VIEWS) {
    it(`set-up and sign-in in ${theme} on a ${size}`, async () => {
      const page = await openPage(browser, fresh, { theme, size });
      for (const path of [new URL(fresh.link).pathname + new URL(fresh.link).search, "/setup", "/sign-in", "/sign-up", "/invitation", `/invitation?token=${"a".repeat(43)}`]) {
        await page.goto(fresh.base + path);
        await settle(page);
        assert.deepEqual(await violations(page), [], path);
        assert.equal(await overflows(page), false, `${path} is wider than the window`);
      }
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    });
  }

  it("no page has script or style in it, and unknown addresses stay unknown", async () => {
    const answer = await fetch(`${fresh.base}/sites/example.com/webhooks`);
    assert.equal(answer.status, 200);
    const policy = answer.headers.get("content-security-policy");
    assert.ok(policy.includes("script-src 'self'") && policy.includes("style-src 'self'") && !policy.includes("unsafe"), policy);
    const html = await answer.text();
    assert.ok(!/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/.test(html), html);
    for (const path of ["/api/nothing", "/nothing", "/assets/nothing.js"]) {
      const unknown = await fetch(fresh.base + path);
      assert.equal(unknown.status, 404, path);
      assert.match(unknown.headers.get("content-type"), /problem\+json/, path);
    }
    const [script] = /assets\/[^"]+\.js/.exec(html);
    const asset = await fetch(`${fresh.base}/${script}`, { headers: { "accept-encoding": "gzip" } });
    assert.equal(asset.headers.get("content-encoding"), "gzip");
    assert.match(asset.headers.get("cache-control"), /immutable/);
    assert.equal(answer.headers.get("cache-control"), "no-cache");
  });
});
