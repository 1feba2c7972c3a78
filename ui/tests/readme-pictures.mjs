// The three pictures of the README, taken anew. Usage: node tests/readme-pictures.mjs [FOLDER]
import { join } from "node:path";
import { backtest, furnished } from "./routes.mjs";
import { openBrowser, openPage, settle, signIn, test } from "./support.mjs";

const folder = process.argv[2] ?? "../docs/images";
const browser = await openBrowser();
const full = await furnished(5);
const page = await openPage(browser, full.server);
await page.setViewportSize({ width: 1120, height: 760 });
// The first one has got over it.
const { webhook } = await full.api("GET", `${full.home.at}/webhooks/${full.home.webhooks[0].id}`);
await full.api("PATCH", `${full.home.at}/webhooks/${webhook.id}`, { url: webhook.url.replace(/\/answers\/\d+$/, "") });
await test(full.api, full.home.at, webhook);
await signIn(page, full.server);
// Endpoints as somebody else would have them: those of this run are on this machine.
const shown = { "Chat room": "https://hooks.example.com/pulse", Warehouse: "https://warehouse.example.com/in", "Paged at night": "https://pager.example.com/v2/enqueue", CRM: "https://crm.example.com/hooks/pulse" };
await page.route("**/api/sites/*/webhooks", async (route) => {
  const answer = await route.fetch();
  const told = await answer.json();
  for (const webhook of told.webhooks) {
    if (webhook.name.startsWith("The channel")) Object.assign(webhook, { name: "Marketing's channel", url: "https://chat.example.com/rooms/42" });
    if (shown[webhook.name]) webhook.url = shown[webhook.name];
  }
  await route.fulfill({ response: answer, json: told });
});
await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
const take = (name, whole) => page.screenshot({ path: join(folder, `${name}.png`), fullPage: whole });

await page.goto(full.server.base + full.routes.webhooks);
await settle(page);
await take("webhooks", true);
await page.goto(full.server.base + full.routes["new-trigger"]);
await page.locator("figure canvas").waitFor();
await settle(page);
await take("trigger", true);
await page.goto(full.server.base + full.routes.inbox);
await settle(page);
await take("inbox", false);
await browser.close();
await full.stop();
