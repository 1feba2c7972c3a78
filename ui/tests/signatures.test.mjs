// What the page on signatures shows is run as it stands: each snippet gets a real delivery, and one that was tampered with.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { furnish, openBrowser, openPage, run, setUp, signIn, startEndpoint, startServer, test } from "./support.mjs";

const snippet = (name) => fileURLToPath(new URL(`../src/snippets/${name}`, import.meta.url));
const root = fileURLToPath(new URL("../..", import.meta.url));

/** How each is started on a port; `folder` is one to build in. */
const RECEIVERS = {
  Node: (folder) => {
    copyFileSync(snippet("verify.js"), join(folder, "verify.mjs"));
    symlinkSync(join(root, "ui/node_modules"), join(folder, "node_modules"));
    return ["node", [join(folder, "verify.mjs")]];
  },
  Python: () => ["python3", [snippet("verify.py")]],
  Go: (folder) => {
    execFileSync("go", ["build", "-o", join(folder, "verify"), snippet("verify.go")], { env: { ...process.env, GO111MODULE: "off", GOFLAGS: "" } });
    return [join(folder, "verify"), []];
  },
  Ruby: () => ["ruby", [snippet("verify.rb")]],
  PHP: (_, port) => ["php", ["-S", `127.0.0.1:${port}`, snippet("verify.php")]],
  Rust: () => [process.env.PULSEHOOK_VERIFY_EXAMPLE ?? join(root, "target/debug/examples/verify"), []],
};

describe("a delivery's signature", () => {
  let server, endpoint, delivered, secret;
  before(async () => {
    endpoint = await startEndpoint();
    server = await startServer();
    const api = await setUp(server);
    const { at, webhooks } = await furnish(api, 1, endpoint);
    secret = webhooks[0].signing_secret;
    await test(api, at, webhooks[0]);
    [delivered] = endpoint.arrived;
  });
  after(async () => {
    await server.stop();
    await endpoint.stop();
  });

  for (const [language, receiver] of Object.entries(RECEIVERS)) {
    it(`is verified by the snippet for ${language}`, async () => {
      const folder = mkdtempSync(join(tmpdir(), "pulsehook-snippet-"));
      const port = await new Promise((resolve) => {
        const probe = createServer().listen(0, "127.0.0.1", () => {
          const { port } = probe.address();
          probe.close(() => resolve(port));
        });
      });
      const [command, args] = receiver(folder, port);
      const child = run(command, args, { env: { ...process.env, PORT: String(port), PULSEHOOK_WEBHOOK_SECRET: secret } });
      const names = ["content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-event-type"];
      const headers = Object.fromEntries(names.map((name) => [name, delivered.headers[name]]));
      const post = async (changed = {}, body = delivered.body) => {
        for (let tries = 0; ; tries += 1) {
          try {
            return (await fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers: { ...headers, ...changed }, body })).status;
          } catch (error) {
            // It may not listen yet.
            if (tries > 100) throw new Error(child.lines.join("\n") || String(error));
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        }
      };
      try {
        assert.equal(await post(), 204);
        assert.equal(await post({}, Buffer.concat([delivered.body, Buffer.from(" ")])), 401);
        assert.equal(await post({ "webhook-id": "another" }), 401);
        assert.equal(await post({ "webhook-timestamp": String(Number(headers["webhook-timestamp"]) - 3_600) }), 401);
        assert.equal(await post({ "webhook-signature": `v1,${Buffer.alloc(32).toString("base64")}` }), 401);
      } finally {
        await child.stop();
        rmSync(folder, { recursive: true, force: true });
      }
    });
  }

  it("is verified in the browser", async () => {
    const browser = await openBrowser();
    const page = await openPage(browser, server);
    try {
      await signIn(page, server);
      await page.goto(`${server.base}/help/signatures`);
      await page.getByLabel("Secret").fill(secret);
      for (const name of ["webhook-id", "webhook-timestamp", "webhook-signature"]) await page.getByLabel(name).fill(delivered.headers[name]);
      await page.getByLabel("Body, exactly as it came").fill(delivered.body.toString());
      await page.getByRole("button", { name: "Verify" }).click();
      await page.getByText("The signature is valid.").waitFor();
      await page.getByLabel("webhook-id").fill("another");
      await page.getByRole("button", { name: "Verify" }).click();
      await page.getByText("The signature does not match.").waitFor();
      await page.getByLabel("Secret").fill("whsec_%%%");
      await page.getByRole("button", { name: "Verify" }).click();
      await page.getByText("goes on in base64").waitFor();
      assert.deepEqual(page.complaints, []);
    } finally {
      await browser.close();
    }
  });
});
