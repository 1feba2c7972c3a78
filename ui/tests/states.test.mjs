// What pages do in their rarer states: how one gets out of them, and that what they say is so.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, describe, it } from "node:test";
import { admitViewer, VIEWER } from "./states.mjs";
import { binary, ended, openBrowser, openPage, settle, signIn, startStage, test } from "./support.mjs";

describe("a server with a webhook", () => {
  let browser, endpoint, server, api, home, hook, page, stop;
  before(async () => {
    browser = await openBrowser();
    ({ endpoint, server, api, home, hook, page, stop } = await startStage(browser, 1));
    await admitViewer({ server, api });
  });
  after(async () => {
    await stop?.();
    await browser?.close();
  });

  it("tries at once what waits for its next attempt", async () => {
    endpoint.status = 503;
    let delivery = await test(api, home.at, hook);
    const path = `${home.at}/webhooks/${hook.id}/deliveries/${delivery.id}`;
    // Until the wait is a minute: the first is over too soon.
    while (delivery.attempt < 2) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      delivery = await ended(api, path);
    }
    endpoint.status = 200;
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}/deliveries/${delivery.id}`);
    await page.getByText("What is wrong").waitFor();
    await page.getByRole("button", { name: "Try now" }).click();
    await page.getByText("Attempt 3 answered 200").waitFor();
    await page.getByRole("button", { name: "Resend", exact: true }).waitFor();
    assert.equal((await ended(api, path, ["success"])).attempt, 3);
  });

  it("shows a secret that is told once even when the page knew of the change before", async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}`);
    // The answer comes after everything that follows from the change.
    await page.route("**/secret/rotate", async (route) => {
      const answer = await route.fetch();
      await page.getByText("The previous secret signs too until").waitFor();
      await route.fulfill({ response: answer });
    });
    await page.getByRole("button", { name: "Rotate secret" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Rotate secret" }).click();
    await page.getByText(/^whsec_/).waitFor();
    await page.unrouteAll();
  });

  it("says that the server is away, keeps what was there, and goes on by itself", { timeout: 90_000 }, async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks`);
    const row = page.getByRole("link", { name: "Chat room" });
    await row.waitFor();
    const said = page.getByRole("status").filter({ hasText: "The server cannot be reached." });
    assert.equal(await said.count(), 0);
    await page.route("**/api/**", (route) => route.abort());
    await said.waitFor({ timeout: 45_000 });
    assert.ok(await row.isVisible());
    await page.unrouteAll();
    await said.waitFor({ state: "detached", timeout: 20_000 });
  });

  it("offers nothing to whoever may only look", async () => {
    const hers = await openPage(browser, server);
    await signIn(hers, server, { email: VIEWER });
    const site = "/sites/example.com";
    for (const path of ["/", "/sites", `${site}/webhooks`, `${site}/webhooks/${hook.id}`, `${site}/webhooks/new`, `${site}/webhooks/${hook.id}/edit`, `${site}/goals`, `${site}/install`, `${site}/settings`, "/account/keys", "/account/settings", "/start"]) {
      await hers.goto(server.base + path);
      await settle(hers);
      const writes = hers.locator("main").getByRole("button", { name: /^(Add|Create|Save|Delete|Edit|Pause|Rotate|Send test|Resend)/ });
      const leads = hers.locator("main").getByRole("link", { name: /^(Add|Edit)/ });
      assert.deepEqual([await writes.allTextContents(), await leads.allTextContents()], [[], []], path);
    }
    await hers.context().close();
  });

  it("names settings that there are, and what is in use", async () => {
    await page.goto(`${server.base}/sites/example.com/install`);
    await page.locator("summary", { hasText: "Now: this server takes the traffic in itself and keeps it in a file of its own." }).click();
    const named = new Set();
    for (const tab of ["Plausible", "ClickHouse"]) {
      await page.getByRole("tab", { name: tab, exact: true }).click();
      const code = await page.getByRole("group", { name: `Settings for ${tab}` }).textContent();
      for (const [, name] of code.matchAll(/^([A-Z_]+)=/gm)) named.add(name);
    }
    assert.deepEqual([...named], ["PULSEHOOK_DIRECTORY", "PULSEHOOK_PLAUSIBLE_DATABASE_URL", "PULSEHOOK_ANALYTICS_URL"]);
    const help = execFileSync(binary, ["serve", "--help"]).toString();
    for (const name of named) assert.ok(help.includes(`--${name.replace("PULSEHOOK_", "").toLowerCase().replaceAll("_", "-")}`), name);
    await page.getByText("pulsehook doctor", { exact: true }).waitFor();
  });
});
