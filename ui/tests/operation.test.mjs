// Whoever runs several nodes sees each of them, what they owe, and who is missing.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { furnish, openBrowser, openPage, pageView, setUp, signIn, startEndpoint, startPostgres, startServer, violations } from "./support.mjs";

describe("an installation of two nodes", () => {
  let postgres, browser, endpoint, first, second, api, home;
  before(async () => {
    [postgres, browser, endpoint] = await Promise.all([startPostgres(), openBrowser(), startEndpoint(503)]);
    postgres.query("postgres", "CREATE DATABASE pulsehook");
    const settings = ["--database-url", `${postgres.url}/pulsehook`, "--master-key", randomBytes(32).toString("base64")];
    first = await startServer({ settings });
    api = await setUp(first);
    second = await startServer({ settings, settled: true });
    home = await furnish(api, 1, endpoint);
  });
  after(async () => {
    await browser?.close();
    await first?.stop();
    await second?.stop();
    await endpoint?.stop();
    await postgres?.stop();
  });

  it("shows both nodes, the queue and the traffic, and that one is missing", { timeout: 120_000 }, async () => {
    const page = await openPage(browser, first);
    await signIn(page, first);
    await page.goto(`${first.base}/operation`);
    const nodes = page.getByRole("group", { name: "Nodes" }).getByRole("row");
    await page.getByText("256 of 256 shards are worked for.").waitFor();
    await nodes.filter({ hasText: "Alive" }).nth(1).waitFor();
    // They share evenly, once the first has given half of them back.
    await nodes.filter({ hasText: "128" }).nth(1).waitFor({ timeout: 30_000 });
    await page.getByText("Nothing is owed").waitFor();
    await api("POST", `${home.at}/webhooks/${home.webhooks[0].id}/test`);
    await pageView(first);
    await page.getByText(/^The oldest (is|was) due /).waitFor();
    await page.getByText("1 in the last hour").waitFor();
    assert.deepEqual(await violations(page), []);
    await second.stop();
    await nodes.filter({ hasText: "Missing" }).waitFor({ timeout: 40_000 });
    await page.getByText("256 of 256 shards are worked for.").waitFor({ timeout: 40_000 });
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  it("tells an editor nothing of other nodes", async () => {
    const { key } = await api("POST", "/api/keys", { name: "Editor", role: "editor" });
    const answer = await fetch(`${first.own}/api/operation`, { headers: { authorization: `Bearer ${key}` } });
    assert.equal(answer.status, 403);
  });
});
