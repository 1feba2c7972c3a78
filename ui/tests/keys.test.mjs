// Shortcuts, and the palette: everything by keyboard, nothing in the way of whoever types.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { openBrowser, settle, startStage, violations } from "./support.mjs";

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

describe("by keys", () => {
  let server, page, hook, stop;
  before(async () => { ({ server, page, hook, stop } = await startStage(browser, 2)); });
  after(() => stop());
  const at = (path) => page.waitForURL(server.base + path);
  const field = () => page.getByRole("combobox", { name: "Go to" });

  it("the palette is loaded when it is asked for, finds by name, and goes there", async () => {
    const scripts = [];
    page.on("request", (request) => { if (/palette.*\.js/.test(request.url())) scripts.push(request.url()); });
    await settle(page);
    assert.equal(scripts.length, 0);
    await page.keyboard.press("Control+k");
    await field().waitFor();
    assert.equal(scripts.length, 1);
    assert.ok(await field().evaluate((element) => element === document.activeElement));
    assert.deepEqual(await violations(page), []);
    await page.keyboard.type("chat web");
    const option = page.getByRole("listbox").getByRole("option", { name: /Chat room/ });
    await page.getByRole("listbox").getByRole("option").nth(1).waitFor({ state: "detached" });
    await option.waitFor();
    assert.equal(await field().getAttribute("aria-activedescendant"), await option.getAttribute("id"));
    await page.keyboard.press("Enter");
    await at(`/sites/example.com/webhooks/${hook.id}`);
    await page.keyboard.press("Control+k");
    await page.keyboard.type("nothing is called that");
    await page.getByText("Nothing is called that.").waitFor();
    await page.keyboard.press("Escape");
    await page.locator('dialog[open], dialog:has(kbd), dialog:has([role="combobox"])').first().waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Search" }).click();
    await field().fill("deliver");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowUp");
    await page.getByRole("listbox").getByRole("option", { name: /^Deliveries/ }).click();
    await at("/sites/example.com/deliveries");
    await page.keyboard.press("/");
    await field().fill("dark");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  });

  it("pairs of letters go to pages, and whoever types is left alone", async () => {
    for (const [keys, path] of [["gw", "/sites/example.com/webhooks"], ["gg", "/sites/example.com/goals"], ["gd", "/sites/example.com/deliveries"], ["c", "/sites/example.com/webhooks/new"]]) {
      for (const key of keys) await page.keyboard.press(key);
      await at(path);
    }
    await page.getByLabel("Name", { exact: true }).focus();
    await page.keyboard.type("go/?c");
    assert.equal(await page.getByLabel("Name", { exact: true }).inputValue(), "go/?c");
    await at("/sites/example.com/webhooks/new");
    assert.equal(await page.getByRole("dialog").count(), 0);
    await page.getByRole("heading", { level: 1 }).click();
    for (const key of "gs") await page.keyboard.press(key);
    await at("/sites");
    for (const key of "go") await page.keyboard.press(key);
    await at("/");
  });

  it("single letters can be switched off", async () => {
    await page.keyboard.press("?");
    const help = page.getByRole("dialog", { name: "Keyboard shortcuts" });
    await help.waitFor();
    assert.deepEqual(await violations(page), []);
    await help.getByRole("checkbox", { name: "Use single letters as shortcuts" }).uncheck();
    await page.keyboard.press("Escape");
    await page.locator('dialog[open], dialog:has(kbd), dialog:has([role="combobox"])').first().waitFor({ state: "detached" });
    for (const key of "gs?") await page.keyboard.press(key);
    await settle(page);
    assert.equal(await page.getByRole("dialog").count(), 0);
    assert.equal(new URL(page.url()).pathname, "/");
    await page.reload();
    await settle(page);
    await page.keyboard.press("?");
    await page.keyboard.press("Control+k");
    await field().fill("shortcuts");
    await page.keyboard.press("Enter");
    await help.getByRole("checkbox").check();
    await page.keyboard.press("Escape");
    await page.locator('dialog[open], dialog:has(kbd), dialog:has([role="combobox"])').first().waitFor({ state: "detached" });
    for (const key of "gs") await page.keyboard.press(key);
    await at("/sites");
    assert.deepEqual(page.complaints, []);
  });
});
