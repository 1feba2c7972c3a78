// Somebody new, from `make run` (once it is built) to a delivery that an endpoint of his own has verified: the steps of
// README.md, by the clock.
import assert from "node:assert/strict";
import { it } from "node:test";
import { binary, freePort, openBrowser, openPage, run, settle } from "./support.mjs";

/** Milliseconds a key takes: nobody types faster than they read. */
const TYPING = 60;
const GOAL_SECONDS = 180;

it("is at a verified delivery within three minutes", { timeout: 240_000 }, async (context) => {
  const began = Date.now();
  const steps = [];
  const step = (name) => steps.push(`${name} ${((Date.now() - began) / 1_000).toFixed(1)} s`);
  const demo = run(binary, ["demo", "--listen", "127.0.0.1:0"]);
  const [, base, email, password] = await demo.line(/^Pages +(\S+) +\(sign in as (\S+), password (\S+)\)/, 60_000);
  step("the demo runs");
  const browser = await openBrowser();
  let receiver;
  try {
    const page = await openPage(browser, { base });
    const type = async (label, value) => page.getByLabel(label).pressSequentially(value, { delay: TYPING });
    await page.goto(base);
    await type("E-mail address", email);
    await type("Password", password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
    step("signed in");
    await page.getByRole("link", { name: "semicomplete.com" }).first().click();
    await page.getByRole("link", { name: "Add webhook" }).click();
    const port = await freePort();
    await type("Endpoint address", `http://127.0.0.1:${port}/hook`);
    await page.getByRole("button", { name: "Add another trigger" }).click();
    await page.getByRole("button", { name: "Create webhook" }).click();
    const secret = await page.getByText(/^whsec_/).textContent();
    step("the webhook is made");
    receiver = run(binary, ["receive", "--listen", `127.0.0.1:${port}`, "--secret", secret]);
    await receiver.line(/Listening on/);
    step("the endpoint listens");
    await page.getByRole("button", { name: "Send test" }).click();
    await page.getByText(/Delivered: the endpoint answered 200/).waitFor();
    await receiver.line(/ test .* verified /);
    step("a test is verified");
    // The demo's goals are completed all the time: what fires by itself comes too.
    await receiver.line(/ goal_completion .* verified /, 90_000);
    step("an event that happened is verified");
    await settle(page);
    assert.deepEqual(page.complaints, []);
    context.diagnostic(steps.join("; "));
    assert.ok(Date.now() - began < GOAL_SECONDS * 1_000, steps.join("; "));
  } finally {
    await browser.close();
    await receiver?.stop();
    await demo.interrupt();
  }
});
