// Pictures of every page in light and dark, with 0, 1 and 10 webhooks, on a desk and on a phone, and in every state that
// `states.mjs` brings about, to be looked at.
// Usage: node tests/screenshots.mjs [FOLDER] [PART]: `pages` or `states` for one of the two.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { backtest, furnished } from "./routes.mjs";
import { admitViewer, each, states, VIEWER, viewed } from "./states.mjs";
import { openBrowser, openPage, setUp, settle, signIn, startServer } from "./support.mjs";

const [folder = "screenshots", part = "all"] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const browser = await openBrowser();
let taken = 0;
const shoot = async (page, name) => {
  // What sticks to the top of the window is at the top of the page.
  await page.evaluate(() => window.scrollTo({ top: 0, behavior: "instant" }));
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  taken += 1;
};

const VIEWS = [["light", "desktop"], ["dark", "desktop"], ["light", "phone"], ["dark", "phone"]];
const fresh = part === "states" ? null : await startServer();
for (const theme of fresh ? ["light", "dark"] : []) {
  const page = await openPage(browser, fresh, { theme });
  await page.goto(fresh.link);
  await settle(page);
  await shoot(page, `setup-${theme}`);
  await page.goto(`${fresh.base}/setup`);
  await settle(page);
  await shoot(page, `setup-no-link-${theme}`);
  await page.goto(`${fresh.base}/sign-up`);
  await settle(page);
  await shoot(page, `sign-up-${theme}`);
  await page.goto(`${fresh.base}/invitation?token=wrong`);
  await settle(page);
  await shoot(page, `invitation-wrong-${theme}`);
  await page.goto(`${fresh.base}/sign-in`);
  await page.getByLabel("E-mail address").fill("ada@example.com");
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  await shoot(page, `sign-in-error-${theme}`);
  await page.context().close();
}
await fresh?.stop();

for (const count of part === "states" ? [] : [0, 1, 10]) {
  const full = await furnished(count);
  for (const [theme, size] of VIEWS) {
    const page = await openPage(browser, full.server, { theme, size });
    await signIn(page, full.server);
    await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
    for (const [name, path] of Object.entries(full.routes)) {
      await page.goto(full.server.base + path);
      await settle(page);
      if (name.endsWith("trigger")) await page.locator("figure canvas").waitFor();
      await shoot(page, `${name}-${count}-${theme}-${size}`);
    }
    if (count === 1) {
      await page.goto(full.server.base + full.routes["new-trigger"]);
      const kind = page.getByLabel("Tell me when");
      for (const type of await kind.evaluate((select) => [...select.options].map(({ value }) => value))) {
        await kind.selectOption(type);
        await settle(page);
        await shoot(page, `new-trigger-${type}-${theme}-${size}`);
      }
    }
    await page.goto(full.server.base);
    await settle(page);
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Go to" }).waitFor();
    await settle(page);
    await page.screenshot({ path: join(folder, `palette-${count}-${theme}-${size}.png`) });
    await page.keyboard.press("Escape");
    await page.locator("dialog").waitFor({ state: "detached" });
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keyboard shortcuts" }).waitFor();
    await page.screenshot({ path: join(folder, `shortcuts-${count}-${theme}-${size}.png`) });
    taken += 2;
    await page.goto(`${full.server.base}/sites/example.com/webhooks/new`);
    await page.getByLabel("Endpoint address").fill("https://10.0.0.1/hook");
    await page.getByLabel("Name", { exact: true }).focus();
    await page.getByText("Webhooks may not reach this address.").waitFor();
    await page.getByRole("button", { name: "Create webhook" }).click();
    await page.getByText(/Endpoint address .*\./).last().waitFor();
    await shoot(page, `new-webhook-error-${count}-${theme}-${size}`);
    await page.context().close();
  }
  await full.stop();
}
if (part !== "pages") {
  // What is shown before anybody is signed in, once more: where signing up is open, and to somebody who is invited.
  const open = await startServer({ settings: ["--sign-up", "true"] });
  const api = await setUp(open);
  const { link } = await api("POST", "/api/invitations", { email: VIEWER, role: "editor" });
  for (const [theme, size] of VIEWS) {
    const page = await openPage(browser, open, { theme, size });
    for (const [name, address] of [["sign-in", "/sign-in"], ["sign-up-open", "/sign-up"], ["invitation", new URL(link).pathname + new URL(link).search]]) {
      await page.goto(open.base + address);
      await settle(page);
      await shoot(page, `${name}-${theme}-${size}`);
    }
    await page.context().close();
  }
  await open.stop();

  const full = await furnished(10);
  await admitViewer(full);
  for (const [theme, size] of VIEWS) {
    const sets = [[VIEWER, viewed(full)], [undefined, states(full)]];
    for (const [email, found] of sets) {
      const page = await openPage(browser, full.server, { theme, size });
      await signIn(page, full.server, { email });
      const dialogs = /^(dialog|menu|palette|away$|loading)/;
      await each(page, found, async (name) => {
        if (!dialogs.test(name)) return shoot(page, `${name}-${theme}-${size}`);
        // As much as the window shows: behind it the page cannot be scrolled.
        await page.screenshot({ path: join(folder, `${name}-${theme}-${size}.png`) });
        taken += 1;
      });
      await page.context().close();
    }
  }
  await full.stop();
}
await browser.close();
console.log(`${taken} pictures in ${folder}`);
