// Behind a proxy that gives Pulsehook a path of its own: links, files and the API stay below it.
import assert from "node:assert/strict";
import { createServer, request as ask } from "node:http";
import { it } from "node:test";
import { openBrowser, openPage, setUp, settle, signIn, startServer } from "./support.mjs";

it("works below a path", async () => {
  let own;
  const proxy = createServer((request, response) => {
    if (!request.url.startsWith("/hooks/")) return response.writeHead(418).end();
    const { hostname, port } = new URL(own);
    const onward = ask({ hostname, port, method: request.method, path: request.url.slice("/hooks".length), headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(onward);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${proxy.address().port}/hooks`;
  const server = await startServer({ below: base });
  own = server.own;
  const browser = await openBrowser();
  try {
    const api = await setUp(server);
    await api("POST", "/api/sites", { domain: "example.com" });
    const page = await openPage(browser, server);
    const refused = [];
    page.on("response", (response) => { if (response.status() === 418) refused.push(response.url()); });
    await signIn(page, server);
    await page.getByRole("link", { name: "example.com" }).click();
    await page.getByRole("link", { name: "Add webhook" }).click();
    await page.waitForURL(`${base}/sites/example.com/webhooks/new`);
    await page.reload();
    await page.getByLabel("Endpoint address").waitFor();
    await settle(page);
    await page.context().clearCookies();
    await page.goto(`${base}/account/keys`);
    await page.getByLabel("E-mail address").fill("ada@example.com");
    await page.getByLabel("Password").fill("correct horse battery");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { level: 1, name: "API keys" }).waitFor();
    assert.equal(page.url(), `${base}/account/keys`);
    await page.goto(`${base}/docs`);
    await page.getByRole("heading", { level: 1, name: "API reference" }).waitFor();
    assert.deepEqual(refused, []);
    assert.deepEqual(page.complaints, []);
  } finally {
    await browser.close();
    await server.stop();
    proxy.close();
    proxy.closeAllConnections();
  }
});
