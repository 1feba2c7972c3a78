// Pages in the states that an address alone does not bring about: something is open, was just done, went wrong, or is seen by
// somebody who may not do it. What would take days or a broken server is answered as the server does then.
import { backtest } from "./routes.mjs";
import { PASSWORD, settle } from "./support.mjs";

export const VIEWER = "grace.hopper@example.com";

/** Somebody who may look and nothing else. */
export async function admitViewer(full) {
  const { link } = await full.api("POST", "/api/invitations", { email: VIEWER, role: "viewer" });
  const token = new URL(link).searchParams.get("token");
  const answer = await fetch(`${full.server.own}/api/invitations/accept`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token, password: PASSWORD }),
  });
  if (!answer.ok) throw new Error(`the viewer was not let in: ${answer.status}`);
}

const problem = (status, code, detail) => ({ status, contentType: "application/problem+json", headers: { "x-request-id": "0192f3a1-77aa" }, body: JSON.stringify({ type: `urn:pulsehook:problem:${code}`, title: "", status, code, detail }) });
/** The server's own answer, with something of it changed. */
const altered = (change) => async (route) => {
  // The page itself may have the same end of its address.
  if (!new URL(route.request().url()).pathname.startsWith("/api/")) return route.fallback();
  const answer = await route.fetch();
  const told = await answer.json();
  change(told);
  await route.fulfill({ response: answer, json: told });
};
const hoursAgo = (hours) => new Date(Date.now() - hours * 3_600_000).toISOString();

/** The states of a server with ten webhooks, each with a name and what brings it about on a page somebody is signed in on. */
export function states({ server, home }) {
  const at = (path) => server.base + path;
  const site = `/sites/${home.site.domain}`;
  const hook = (index) => `${site}/webhooks/${home.webhooks[index].id}`;
  const go = async (page, path) => {
    await page.goto(at(path));
    await settle(page);
  };
  const opened = (path, button, dialog) => async (page) => {
    await go(page, path);
    await page.getByRole("button", { name: button, exact: true }).first().click();
    await page.getByRole("dialog", { name: dialog }).waitFor();
  };
  const trigger = (set) => async (page) => {
    await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
    await go(page, `${hook(0)}/triggers/new`);
    await set(page);
    await settle(page);
  };
  const kind = (page, type) => page.getByLabel("Tell me when").selectOption(type);
  const delivery = (change) => async (page) => {
    await page.route("**/deliveries/*", altered((told) => change(told.delivery)));
    await go(page, `${hook(0)}/deliveries/${home.delivered.id}`);
  };
  const pulsed = (change) => (page) => page.route("**/pulse", altered(({ pulses }) => change(pulses)));
  const using = (directory, analytics) => async (page) => {
    await page.route("**/api/me", altered((me) => Object.assign(me, { directory, analytics })));
    await go(page, `${site}/install`);
    await page.locator("summary", { hasText: "Now:" }).click();
  };

  return {
    menu: async (page) => {
      await go(page, "/");
      await page.locator("header summary").click();
    },
    "palette-none": async (page) => {
      await go(page, "/");
      await page.keyboard.press("Control+k");
      await page.getByRole("combobox", { name: "Go to" }).fill("nothing of that name");
    },
    loading: async (page) => {
      await page.route("**/api/sites/*/webhooks", () => {});
      await page.goto(at(`${site}/webhooks`));
      await page.getByRole("status", { name: "Loading" }).waitFor();
    },
    "not-loaded": async (page) => {
      await page.route("**/api/sites/*/webhooks", (route) => route.fulfill(problem(503, "unavailable", "The database does not answer just now. Try again in a moment.")));
      await page.goto(at(`${site}/webhooks`));
      await page.getByRole("alert").waitFor();
    },
    away: async (page) => {
      await go(page, `${site}/webhooks`);
      await page.route("**/api/**", (route) => route.abort());
      await page.getByText("The server cannot be reached.").first().waitFor({ timeout: 45_000 });
    },
    "away-while-saving": async (page) => {
      await go(page, `${site}/settings`);
      await page.route("**/api/**", (route) => route.abort());
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByRole("alert").waitFor();
    },
    "gone-webhook": (page) => go(page, `${site}/webhooks/00000000-0000-7000-8000-000000000000`),
    "gone-site": (page) => go(page, "/sites/gone.example/webhooks"),
    unseen: async (page) => {
      await page.route("**/gaps", (route) => route.fulfill({ json: { unknown_since: hoursAgo(0.4), gaps: [{ from: hoursAgo(80), until: hoursAgo(77) }, { from: hoursAgo(9), until: hoursAgo(8.5) }] } }));
      await go(page, `${site}/install`);
    },

    "webhook-long": (page) => go(page, hook(1)),
    "webhook-disabled": (page) => go(page, hook(2)),
    "webhook-paused": (page) => go(page, hook(3)),
    "webhook-unused": (page) => go(page, hook(5)),
    "webhook-left-alone": async (page) => {
      await page.route(`**/webhooks/${home.webhooks[0].id}`, altered(({ webhook }) => Object.assign(webhook, { status: "active", left_alone_until: hoursAgo(-0.2) })));
      await go(page, hook(0));
    },
    "webhook-failing-long": async (page) => {
      await page.route(`**/webhooks/${home.webhooks[0].id}`, altered(({ webhook }) => Object.assign(webhook, { status: "failing", failing_since: hoursAgo(52) })));
      await go(page, hook(0));
    },
    "webhook-all-triggers": async (page) => {
      const types = [
        { type: "visitor_drop", baseline: "typical", threshold: 40, min_visitors: 25, cooldown: "2h", min_duration: "15m", notify_end: true },
        { type: "goal_completion", batch: "15m", source: "Hacker News" },
        { type: "goal_stalled", goal_id: home.goals[0].id, sensitivity: "low" },
        { type: "milestone", metric: "conversions", goal_id: home.goals[0].id, period: "week", list: [100, 500, 1_000] },
        { type: "custom_event", event_name: "Download", properties: { plan: "free" }, batch: 100, shadow: true },
        { type: "no_data", after: "2h", notify_end: true },
        { type: "error_condition", condition: "analytics_unreachable", after: "15m" },
        { type: "webhook_health" },
      ];
      await page.route(`**/webhooks/${home.webhooks[4].id}`, altered(({ webhook }) => { webhook.triggers = types.map((type, index) => ({ ...type, id: `t${index}`, inserted_at: webhook.inserted_at })); }));
      await go(page, hook(4));
    },
    "webhook-resends": async (page) => {
      const resend = { webhook_id: home.webhooks[0].id, delivery_status: "failed", inserted_at: hoursAgo(0.1), updated_at: hoursAgo(0.01), total: 1_240 };
      await page.route("**/resends", (route) => route.fulfill({ json: { resends: [
        { ...resend, id: "one", status: "running", queued: 310 }, { ...resend, id: "two", status: "paused", queued: 25 },
        { ...resend, id: "three", status: "done", queued: 1_240 }, { ...resend, id: "four", status: "cancelled", queued: 700 },
      ] } }));
      await go(page, hook(0));
    },
    "webhook-tested": async (page) => {
      await go(page, hook(4));
      await page.getByRole("button", { name: "Send test" }).click();
      await page.getByText(/^Delivered: the endpoint answered/).or(page.getByText("the endpoint answered 200")).first().waitFor();
    },
    "webhook-tested-failing": async (page) => {
      await go(page, hook(0));
      await page.getByRole("button", { name: "Send test" }).click();
      // After a few of them the endpoint is left alone for a while.
      await page.getByText(/It did not go through yet|It waits: most attempts/).waitFor();
    },
    "webhooks-all-healths": async (page) => {
      await page.route("**/api/sites/*/webhooks", altered(({ webhooks }) => {
        Object.assign(webhooks.find(({ id }) => id === home.webhooks[0].id), { failing_since: hoursAgo(52) });
        Object.assign(webhooks.find(({ id }) => id === home.webhooks[5].id), { left_alone_until: hoursAgo(-0.2) });
      }));
      await pulsed((pulses) => { for (const pulse of pulses) if (pulse.delivered) pulse.delivered *= 1_412; })(page);
      await go(page, `${site}/webhooks`);
    },

    "delivery-failed": (page) => go(page, `${hook(2)}/deliveries/${home.failed.id}`),
    "delivery-shadow": (page) => go(page, `${hook(4)}/deliveries/${home.shadow.id}`),
    "delivery-waiting": delivery((one) => Object.assign(one, { status: "pending", attempt: 0, attempts: [], response_code: null, next_attempt_at: hoursAgo(-0.05) })),
    "delivery-given-up": delivery((one) => Object.assign(one, { status: "failed", reason: "attempts_exhausted", error_message: "The endpoint is not available (503).", attempts: Array.from({ length: 10 }, (_, index) => ({ ...one.attempts[0], number: index + 1, outcome: "server_error", response_code: 503, started_at: hoursAgo(76 - index * 7), error_message: "The endpoint is not available (503)." })), attempt: 10 })),
    "delivery-spike": async (page) => {
      await page.route("**/triggers/backtest", (route) => route.fulfill({ json: backtest() }));
      const moment = backtest().firings[0].timestamp;
      await page.route("**/deliveries/*", altered(({ delivery: one }) => Object.assign(one, {
        event_type: "visitor_spike", trigger_type: "visitor_spike", trigger_id: home.webhooks[0].triggers[0].id, inserted_at: moment,
        payload: { ...one.payload, event_type: "visitor_spike", data: { current_visitors: 172, previous_visitors: 41, change_percent: 320, threshold: 50, baseline: "typical", top_sources: [{ source: "Hacker News", visitors: 131 }] } },
      })));
      await go(page, `${hook(0)}/deliveries/${home.delivered.id}`);
      await page.locator("figure canvas").waitFor();
    },
    "delivery-inbox": async (page) => {
      await go(page, `${hook(9)}`);
      await page.locator('a[href*="/deliveries/"]').first().click();
      await page.getByRole("heading", { level: 1, name: "Test event" }).waitFor();
      await settle(page);
    },
    "deliveries-by-status": (page) => go(page, `${site}/deliveries?status=retrying`),

    "dialog-delete-webhook": opened(hook(0), "Delete", "Delete this webhook?"),
    "dialog-rotate": opened(hook(0), "Rotate secret", "Rotate the secret?"),
    "dialog-resend-range": opened(hook(0), "Resend several", "Resend several deliveries"),
    "dialog-resend-again": opened(`${hook(0)}/deliveries/${home.delivered.id}`, "Resend", "Send it again?"),
    "dialog-delete-site": opened(`${site}/settings`, "Delete site", "Delete this site"),
    "dialog-new-key": opened("/account/keys", "Create key", "Create an API key"),
    "dialog-invite": opened("/account/members", "Invite", "Invite somebody"),
    "secret-shown": async (page) => {
      await opened(hook(6), "Rotate secret", "Rotate the secret?")(page);
      await page.getByRole("dialog").getByRole("button", { name: "Rotate secret" }).click();
      await page.getByRole("region", { name: "Your signing secret" }).waitFor();
    },
    "key-shown": async (page) => {
      await page.route("**/api/keys", (route) => (route.request().method() === "POST" ? route.fulfill({ status: 201, json: { key: `phk_${"a1b2c3d4".repeat(5)}`, api_key: {} } }) : route.fallback()));
      await opened("/account/keys", "Create key", "Create an API key")(page);
      await page.getByRole("dialog").getByLabel("Name").fill("A script");
      await page.getByRole("dialog").getByRole("button", { name: "Create key" }).click();
      await page.getByText("Your new key").waitFor();
    },

    "new-trigger-no-history": (page) => go(page, `${hook(0)}/triggers/new`),
    "new-trigger-fixed": trigger((page) => page.getByLabel("Compared with").selectOption("fixed")),
    "new-trigger-previous": trigger((page) => page.getByLabel("Compared with").selectOption("previous")),
    "new-trigger-filters": trigger(async (page) => {
      await page.getByText("Only where…").click();
      await page.getByLabel("Page").fill("/blog/*");
      await page.getByLabel("Source").fill("Hacker News");
      await page.getByLabel("Shadow: record what would be sent, send nothing").check();
    }),
    "new-trigger-batch-span": trigger(async (page) => {
      await kind(page, "goal_completion");
      await page.getByLabel("How to tell").selectOption("span");
    }),
    "new-trigger-batch-count": trigger(async (page) => {
      await kind(page, "custom_event");
      await page.getByLabel("Event name").fill("Download");
      await page.getByRole("button", { name: "Only with a property" }).click();
      await page.getByLabel("Property", { exact: true }).fill("plan");
      await page.getByLabel("Value", { exact: true }).fill("free");
      await page.getByLabel("How to tell").selectOption("count");
    }),
    "new-trigger-milestones": trigger(async (page) => {
      await kind(page, "milestone");
      await page.getByLabel("Count", { exact: true }).selectOption("conversions");
      await page.getByLabel("Milestones").selectOption("list");
    }),
    "new-trigger-refused": trigger(async (page) => {
      await kind(page, "custom_event");
      await page.getByLabel("Event name").fill(" ");
      await page.getByRole("button", { name: "Add trigger" }).click();
      await page.getByText(/Event name .*\./).last().waitFor();
    }),
    "new-trigger-table": trigger(async (page) => {
      await page.getByRole("button", { name: "Show as table" }).click();
    }),
    "new-webhook-advanced": async (page) => {
      await go(page, `${site}/webhooks/new`);
      await page.getByLabel("Use my own secret").check();
      await page.getByText("Format, headers, retries").click();
      await page.getByRole("button", { name: "Add header" }).click();
      await page.getByRole("button", { name: "Add another trigger" }).click();
    },
    "new-webhook-inbox": async (page) => {
      await go(page, `${site}/webhooks/new`);
      await page.getByLabel("The built-in inbox").check();
    },
    "goal-scroll": async (page) => {
      await go(page, `${site}/goals`);
      await page.getByLabel("Kind").selectOption("scroll");
    },

    "traffic-seen": async (page) => {
      await page.route("**/traffic", (route) => route.fulfill({ json: { first_event_at: hoursAgo(30) } }));
      await go(page, `${site}/install`);
    },
    "places-plausible": using("own", "embedded"),
    "places-clickhouse": async (page) => {
      await using("own", "clickhouse")(page);
      await page.getByRole("tab", { name: "ClickHouse" }).click();
    },
    "beside-plausible": using("plausible", "clickhouse"),
    "beside-plausible-goals": async (page) => {
      await page.route("**/api/me", altered((me) => Object.assign(me, { directory: "plausible", analytics: "clickhouse" })));
      await go(page, `${site}/goals`);
    },
    "beside-plausible-no-site": async (page) => {
      await page.route("**/api/me", altered((me) => Object.assign(me, { directory: "plausible", analytics: "clickhouse" })));
      await page.route("**/api/sites", (route) => route.fulfill({ json: { sites: [] } }));
      await go(page, "/start");
    },
    "first-run": async (page) => {
      await page.route("**/api/sites", (route) => route.fulfill({ json: { sites: [] } }));
      await go(page, "/start");
    },
    "first-run-overview": async (page) => {
      await page.route("**/api/sites", (route) => route.fulfill({ json: { sites: [] } }));
      await go(page, "/");
    },
    "first-run-sites": async (page) => {
      await page.route("**/api/sites", (route) => route.fulfill({ json: { sites: [] } }));
      await go(page, "/sites");
    },
    "start-own-endpoint": async (page) => {
      await go(page, `/start?site=${home.site.domain}&step=webhook`);
      await page.getByLabel("My endpoint").check();
    },
    "start-done": async (page) => {
      await go(page, `/start?site=${home.site.domain}&step=test&webhook=${home.inbox.id}`);
      await page.getByRole("button", { name: "Send test" }).click();
      await page.getByText("It works").waitFor();
    },
    // The last one: nobody is signed in after it.
    expired: async (page) => {
      await go(page, `${site}/webhooks`);
      await page.context().clearCookies();
      await page.goto(at(`${site}/goals`));
      await page.getByRole("heading", { name: "Sign in" }).waitFor();
    },
  };
}

/** Pages as somebody sees them who may only look. */
export function viewed({ server, home }) {
  const site = `/sites/${home.site.domain}`;
  const first = `${site}/webhooks/${home.webhooks[0].id}`;
  const pages = {
    webhooks: `${site}/webhooks`, webhook: first, "new-webhook": `${site}/webhooks/new`, "new-trigger": `${first}/triggers/new`,
    goals: `${site}/goals`, "site-settings": `${site}/settings`, delivery: `${first}/deliveries/${home.retrying.id}`, start: "/start",
    keys: "/account/keys", members: "/account/members", audit: "/account/audit", operation: "/operation", "account-settings": "/account/settings",
  };
  return Object.fromEntries(Object.entries(pages).map(([name, path]) => [`viewer-${name}`, async (page) => {
    await page.goto(server.base + path);
    await settle(page);
  }]));
}

/** Brings about each of them in turn on a page somebody is signed in on, and does `look`. */
export async function each(page, found, look) {
  for (const [name, bring] of Object.entries(found)) {
    try {
      await bring(page);
      await look(name);
    } catch (error) {
      throw new Error(`${name}: ${error.message}`, { cause: error });
    }
    await page.unrouteAll({ behavior: "ignoreErrors" });
  }
}
