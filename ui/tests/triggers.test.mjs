// The trigger editor: each type is made with a webhook and changed afterwards, and what it tells is said in words.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { backtest } from "./routes.mjs";
import { openBrowser, openPage, overflows, pageView, settle, signIn, startStage, test, violations } from "./support.mjs";

let browser, server, api, endpoint, page, home, hook, stop;
before(async () => {
  browser = await openBrowser();
  ({ server, api, endpoint, page, home, hook, stop } = await startStage(browser, 1));
});
after(async () => {
  await stop();
  await browser.close();
});

const field = (label) => page.getByLabel(label, { exact: true });
const choose = (label, option) => field(label).selectOption(option);
/** What the one trigger of a webhook is, without what every one has. */
const settings = async (id) => {
  const { id: _id, inserted_at: _at, shadow: _shadow, ...rest } = (await api("GET", `${home.at}/webhooks/${id}`)).webhook.triggers[0];
  return rest;
};

const openFilters = () => page.getByText("Only where…").click();
const spike = { threshold: 50, baseline: "typical", sensitivity: "normal", min_visitors: 10, cooldown: "30m", min_duration: "0", notify_end: false };

/** How each is filled in, what the page then says, and what the API has; and the same once it is changed. */
const CASES = () => [
  {
    type: "no_data", name: "Site silent",
    fill: () => choose("Without any event for", "2h"),
    says: /When no event comes for 2.h and that is unusual\.$/,
    is: { after: "2h", notify_end: false },
    change: () => field("Tell when it is over too").check(),
    thenSays: /When no event comes for 2.h and that is unusual\. Its end is told too\.$/,
    thenIs: { after: "2h", notify_end: true },
  },
  {
    type: "goal_stalled", name: "Goal stalled",
    fill: async () => {
      await page.getByText("When a goal is no longer completed. Say which.").first().waitFor();
      await choose("Goal", home.goals[0].id);
      await choose("Sensitivity", "low");
      await field("Tell when it is over too").check();
    },
    says: "When the goal “Sign up” is no longer completed while visitors still come. Its end is told too.",
    is: { goal_id: "$0", sensitivity: "low", notify_end: true },
    change: () => choose("Goal", home.goals[2].id),
    thenSays: "When the goal “Visit /pricing” is no longer completed while visitors still come. Its end is told too.",
    thenIs: { goal_id: "$2", sensitivity: "low", notify_end: true },
  },
  {
    type: "milestone", name: "Milestone",
    fill: () => choose("Within a", "week"),
    says: "When the visitors in a week pass a multiple of 1,000.",
    is: { metric: "visitors", period: "week", step: 1_000 },
    change: async () => {
      await choose("Count", "conversions");
      await choose("Of", home.goals[0].id);
      await choose("Milestones", "list");
      await field("Numbers").fill("500, 100");
    },
    thenSays: "When the completions of “Sign up” in a week pass 100 or 500.",
    thenIs: { metric: "conversions", goal_id: "$0", period: "week", list: [100, 500] },
  },
  {
    type: "milestone", name: "Milestone",
    fill: async () => {
      await choose("Count", "pageviews");
      await choose("Milestones", "list");
    },
    says: "When the page views in a day pass 1,000, 5,000 or 10,000.",
    is: { metric: "pageviews", period: "day", list: [1_000, 5_000, 10_000] },
    change: async () => {
      await choose("Milestones", "step");
      await field("Every").fill("250");
    },
    thenSays: "When the page views in a day pass a multiple of 250.",
    thenIs: { metric: "pageviews", period: "day", step: 250 },
  },
  {
    type: "error_condition", name: "Traffic unseen",
    fill: async () => {
      await choose("What is wrong", "data_stale");
      await choose("For as long as", "15m");
    },
    says: /When no event of any site comes in for 15.min\.$/,
    is: { condition: "data_stale", after: "15m", notify_end: false },
    change: async () => {
      await choose("What is wrong", "");
      await field("Tell when it is over too").check();
    },
    thenSays: /When the traffic cannot be seen for 15.min\. Its end is told too\.$/,
    thenIs: { after: "15m", notify_end: true },
  },
  {
    type: "goal_completion", name: "Goal completion",
    fill: () => choose("How to tell", "count"),
    says: "When any goal is completed. Told together once there are 100, or a day after the first.",
    is: { batch: 100 },
    change: async () => {
      await choose("How to tell", "span");
      await choose("After the first", "1h");
    },
    thenSays: /When any goal is completed\. Told together, 1.h after the first\.$/,
    thenIs: { batch: "1h" },
  },
  {
    type: "custom_event", name: "Custom event",
    fill: async () => {
      await field("Event name").fill("Download");
      await choose("How to tell", "span");
    },
    says: /When the event “Download” happens\. Told together, 15.min after the first\.$/,
    is: { event_name: "Download", batch: "15m" },
    change: () => choose("How to tell", "once"),
    thenSays: "When the event “Download” happens.",
    thenIs: { event_name: "Download" },
  },
  {
    type: "visitor_spike", name: "Visitor spike",
    fill: async () => {
      await openFilters();
      await page.getByLabel("Page").fill("/blog/*");
      await page.getByLabel("Source").fill("Hacker News");
    },
    says: /at most once per 30.min\. Only on \/blog\/\*, from Hacker News\.$/,
    is: { ...spike, page: "/blog/*", source: "Hacker News" },
    change: async () => {
      await page.getByLabel("Page").fill("");
      await page.getByLabel("Country").fill("de");
    },
    thenSays: /at most once per 30.min\. Only from Hacker News, in DE\.$/,
    thenIs: { ...spike, source: "Hacker News", country: "DE" },
  },
  {
    type: "visitor_drop", name: "Visitor drop",
    fill: async () => {
      await openFilters();
      await page.getByLabel("Host name").fill("shop.example.com");
      await field("Tell when it is over too").check();
    },
    says: /at most once per 30.min\. Only at shop\.example\.com\. Its end is told too\.$/,
    is: { ...spike, hostname: "shop.example.com", notify_end: true },
    change: () => page.getByLabel("Host name").fill(""),
    thenSays: /at most once per 30.min\. Its end is told too\.$/,
    thenIs: { ...spike, notify_end: true },
  },
];

describe("the page of a webhook", () => {
  it("stays where it is when its health becomes known, so that nobody misses what they click", async () => {
    let tell;
    const told = new Promise((resolve) => { tell = resolve; });
    await page.route("**/pulse", async (route) => {
      await told;
      await route.continue();
    });
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}`);
    const edit = page.getByRole("link", { name: /^Edit / }).first();
    await settle(page);
    const before = await edit.boundingBox();
    tell();
    await page.getByText("Never used").first().waitFor();
    await settle(page);
    assert.deepEqual(await edit.boundingBox(), before);
    await page.unroute("**/pulse");
  });
});

describe("the trigger editor", () => {
  for (const [index, { type }] of CASES().entries()) {
    it(`makes a webhook with ${type} and changes it (${index + 1})`, async () => {
      const { name, fill, says, is, change, thenSays, thenIs } = CASES()[index];
      const meant = (settings) => {
        const { goal_id: goal, ...rest } = settings;
        return { type, ...rest, ...(goal ? { goal_id: home.goals[Number(goal[1])].id } : {}) };
      };
      await page.goto(`${server.base}/sites/example.com/webhooks/new`);
      await field("Endpoint address").fill(endpoint.url);
      await field("Name").fill("Made here");
      await choose("Tell me when", type);
      await fill();
      await page.getByText(says).first().waitFor();
      assert.deepEqual(await violations(page), []);
      await page.getByRole("button", { name: "Create webhook" }).click();
      await page.getByRole("heading", { level: 1, name: "Made here" }).waitFor();
      const id = new URL(page.url()).pathname.split("/").at(-1);
      assert.deepEqual(await settings(id), meant(is));

      await page.getByRole("link", { name: `Edit ${name}` }).click();
      await page.getByRole("heading", { level: 1, name: "Edit trigger" }).waitFor();
      await page.getByText(says).first().waitFor();
      await change();
      await page.getByText(thenSays).first().waitFor();
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByRole("heading", { level: 1, name: "Made here" }).waitFor();
      await page.getByText(thenSays).first().waitFor();
      assert.deepEqual(await settings(id), meant(thenIs));
      assert.deepEqual(page.complaints, []);
      await api("DELETE", `${home.at}/webhooks/${id}`);
    });
  }

  it("shows at its field what the server does not take, and keeps what was typed", async () => {
    const wrong = async (label, said) => {
      await page.getByRole("button", { name: "Add trigger" }).click();
      await page.getByText(said).waitFor();
      assert.equal(await field(label).getAttribute("aria-invalid"), "true");
      await page.waitForFunction(() => document.activeElement?.getAttribute("aria-invalid") === "true");
    };
    await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}/triggers/new`);
    await choose("Tell me when", "milestone");
    await field("Every").fill("10000000000000");
    await wrong("Every", "Every must be a whole number from 1 to 1000000000000.");
    await choose("Milestones", "list");
    await field("Numbers").fill("1000, many");
    await wrong("Numbers", "Numbers must be 1 to 50 whole numbers, such as [1000, 10000].");
    assert.equal(await field("Numbers").inputValue(), "1000, many");
    assert.deepEqual(await violations(page), []);

    // A goal that is gone by the time it is sent.
    const { goal } = await api("POST", `${home.at}/goals`, { event_name: "Soon gone" });
    await page.reload();
    await choose("Tell me when", "goal_stalled");
    await choose("Goal", goal.id);
    await api("DELETE", `${home.at}/goals/${goal.id}`);
    await wrong("Goal", "Goal must be the id of a goal of this site.");

    await choose("Tell me when", "custom_event");
    await field("Event name").fill("pageview");
    await wrong("Event name", "Event name must be a custom event; pages are watched with a goal.");
    await choose("How to tell", "count");
    for (const [typed, wrongly] of [["1", "rangeUnderflow"], ["10001", "rangeOverflow"], ["", "valueMissing"]]) {
      await field("How many").fill(typed);
      assert.equal(await field("How many").evaluate((input, name) => input.validity[name], wrongly), true, typed);
    }
    assert.deepEqual(page.complaints, []);
  });

  it("keeps what is typed with its trigger when another is taken out", async () => {
    await page.goto(`${server.base}/sites/example.com/webhooks/new`);
    await page.getByRole("button", { name: "Add another trigger" }).click();
    for (const [at, numbers] of [[0, "100"], [1, "200, 300"]]) {
      await field("Tell me when").nth(at).selectOption("milestone");
      await field("Milestones").nth(at).selectOption("list");
      await field("Numbers").nth(at).fill(numbers);
    }
    await page.getByRole("button", { name: "Remove this trigger" }).first().click();
    assert.equal(await field("Numbers").inputValue(), "200, 300");
    await page.getByText("When the visitors in a day pass 200 or 300.").waitFor();
  });

  it("leads to the goals of a site that has none to watch", async () => {
    const { site } = await api("POST", "/api/sites", { domain: "empty.example" });
    await page.goto(`${server.base}/sites/${site.domain}/webhooks/new`);
    await choose("Tell me when", "goal_stalled");
    await page.getByText("There is no goal yet to watch.").waitFor();
    assert.deepEqual(await violations(page), []);
    await page.getByRole("link", { name: "Add one" }).click();
    await page.getByRole("heading", { level: 1, name: "Goals" }).waitFor();
    await api("DELETE", `/api/sites/${site.id}`);
  });

  for (const [theme, size] of [["light", "desktop"], ["dark", "desktop"], ["light", "phone"], ["dark", "phone"]]) {
    it(`is well with every type in ${theme} on a ${size}`, async () => {
      const page = await openPage(browser, server, { theme, size });
      await signIn(page, server);
      await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
      await page.goto(`${server.base}/sites/example.com/webhooks/${hook.id}/triggers/new`);
      const kind = page.getByLabel("Tell me when");
      const types = await kind.evaluate((select) => [...select.options].map(({ value }) => value));
      assert.equal(types.length, 9);
      for (const type of types) {
        await kind.selectOption(type);
        if (type === "milestone") await page.getByLabel("Count").selectOption("conversions");
        if (["goal_completion", "custom_event"].includes(type)) await page.getByLabel("How to tell").selectOption("count");
        const filters = page.getByText("Only where…");
        if (await filters.count()) await filters.click();
        await settle(page);
        assert.deepEqual(await violations(page), [], type);
        assert.equal(await overflows(page), false, `${type} is wider than the window`);
      }
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    });
  }
});

describe("what was told", () => {
  it("has a milestone that was passed, by its own name", async () => {
    const { webhook } = await api("POST", `${home.at}/webhooks`, {
      name: "Round numbers", url: endpoint.url, triggers: [{ type: "milestone", metric: "pageviews", period: "month", list: [1] }],
    });
    const before = endpoint.arrived.length;
    await pageView(server, "198.51.100.9");
    await page.goto(`${server.base}/sites/example.com/deliveries?trigger_type=milestone`);
    await page.getByRole("listitem").getByRole("link", { name: /Past 1 page views this month.*Round numbers · Milestone/s }).waitFor({ timeout: 30_000 });
    assert.equal(JSON.parse(endpoint.arrived[before].body).event_type, "milestone");
    await api("DELETE", `${home.at}/webhooks/${webhook.id}`);
  });

  it("is said in words for every type there is, and its end too", async () => {
    const delivery = await test(api, home.at, hook);
    const SAID = {
      no_data: [/^No event for /, "Site silent"],
      no_data_ended: [/^Events come again after /, "Site heard again"],
      goal_stalled: [/ not completed for /, "Goal stalled"],
      goal_stalled_ended: [/ completed again after /, "Goal completed again"],
      milestone: [/past [\d,]+ this day/, "Milestone"],
      error_condition: [/^The analytics database did not answer for /, "Traffic unseen"],
      error_condition_ended: [/^The analytics database answers again after /, "Traffic seen again"],
    };
    const examples = await Promise.all(Object.keys(SAID).map(async (type) => (await api("GET", `/api/schemas/${type}`)).examples[0]));
    const deliveries = examples.map((payload, index) => ({ ...delivery, id: `${index}`, event_type: payload.event_type, payload, status: "success" }));
    await page.route("**/api/sites/*/deliveries?*", (route) => route.fulfill({ json: { deliveries, pagination: { total_count: deliveries.length, next_cursor: null } } }));
    await page.goto(`${server.base}/sites/example.com/deliveries`);
    await settle(page);
    const rows = page.getByRole("listitem").getByRole("link");
    await page.waitForFunction((count) => document.querySelectorAll('li a[href*="/deliveries/"]').length === count, examples.length);
    // Names come with an answer of their own.
    await page.getByText("Chat room ·").first().waitFor();
    for (const [index, [type, [sentence, name]]] of Object.entries(SAID).entries()) {
      const row = rows.nth(index);
      assert.match(await row.locator(".font-medium.truncate").textContent(), sentence, type);
      assert.match(await row.textContent(), new RegExp(`Chat room · ${name}`), type);
      assert.equal(await page.getByRole("combobox", { name: "Trigger" }).locator(`option[value="${type}"]`).textContent(), name);
    }
    assert.deepEqual(await violations(page), []);
    await page.unroute("**/api/sites/*/deliveries?*");
  });
});

describe("a site that nobody could look at", () => {
  const answer = (json) => page.route("**/api/sites/*/gaps", (route) => route.fulfill({ json }));

  it("says so on each of its pages while it lasts, and lists when it was", async () => {
    await page.goto(`${server.base}/sites/example.com/install`);
    await page.getByText("Events arrive.").waitFor();
    assert.equal(await page.getByText("Nobody could look at").count(), 0);
    assert.equal(await page.getByRole("heading", { name: "Gaps" }).count(), 0);

    await answer({
      gaps: [{ from: "2026-11-20T03:00:00Z", until: "2026-11-20T05:30:00Z" }, { from: "2026-11-12T09:00:00Z", until: "2026-11-12T09:45:00Z" }],
      unknown_since: "2026-11-26T10:15:00Z",
    });
    for (const path of ["webhooks", "goals", "install"]) {
      await page.goto(`${server.base}/sites/example.com/${path}`);
      await page.getByRole("status").getByText("Nobody could look at this site's traffic since 26 Nov 2026, 11:15:00 CET.").waitFor();
      await page.getByText("What happens meanwhile is made up for if it is over soon.").waitFor();
    }
    const gaps = page.getByRole("list", { name: "Gaps" }).getByRole("listitem");
    assert.deepEqual((await gaps.allTextContents()).map((said) => said.replaceAll("\u00a0", " ")), [
      "20 Nov 2026, 04:00:00 CET to 20 Nov 2026, 06:30:00 CET2 h",
      "12 Nov 2026, 10:00:00 CET to 12 Nov 2026, 10:45:00 CET45 min",
    ]);
    await settle(page);
    assert.deepEqual(await violations(page), []);

    await page.unroute("**/api/sites/*/gaps");
    await page.reload();
    await page.getByText("Events arrive.").waitFor();
    assert.equal(await page.getByText("Nobody could look at").count(), 0);
    assert.deepEqual(page.complaints, []);
  });
});
