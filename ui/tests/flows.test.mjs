// What an owner does, in a real browser against the real binary.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Webhook } from "standardwebhooks";
import { EMAIL, PASSWORD, ended, importHistory, openBrowser, openPage, pageView, settle, setUp, signIn, startEndpoint, startReceiver, startServer, startStage, test, violations } from "./support.mjs";

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

describe("an owner", () => {
  it("goes from the one-time link to a delivery that is seen, then resends it", async () => {
    const receiver = await startReceiver();
    const server = await startServer({ settings: ["--egress-ca", receiver.authority] });
    const page = await openPage(browser, server);
    try {
      await page.goto(server.link);
      await page.getByLabel("Account name").fill("Analytical Engines");
      await page.getByLabel("E-mail address").fill(EMAIL);
      await page.getByLabel("Password").fill("short");
      await page.getByRole("button", { name: "Create account" }).click();
      await page.getByText("Password must be at least 12 characters").waitFor();
      await page.getByLabel("Password").fill(PASSWORD);
      await page.getByRole("button", { name: "Create account" }).click();
      await page.getByText(/^phk_/).waitFor();
      assert.equal(new URL(page.url()).search, "", "the used link stays in no history");
      await page.goto(`${server.base}/sites/new`);

      await page.getByLabel("Domain").fill("https://www.example.com/");
      await page.getByRole("button", { name: "Add site" }).click();
      await page.getByText("Waiting for the first event").waitFor();
      await pageView(server);
      await page.getByText("Events arrive.").waitFor();

      await page.getByRole("link", { name: "Add webhook" }).click();
      await page.getByLabel("Endpoint address").fill("https://10.0.0.1/hook");
      await page.getByLabel("Name", { exact: true }).focus();
      await page.getByText("Webhooks may not reach this address.").waitFor();
      await page.getByLabel("Endpoint address").fill(receiver.url);
      await page.getByLabel("Name", { exact: true }).fill("My hook");
      await page.getByText("The address works.").waitFor();
      await page.getByLabel("Percent above it").fill("120");
      await page.getByRole("button", { name: "Add another trigger" }).click();
      await page.getByRole("button", { name: "Add another trigger" }).click();
      await page.getByRole("button", { name: "Create webhook" }).click();
      await page.getByText("This trigger is identical to another trigger of this webhook.").waitFor();
      await page.getByRole("button", { name: "Remove this trigger" }).last().click();
      await page.getByText(/When current visitors are 120\s% or more/).first().waitFor();
      await page.getByRole("button", { name: "Create webhook" }).click();

      const secret = await page.getByText(/^whsec_/).textContent();
      await page.getByRole("heading", { level: 1, name: "My hook" }).waitFor();
      await page.getByText("Never used").waitFor();
      await page.getByRole("button", { name: "Send test" }).click();
      await page.getByText(/Delivered: the endpoint answered 200/).waitFor();
      await receiver.line(/ test /);
      await page.getByRole("link", { name: "See the delivery" }).click();
      await page.getByRole("heading", { level: 1, name: "Test event" }).waitFor();
      await page.getByText("Attempt 1 answered 200").waitFor();
      assert.equal(await page.getByText(secret).count(), 0);
      await page.goBack();
      await page.getByRole("heading", { level: 1, name: "My hook" }).waitFor();
      assert.equal(await page.getByText(secret).count(), 0, "a secret is forgotten when its page is left");
      const kept = await page.evaluate(() => JSON.stringify([history.state, { ...localStorage }, { ...sessionStorage }, location.href]));
      assert.ok(!kept.includes("whsec_"), kept);

      await page.goForward();
      await page.getByRole("button", { name: "Resend", exact: true }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Resend" }).click();
      await page.getByText("Attempt 2 answered 200").waitFor();
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
      await server.stop();
      await receiver.stop();
    }
  });

  it("sees a signed delivery in the built-in inbox without an endpoint, from the one-time link on, in one flow", async (context) => {
    const server = await startServer({ strict: true });
    const page = await openPage(browser, server);
    let clicks = 0;
    const click = async (what) => {
      await what.click();
      clicks += 1;
    };
    const button = (name) => page.getByRole("button", { name });
    try {
      await page.goto(server.link);
      await page.getByLabel("Account name").fill("Analytical Engines");
      await page.getByLabel("E-mail address").fill(EMAIL);
      await page.getByLabel("Password").fill(PASSWORD);
      await click(button("Create account"));
      await click(page.getByRole("link", { name: "Go on to the first delivery" }));
      await page.getByLabel("Domain").fill("example.com");
      await click(button("Add site"));
      await page.getByText("Waiting for the first event").waitFor();
      await pageView(server);
      await page.getByText("Events arrive.").waitFor();
      await click(button("Go on"));
      assert.equal(await page.getByRole("radio", { name: /built-in inbox/ }).isChecked(), true);
      await click(button("Go on"));
      await page.getByLabel("Tell me when").selectOption("visitor_drop");
      await click(button("Create webhook"));
      await page.getByText("Nothing arrived yet").waitFor();
      const secret = await page.getByText(/^whsec_/).textContent();
      const began = Date.now();
      await click(button("Send test"));
      await page.getByText("Signature verified", { exact: true }).waitFor();
      const took = Date.now() - began;
      context.diagnostic(`in the inbox ${took} ms after the click, ${clicks} clicks from the link on`);
      await page.getByText("It works").waitFor();
      assert.ok(clicks <= 12, `${clicks} clicks`);

      // What is shown is what was signed: whoever copies it can verify it himself.
      const headers = await page.getByRole("group", { name: "Headers" }).textContent();
      const header = (name) => new RegExp(`^${name}: (.*)$`, "m").exec(headers)[1];
      await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
      await page.getByRole("button", { name: "Copy as it came" }).click();
      const body = await page.evaluate(() => navigator.clipboard.readText());
      const names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
      new Webhook(secret).verify(body, Object.fromEntries(names.map((name) => [name, header(name)])));
      assert.throws(() => new Webhook(secret).verify(`${body} `, Object.fromEntries(names.map((name) => [name, header(name)]))));

      // Reloaded it goes on where it was, without the secret.
      await page.reload();
      await page.getByText("Signature verified", { exact: true }).waitFor();
      assert.equal(await page.getByText(/^whsec_/).count(), 0);
      await page.getByRole("button", { name: "Send test" }).click();
      await page.getByRole("link", { name: "Open the webhook" }).click();
      await page.getByRole("heading", { level: 1, name: "Built-in inbox" }).waitFor();
      await page.getByText("Signature verified", { exact: true }).nth(1).waitFor();
      assert.deepEqual(await violations(page), []);
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
      await server.stop();
    }
  });

  it("is led back to the address that is refused, and on to an endpoint of its own", async () => {
    const receiver = await startReceiver();
    const server = await startServer({ settings: ["--egress-ca", receiver.authority] });
    const page = await openPage(browser, server);
    try {
      await setUp(server);
      await signIn(page, server);
      await page.getByRole("link", { name: "Start" }).click();
      await page.getByLabel("Domain").fill("example.com");
      await page.getByRole("button", { name: "Add site" }).click();
      await page.getByRole("button", { name: "Go on without traffic" }).click();
      await page.getByRole("radio", { name: /My endpoint/ }).check();
      await page.getByLabel("Endpoint address").fill("https://10.0.0.1/hook");
      await page.getByText("Webhooks may not reach this address.").waitFor();
      await page.getByRole("button", { name: "Go on" }).click();
      await page.getByRole("button", { name: "Create webhook" }).click();
      await page.getByText(/Endpoint address is inside a private network/).waitFor();
      await page.getByLabel("Endpoint address").fill(receiver.url);
      await page.getByText("The address works.").waitFor();
      await page.getByRole("button", { name: "Go on" }).click();
      await page.getByRole("button", { name: "Create webhook" }).click();
      await page.getByRole("button", { name: "Send test" }).click();
      await page.getByText(/Delivered: the endpoint answered 200/).waitFor();
      await page.getByText("It works").waitFor();
      assert.deepEqual(await violations(page), []);
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
      await server.stop();
      await receiver.stop();
    }
  });

  it("does the same by keyboard alone: create, test, resend", async () => {
    const endpoint = await startEndpoint();
    const server = await startServer();
    const api = await setUp(server);
    await api("POST", "/api/sites", { domain: "example.com" });
    const page = await openPage(browser, server);
    const reach = async (what, most = 60) => {
      const target = await what.elementHandle();
      for (let presses = 0; presses < most; presses += 1) {
        if (await target.evaluate((element) => element === document.activeElement)) return;
        await page.keyboard.press("Tab");
      }
      throw new Error(`the keyboard does not reach ${what}`);
    };
    try {
      await page.goto(`${server.base}/sites/example.com/webhooks`);
      await page.getByLabel("E-mail address").waitFor();
      await reach(page.getByLabel("E-mail address"));
      await page.keyboard.type(EMAIL);
      await page.keyboard.press("Tab");
      await page.keyboard.type(PASSWORD);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { level: 1, name: "Webhooks" }).waitFor();
      await settle(page);
      await reach(page.getByRole("link", { name: "Add webhook" }));
      await page.keyboard.press("Enter");
      await page.getByLabel("Endpoint address").waitFor();
      await reach(page.getByLabel("Endpoint address"));
      await page.keyboard.type(endpoint.url);
      await reach(page.getByRole("button", { name: "Create webhook" }));
      await page.keyboard.press("Space");
      await page.getByRole("button", { name: "Send test" }).waitFor();
      await reach(page.getByRole("button", { name: "Send test" }));
      await page.keyboard.press("Enter");
      await page.getByText(/Delivered: the endpoint answered 200/).waitFor();
      await reach(page.getByRole("link", { name: "See the delivery" }));
      await page.keyboard.press("Enter");
      const resend = page.getByRole("button", { name: "Resend", exact: true });
      await resend.waitFor();
      await reach(resend);
      await page.keyboard.press("Enter");
      await reach(page.getByRole("dialog").getByRole("button", { name: "Resend" }));
      await page.keyboard.press("Enter");
      await page.getByText("Attempt 2 answered 200").waitFor();
      // The attempt may be seen before the dialog has its answer.
      await page.getByRole("dialog").waitFor({ state: "hidden" });
      assert.ok(await resend.evaluate((element) => element === document.activeElement), "focus comes back from a dialog");
      assert.equal(endpoint.arrived.length, 2);
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
      await server.stop();
      await endpoint.stop();
    }
  });
});

describe("a webhook's page", () => {
  let server, api, endpoint, page, home, hook, stop;
  before(async () => {
    ({ server, api, endpoint, page, home, hook, stop } = await startStage(browser, 2));
  });
  after(() => stop());
  const open = async (search = "") => {
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}${search}`);
    await page.getByRole("heading", { level: 1, name: "Chat room" }).waitFor();
    await settle(page);
  };

  it("pauses, resumes, rotates, edits, and adds and removes triggers", async () => {
    await open();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByText("By hand; nothing is sent").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByText("Never used").waitFor();
    await page.getByRole("button", { name: "Rotate secret" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Rotate secret" }).click();
    await page.getByText(/^whsec_/).waitFor();
    await page.getByText(/The previous secret signs too until/).waitFor();

    await page.getByRole("link", { name: "Add trigger" }).click();
    await page.getByLabel("Tell me when").selectOption("webhook_health");
    await page.getByRole("button", { name: "Add trigger" }).click();
    await page.getByText("When another webhook of this account fails for long").waitFor();
    await page.getByRole("button", { name: "Delete Webhook health" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    await page.getByText("When another webhook of this account fails for long").waitFor({ state: "detached" });
    await page.getByRole("link", { name: "Edit Visitor spike" }).click();
    await page.getByLabel("Percent above it").fill("20000");
    await page.getByRole("button", { name: "Save" }).click();
    assert.equal(await page.getByLabel("Percent above it").evaluate((input) => input.validity.rangeOverflow), true);
    await page.getByLabel("Percent above it").fill("75");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText(/When current visitors are 75\s% or more/).waitFor();

    await page.getByRole("link", { name: "Edit", exact: true }).click();
    await page.getByLabel("Name", { exact: true }).fill("Chat room of the team");
    await page.getByRole("button", { name: "Add header" }).click();
    await page.getByLabel("Header name").fill("X-Team");
    await page.getByLabel("Value").fill("growth");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: "Chat room of the team" }).waitFor();
    await page.getByText("X-Team").waitFor();
    await api("PATCH", `${home.at}/webhooks/${hook.id}`, { name: "Chat room" });
  });

  it("says what is wrong in words, keeps filters in the address, and resends what failed", async () => {
    endpoint.status = 410;
    const failed = await test(api, home.at, hook);
    assert.equal(failed.status, "failed");
    await open();
    await page.getByText("Disabled", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Enable" }).click();
    await page.getByRole("button", { name: "Pause" }).waitFor();
    endpoint.status = 200;
    await test(api, home.at, hook);
    await page.getByRole("combobox", { name: "Status" }).selectOption("failed");
    await page.waitForURL(/status=failed/);
    await page.getByText("1 in all").waitFor();
    await page.reload();
    await page.getByText("1 in all").waitFor();
    assert.equal(await page.getByRole("combobox", { name: "Status" }).inputValue(), "failed");
    await page.getByRole("listitem").getByRole("link", { name: /Failed/ }).click();
    await page.getByText("says it is gone for good (410)").first().waitFor();
    await page.getByText("the disk is full").waitFor();
    await page.goBack();
    await page.waitForURL(/status=failed/);

    await page.getByRole("button", { name: "Resend several" }).click();
    await page.getByText("1 would be sent again.").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Resend" }).click();
    await page.getByText("1 of 1 put into the queue").waitFor();
    await page.getByRole("button", { name: "Clear filters" }).click();
    await page.getByText("2 in all").waitFor();
  });

  it("has a sister for the whole site, whose filters are in the address too", async () => {
    await test(api, home.at, home.webhooks[1]);
    await page.goto(`${server.base}/sites/example.com/deliveries`);
    await page.getByText("3 in all").waitFor();
    const rows = page.getByRole("listitem").getByRole("link", { name: /attempt/ });
    assert.equal(await rows.filter({ hasText: "Chat room" }).count(), 2);
    assert.equal(await rows.filter({ hasText: "The channel in which marketing" }).count(), 1);
    await page.getByRole("combobox", { name: "Webhook" }).selectOption(home.webhooks[1].id);
    await page.waitForURL(/webhook_id=/);
    await page.getByText("1 in all").waitFor();
    await page.getByRole("combobox", { name: "Status" }).selectOption("failed");
    await page.getByText("No delivery matches").waitFor();
    await page.reload();
    await page.getByText("No delivery matches").waitFor();
    assert.equal(await page.getByRole("combobox", { name: "Webhook" }).inputValue(), home.webhooks[1].id);
    await page.getByRole("button", { name: "Clear filters" }).click();
    await page.getByText("3 in all").waitFor();
    assert.equal(new URL(page.url()).search, "");
    // What comes while it is open waits for a click here too.
    await test(api, home.at, home.webhooks[1]);
    await page.getByRole("button", { name: "Show 1 new" }).click();
    await page.getByText("4 in all").waitFor();
    await rows.first().click();
    await page.getByRole("heading", { level: 1, name: "Test event" }).waitFor();
    await page.goBack();
    await page.getByText("4 in all").waitFor();
  });

  it("moves no row: what is new waits until somebody asks", async () => {
    await open();
    const rows = page.getByRole("listitem").getByRole("link", { name: /attempt/ });
    await rows.first().waitFor();
    const before = await rows.evaluateAll((links) => links.map((link) => link.href));
    await test(api, home.at, hook);
    await page.getByRole("button", { name: "Show 1 new" }).waitFor();
    assert.deepEqual(await rows.evaluateAll((links) => links.map((link) => link.href)), before);
    await page.getByRole("button", { name: "Show 1 new" }).click();
    await page.waitForFunction((count) => [...document.querySelectorAll('li a[href*="/deliveries/"]')].length === count, before.length + 1);
  });

  it("shows what a trigger would have done on the site's own history, and proposes a threshold", async () => {
    const path = `/sites/example.com/webhooks/${hook.id}/triggers/new`;
    await page.goto(server.base + path);
    await page.getByText("There is no traffic yet to try it on.").waitFor();
    await importHistory(server, "example.com");
    await page.reload();
    await page.getByText(/Would have fired [1-9]\d* times? in the last 10 days\./).waitFor();
    await page.getByText(/What is usual is known from/).waitFor();
    await page.locator("figure canvas").waitFor();
    // The surge of yesterday: 70 visitors.
    await page.getByRole("list", { name: "Fired" }).getByText(/: 70 visitors, \d+ expected/).first().waitFor();
    await page.getByRole("button", { name: "Show as table" }).click();
    await page.getByRole("columnheader", { name: "Usual from" }).waitFor();
    await page.getByRole("cell", { name: "70", exact: true }).first().waitFor();

    const proposal = page.getByRole("button", { name: /^At most \d+ in 30 days: / }).first();
    const wanted = (await proposal.textContent()).match(/: ([\d,]+)\s%/)[1].replaceAll(",", "");
    await proposal.click();
    assert.equal(await page.getByLabel("Percent above it").inputValue(), wanted);
    await page.getByText(/At this sensitivity noise alone fires at most about 1 time in 10 days\./).waitFor();

    // The line on the chart and the typed number are one: by keys, by typing, by pointer.
    const typed = page.getByLabel("Percent above it");
    const line = page.getByRole("slider", { name: "Threshold on the chart" });
    await page.getByRole("button", { name: "Show as chart" }).click();
    await typed.fill("60");
    await line.waitFor();
    assert.equal(await line.getAttribute("aria-valuenow"), "60");
    await line.focus();
    for (const key of ["ArrowUp", "PageUp", "ArrowDown", "ArrowDown"]) await page.keyboard.press(key);
    assert.deepEqual([await typed.inputValue(), await line.getAttribute("aria-valuetext")], ["69", "+69\u00a0%"]);
    const box = await line.boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(x, y - 20, { steps: 4 });
    await page.mouse.up();
    const dragged = Number(await typed.inputValue());
    assert.ok(dragged > 69, `${dragged}`);
    assert.equal(await line.getAttribute("aria-valuenow"), String(dragged));

    await page.getByLabel("Percent above it").fill("9000");
    await page.getByText("Would not have fired in the last 10 days.").waitFor();

    await page.getByLabel("Tell me when").selectOption("visitor_drop");
    await page.getByText(/or more below what is usual/).waitFor();
    await page.getByLabel("Sensitivity").selectOption("low");
    await page.getByLabel("Only once it has lasted").selectOption("10m");
    await page.getByLabel("Tell when it is over too").check();
    await page.getByText(/Would (not )?have fired .*in the last/).waitFor();
    await page.getByRole("button", { name: "Add trigger" }).click();
    await page.getByRole("heading", { level: 1, name: "Chat room" }).waitFor();
    await page.getByText(/Only once it has lasted 10.min\. Its end is told too\./).waitFor();
    const { webhook } = await api("GET", `${home.at}/webhooks/${hook.id}`);
    const made = webhook.triggers.find(({ type }) => type === "visitor_drop");
    assert.deepEqual([made.sensitivity, made.notify_end, /^(10m|600s)$/.test(made.min_duration)], ["low", true, true], JSON.stringify(made));
    assert.deepEqual(page.complaints, []);
  });

  it("tries other triggers on the history as well, and says what they would have told", async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}/triggers/new`);
    await page.getByLabel("Tell me when").selectOption("milestone");
    await page.getByLabel("Count", { exact: true }).selectOption("pageviews");
    await page.getByText(/Would have fired [1-9]\d* times in the last 30 days\./).waitFor();
    await page.locator("figure canvas").waitFor();
    await page.getByRole("list", { name: "Fired" }).getByText(/1,?000/).first().waitFor();
    await page.getByRole("button", { name: "Show as table" }).click();
    await page.getByRole("columnheader", { name: "Counted" }).waitFor();
    assert.deepEqual(await violations(page), []);
    // What is not said yet cannot be tried.
    await page.getByLabel("Tell me when").selectOption("custom_event");
    await page.getByRole("list", { name: "Fired" }).waitFor({ state: "detached" });
    await page.getByLabel("Event name").fill("Never heard of");
    await page.getByText("Would not have fired in the last 30 days.").waitFor();
    assert.deepEqual(page.complaints, []);
  });

  it("tells of events of one's own, with a property and only of a page, and takes a filter back", async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}/triggers/new`);
    await page.getByLabel("Tell me when").selectOption("custom_event");
    await page.getByLabel("Event name").fill("Download");
    await page.getByRole("button", { name: "Only with a property" }).click();
    await page.getByLabel("Property", { exact: true }).fill("plan");
    await page.getByLabel("Value").fill("pro");
    await page.getByLabel("Properties to tell").fill("plan, size");
    await page.getByText("Only where…").click();
    await page.getByLabel("Page").fill("/files/*");
    await page.getByLabel("Country").fill("de");
    await page.getByText("When the event “Download” happens. Only with plan pro, on /files/*, in DE.").waitFor();
    assert.deepEqual(await violations(page), []);
    await page.getByRole("button", { name: "Add trigger" }).click();
    await page.getByRole("heading", { level: 1, name: "Chat room" }).waitFor();
    await page.getByText("When the event “Download” happens.").waitFor();
    const made = async () => (await api("GET", `${home.at}/webhooks/${hook.id}`)).webhook.triggers.find(({ type }) => type === "custom_event");
    const first = await made();
    assert.deepEqual([first.event_name, first.properties, first.include_properties, first.page, first.country], ["Download", { plan: "pro" }, ["plan", "size"], "/files/*", "DE"]);
    await page.getByRole("link", { name: "Edit Custom event" }).click();
    await page.getByLabel("Country").fill("");
    await page.getByRole("button", { name: "Remove property plan" }).click();
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: "Chat room" }).waitFor();
    await page.getByText("When the event “Download” happens. Only on /files/*.").waitFor();
    const second = await made();
    assert.deepEqual([second.country ?? null, second.properties ?? {}, second.page], [null, {}, "/files/*"]);

    // It fires, and says so in the list.
    await fetch(`${server.own}/api/event`, {
      method: "POST",
      headers: { "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "x-forwarded-for": "203.0.113.77" },
      body: JSON.stringify({ name: "Download", url: "https://example.com/files/a", domain: "example.com", props: { plan: "free" } }),
    });
    await page.goto(`${server.base}/sites/example.com/deliveries?trigger_type=custom_event`);
    await page.getByRole("listitem").getByRole("link", { name: /Download happened 1 ×/ }).waitFor();
    await api("DELETE", `${home.at}/webhooks/${hook.id}/triggers/${second.id}`);
  });

  it("tells of each attempt where its time went, and in which phase one failed", async (context) => {
    const slow = await startEndpoint();
    context.after(() => slow.stop());
    slow.takes = [300, 120];
    const { webhook } = await api("POST", `${home.at}/webhooks`, { name: "Slow", url: slow.url, triggers: [{ type: "goal_completion" }] });
    const said = async (delivery) => {
      await page.goto(`${server.base}/sites/example.com/webhooks/${webhook.id}/deliveries/${delivery.id}`);
      const figure = page.getByRole("figure", { name: "Where the time went" });
      await figure.waitFor();
      // What a screen reader tells, in its order.
      const pairs = await figure.locator("dl > div").evaluateAll((rows) => rows.map((row) => ["dt", "dd"].map((name) => row.querySelector(name).textContent)));
      assert.deepEqual(await violations(page), []);
      return { figure, names: pairs.map(([name]) => name), told: Object.fromEntries(pairs) };
    };
    const opened = await said(await test(api, home.at, webhook));
    assert.deepEqual(opened.names, ["Name look-up", "Connection", "Wait for the answer", "Rest of the answer"]);
    const { attempts } = await ended(api, `${home.at}/webhooks/${webhook.id}/deliveries/${page.url().split("/").at(-1)}`);
    const { first_byte_ms, body_ms } = attempts[0].phases;
    assert.ok(first_byte_ms >= 290 && body_ms >= 110, `${first_byte_ms} and ${body_ms}`);
    const shown = (ms) => (ms < 1_000 ? `${ms} ms` : `${Math.round(ms / 100) / 10} s`);
    assert.equal(opened.told["Wait for the answer"], shown(first_byte_ms));
    assert.equal(opened.told["Rest of the answer"], shown(body_ms));
    const widths = await opened.figure.locator("svg").first().evaluate((bar) => [...bar.querySelectorAll(".fill-phase-answer")].map((part) => part.getBoundingClientRect().width / bar.getBoundingClientRect().width));
    assert.equal(widths.length, 1);
    assert.ok(Math.abs(widths[0] - first_byte_ms / attempts[0].duration_ms) < 0.02, `${widths}`);

    const kept = await said(await test(api, home.at, webhook));
    assert.deepEqual(kept.names, ["Connection", "Wait for the answer", "Rest of the answer"]);
    assert.equal(kept.told.Connection, "Connection was kept open");

    await slow.stop();
    const refused = await said(await test(api, home.at, webhook));
    assert.deepEqual(refused.names, ["Name look-up", "Connection"]);
    assert.match(refused.told.Connection, /and failed$/);
    await api("DELETE", `${home.at}/webhooks/${webhook.id}`);
  });

  it("shows around a delivery what happened on the site, and what was usual", async () => {
    const spike = { type: "visitor_spike", baseline: "fixed", min_visitors: 2 };
    const { trigger } = await api("POST", `${home.at}/webhooks/${hook.id}/triggers`, spike);
    for (const number of [1, 2, 3]) await pageView(server, `198.51.100.${number}`);
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}?trigger_type=visitor_spike`);
    await page.getByRole("listitem").getByRole("link", { name: /current visitors/ }).first().click();
    await page.getByRole("heading", { level: 2, name: "Around this moment" }).waitFor();
    await page.getByText(/^When it fired: \d+ current visitors, /).waitFor();
    await page.locator("figure canvas").waitFor();
    await page.getByRole("button", { name: "Show as table" }).click();
    await page.getByRole("columnheader", { name: "Usual from" }).waitFor();
    await page.getByRole("cell", { name: /Fired/ }).waitFor();
    assert.deepEqual(await violations(page), []);
    await api("DELETE", `${home.at}/webhooks/${hook.id}/triggers/${trigger.id}`);
  });

  it("deletes only after a question", async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks/${home.webhooks[1].id}`);
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.keyboard.press("Escape");
    assert.equal(await page.getByRole("dialog").count(), 0);
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByRole("heading", { level: 1, name: "Webhooks" }).waitFor();
    assert.equal((await api("GET", `${home.at}/webhooks`)).webhooks.length, 1);
    assert.deepEqual(page.complaints, []);
  });
});

describe("an account", () => {
  it("adds and removes goals and keys, tells who is in it, and ends a session", async () => {
    const server = await startServer();
    const api = await setUp(server);
    await api("POST", "/api/sites", { domain: "example.com" });
    const page = await openPage(browser, server);
    try {
      await signIn(page, server);
      await page.goto(`${server.base}/sites/example.com/goals`);
      await page.getByLabel("Event name").fill("Signup");
      await page.getByRole("button", { name: "Add goal" }).click();
      await page.getByText("Event Signup").waitFor();
      await page.getByRole("button", { name: "Delete Signup" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
      await page.getByText("No goal yet").waitFor();

      await page.goto(`${server.base}/account/keys`);
      await page.getByRole("button", { name: "Create key" }).click();
      await page.getByRole("dialog").getByLabel("Name").fill("Deploy script");
      await page.getByRole("dialog").getByLabel("Role").selectOption("editor");
      await page.getByRole("dialog").getByRole("button", { name: "Create key" }).click();
      const key = await page.getByText(/^phk_\S{20,}/).textContent();
      const me = await fetch(`${server.own}/api/me`, { headers: { authorization: `Bearer ${key}` } });
      assert.equal((await me.json()).role, "editor");
      await page.getByRole("button", { name: "Delete Deploy script" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
      await page.getByRole("cell", { name: "Deploy script", exact: true }).waitFor({ state: "detached" });

      await page.goto(`${server.base}/account/members`);
      await page.getByText(EMAIL).waitFor();
      await page.goto(`${server.base}/account/audit`);
      await page.getByRole("cell", { name: "API key deleted" }).waitFor();
      await page.goto(`${server.base}/sites/example.com/settings`);
      await page.getByRole("button", { name: "Delete site" }).click();
      const sure = page.getByRole("dialog").getByRole("button", { name: "Delete" });
      assert.ok(await sure.isDisabled());
      await page.getByRole("dialog").getByRole("textbox").fill("example.com");
      await sure.click();
      await page.getByText("No site yet").waitFor();

      await page.context().clearCookies();
      await page.goto(`${server.base}/account/keys`);
      await page.getByLabel("Password").waitFor();
      await page.getByLabel("E-mail address").fill(EMAIL);
      await page.getByLabel("Password").fill(PASSWORD);
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.getByRole("heading", { level: 1, name: "API keys" }).waitFor();
      await page.locator("summary").first().click();
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
      await server.stop();
    }
  });
});
