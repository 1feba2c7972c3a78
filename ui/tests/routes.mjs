// Every page there is, as the tests of all pages and the pictures walk through them.
import { furnish, setUp, startEndpoint, startServer, test, tracked } from "./support.mjs";

/** A server as it is after a while, with `count` webhooks of all healths. */
export async function furnished(count) {
  const endpoint = await startEndpoint();
  const server = await startServer();
  const api = await setUp(server);
  const home = await furnish(api, count, endpoint);
  const [first, second, third, fourth, fifth] = home.webhooks;
  if (first) {
    // Each goes on answering so: what a webhook is stays as it is while somebody looks.
    const answers = (webhook, status, more = "") => api("PATCH", `${home.at}/webhooks/${webhook.id}`, { url: `${endpoint.url}${more}/answers/${status}` });
    endpoint.takes = [120, 40];
    for (let round = 0; round < 3; round += 1) await test(api, home.at, first);
    endpoint.takes = [0, 0];
    await answers(first, 503);
    home.retrying = await test(api, home.at, first);
    if (second) {
      await answers(second, 503, "/a/rather/long/path/that/somebody/once/thought/was/a/good/idea");
      await test(api, home.at, second);
    }
    if (third) {
      await answers(third, 410);
      home.failed = await test(api, home.at, third);
    }
    if (fifth) {
      // What a trigger in shadow would have sent.
      await api("POST", `${home.at}/webhooks/${fifth.id}/triggers`, { type: "custom_event", event_name: "Download", shadow: true });
    }
    if (fourth) await api("PATCH", `${home.at}/webhooks/${fourth.id}`, { active: false });
    if (fifth) await test(api, home.at, fifth);
    // The tenth is as many as there may be.
    if (home.webhooks.length < 10) {
      home.inbox = (await api("POST", `${home.at}/webhooks`, { name: "Inbox", url: "inbox:", generate_secret: true, triggers: [{ type: "goal_completion" }] })).webhook;
    } else {
      home.inbox = home.webhooks[9];
      await api("PATCH", `${home.at}/webhooks/${home.inbox.id}`, { url: "inbox:" });
    }
    for (let round = 0; round < 2; round += 1) await test(api, home.at, home.inbox);
    if (fifth) {
      await tracked(server, { name: "Download" });
      home.shadow = await firstOf(api, `${home.at}/webhooks/${fifth.id}/deliveries?status=cancelled`);
    }
    const { deliveries } = await api("GET", `${home.at}/webhooks/${first.id}/deliveries`);
    home.delivered = deliveries.find(({ status }) => status === "success");
    await api("POST", "/api/sites", { domain: "a-second-site-with-quite-a-long-name.shop.example.org", timezone: "Asia/Kolkata" });
    await api("POST", "/api/keys", { name: "Deploy script", role: "editor" });
    await api("POST", "/api/invitations", { email: "charles.babbage.of.the.difference.engine@analytical.example.com", role: "editor" });
  }
  const stop = async () => {
    await server.stop();
    await endpoint.stop();
  };
  return { server, api, home, routes: routes(home), stop };
}

/** The first delivery of a list, once there is one. */
async function firstOf(api, path) {
  for (let tries = 0; tries < 200; tries += 1) {
    const { deliveries } = await api("GET", path);
    if (deliveries.length) return deliveries[0];
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${path} stays empty`);
}

function routes(home) {
  const site = `/sites/${home.site.domain}`;
  const found = {
    overview: "/",
    sites: "/sites",
    "new-site": "/sites/new",
    start: "/start",
    "start-traffic": `/start?site=${home.site.domain}`,
    "start-webhook": `/start?site=${home.site.domain}&step=webhook`,
    "start-triggers": `/start?site=${home.site.domain}&step=trigger`,
    webhooks: `${site}/webhooks`,
    "new-webhook": `${site}/webhooks/new`,
    deliveries: `${site}/deliveries`,
    "deliveries-filtered": `${site}/deliveries?status=failed`,
    goals: `${site}/goals`,
    install: `${site}/install`,
    "site-settings": `${site}/settings`,
    keys: "/account/keys",
    members: "/account/members",
    audit: "/account/audit",
    "account-settings": "/account/settings",
    you: "/account/you",
    signatures: "/help/signatures",
    operation: "/operation",
    lost: "/sites/example.com/nothing/here",
  };
  if (home.inbox) {
    found.inbox = `${site}/webhooks/${home.inbox.id}`;
    found["start-test"] = `/start?site=${home.site.domain}&step=test&webhook=${home.inbox.id}`;
  }
  const [webhook] = home.webhooks;
  if (webhook) {
    const hook = `${site}/webhooks/${webhook.id}`;
    Object.assign(found, {
      webhook: hook,
      "webhook-filtered": `${hook}?status=cancelled`,
      "edit-webhook": `${hook}/edit`,
      "new-trigger": `${hook}/triggers/new`,
      "edit-trigger": `${hook}/triggers/${webhook.triggers[0].id}`,
      "delivery-retrying": `${hook}/deliveries/${home.retrying.id}`,
      "delivery-success": `${hook}/deliveries/${home.delivered.id}`,
    });
  }
  return found;
}

/** An answer of the back-test as servers give it after a while, for pictures and checks of pages. */
export function backtest() {
  const start = Date.parse("2026-11-01T00:00:00Z");
  const series = Array.from({ length: 14 * 288 }, (_, index) => {
    const expected = 42 + 28 * Math.sin((index / 288 - 0.3) * 2 * Math.PI);
    const surge = index > 2_300 && index < 2_318 ? 130 : 0;
    return {
      timestamp: new Date(start + index * 300_000).toISOString(),
      observed: Math.round(expected + ((index * 37) % 17) - 8 + surge),
      expected,
      low: Math.max(0, expected - 14),
      high: expected + 14,
    };
  });
  const at = series[2_301];
  const [from, to] = [series[0].timestamp, series.at(-1).timestamp];
  return { from, to, window_seconds: 300, windows: series.length, basis: { history: { days: 14 } }, series, firings_total: 1, firings: [{ timestamp: at.timestamp, observed: at.observed, expected: Math.round(at.expected), change_percent: 210, reason: "rise", ended_at: series[2_318].timestamp }], suggestions: [{ per_month: 1, threshold: 170, firings: 0 }, { per_month: 5, threshold: 60, firings: 1 }] };
}
