// What happens on a site is in its open pages at once, by a stream; and a little later where there is none.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { ended, openBrowser, openPage, pageView, settle, signIn, startStage, test } from "./support.mjs";

/** Milliseconds from an attempt to the page: the server looks every 800, and a machine that tests is slow. */
const SOON = 1_500;

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

describe("an open site", () => {
  let server, api, home, hook, page, stop;
  before(async () => {
    ({ server, api, home, hook, page, stop } = await startStage(browser, 1));
  });
  after(() => stop());
  const path = () => `/sites/example.com/webhooks/${hook.id}`;

  it("has one stream, and an attempt in the open page soon after it was made", async (context) => {
    await test(api, home.at, hook);
    const streams = [];
    page.on("request", (request) => { if (/\/stream$/.test(request.url())) streams.push(request.url()); });
    const opened = page.waitForResponse((response) => /\/stream$/.test(response.url()) && response.status() === 200);
    await page.goto(server.base + path());
    await opened;
    await settle(page);
    const delays = [];
    for (let round = 1; round <= 3; round += 1) {
      const { delivery } = await api("POST", `${home.at}/webhooks/${hook.id}/test`);
      await page.getByRole("button", { name: `Show ${round} new` }).waitFor();
      const shown = Date.now();
      const { attempts } = await ended(api, `${home.at}/webhooks/${hook.id}/deliveries/${delivery.id}`);
      delays.push(shown - Date.parse(attempts[0].started_at));
    }
    context.diagnostic(`new in the list after ${delays.join(", ")} ms`);
    assert.ok(delays.toSorted((one, other) => one - other)[1] < SOON, `${delays}`);
    await page.getByRole("link", { name: "Goals" }).click();
    await page.getByRole("heading", { level: 1, name: "Goals" }).waitFor();
    assert.equal(streams.length, 1, "one stream a tab, whatever page of the site");
  });

  it("has its overview to be used by a browser that has nothing of it yet, and says how soon", async (context) => {
    const storageState = await page.context().storageState();
    const took = [];
    for (let round = 1; round <= 5; round += 1) {
      const stranger = await browser.newContext({ storageState });
      const first = await stranger.newPage();
      const began = Date.now();
      await first.goto(`${server.base}/`);
      await first.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
      // Whether it could be clicked, and the figures are there.
      await first.getByRole("link", { name: "Sites" }).first().click({ trial: true });
      await first.getByRole("definition").first().waitFor();
      took.push(Date.now() - began);
      await stranger.close();
    }
    // A figure, not a limit: all of it is work of this machine, which does other work beside.
    context.diagnostic(`the overview can be used after ${took.join(", ")} ms`);
  });

  it("has a delivery in the built-in inbox within a second", async (context) => {
    const { webhook } = await api("POST", `${home.at}/webhooks`, { name: "Inbox", url: "inbox:", generate_secret: true, triggers: [{ type: "goal_completion" }] });
    await page.goto(`${server.base}/sites/example.com/webhooks/${webhook.id}`);
    await page.getByText("Nothing arrived yet").waitFor();
    await settle(page);
    const delays = [];
    for (let round = 1; round <= 5; round += 1) {
      const began = Date.now();
      await api("POST", `${home.at}/webhooks/${webhook.id}/test`);
      await page.getByText("Signature verified", { exact: true }).nth(round - 1).waitFor();
      delays.push(Date.now() - began);
    }
    context.diagnostic(`in the inbox after ${delays.join(", ")} ms`);
    assert.ok(delays.toSorted((one, other) => one - other)[2] < 1_000, `${delays}`);
  });

  it("shows current visitors as they come", async () => {
    await page.goto(server.base + path());
    for (const [count, said] of [[1, "1 current visitor"], [2, "2 current visitors"]]) {
      await pageView(server, `203.0.113.${count}`);
      await page.getByText(said, { exact: true }).waitFor();
    }
    assert.deepEqual(page.complaints, []);
  });

  it("asks every few seconds where there is no stream", async () => {
    const alone = await openPage(browser, server);
    await alone.route("**/stream", (route) => route.fulfill({ status: 429, json: { code: "too_many", detail: "" } }));
    await signIn(alone, server);
    await alone.goto(server.base + path());
    await settle(alone);
    await alone.getByRole("listitem").getByRole("link", { name: /attempt/ }).first().waitFor();
    await test(api, home.at, hook);
    await alone.getByRole("button", { name: "Show 1 new" }).waitFor();
    await alone.context().close();
  });
});
