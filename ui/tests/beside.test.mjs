// Beside a Plausible: its people sign in with the password they have there, its sites are here, its traffic fires.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { openBrowser, openPage, settle, signIn, startClickHouse, startPostgres, startServer, violations } from "./support.mjs";

const EMAIL = "ann@example.com";
const PASSWORD = "a password of some length";
/** What Plausible keeps of it: bcrypt, at the lowest cost. */
const HASH = "$2b$04$xLiG/9AZYj./9N9HPFByeOTYh15oK9Dhee03gkMIc/Ysb.Ggy33Im";
const READER = "pulsehook_reader";

describe("beside Plausible", () => {
  let postgres, clickhouse, server, browser, site;
  before(async () => {
    [postgres, clickhouse, browser] = await Promise.all([startPostgres(), startClickHouse(), openBrowser()]);
    postgres.query("postgres", "CREATE DATABASE plausible");
    for (const version of ["v2_0", "v2_1", "current"]) postgres.file("plausible", `tests/fixtures/plausible/postgres_${version}.sql`);
    const ask = (sql) => postgres.query("plausible", sql);
    const ann = ask(`SELECT fixture_user('${EMAIL}')`);
    ask(`UPDATE users SET password_hash = '${HASH}'`);
    site = ask(`SELECT fixture_site(${ann}, 'one.example', 'Europe/Berlin')`);
    ask(`SELECT fixture_site(${ann}, 'two.example', 'Etc/UTC')`);
    ask(`SELECT fixture_event_goal(${site}, 'Signup')`);
    postgres.file("plausible", "deploy/plausible/postgres-reader.sql");
    ask(`GRANT SELECT (email, password_hash, totp_enabled) ON users TO ${READER}`);
    server = await startServer({
      settled: true,
      settings: [
        "--directory", "plausible",
        "--plausible-database-url", `${postgres.url.replace("postgres@", `${READER}@`)}/plausible`,
        "--analytics-url", clickhouse.url,
      ],
    });
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
    await clickhouse?.stop();
    await postgres?.stop();
  });

  it("somebody signs in, sees the sites, and has what happens there in the inbox", { timeout: 120_000 }, async () => {
    const page = await openPage(browser, server);
    await page.goto(`${server.base}/sign-in`);
    // Sites are mirrored a moment after the start.
    await signIn(page, server, { email: EMAIL, password: PASSWORD });
    await page.getByRole("link", { name: "one.example" }).waitFor();
    await page.goto(`${server.base}/start`);
    await page.getByLabel("A site that is here already").selectOption("one.example");
    assert.equal(await page.getByRole("button", { name: "Another site" }).count(), 0, "sites are made in Plausible");
    await page.getByRole("button", { name: "Use this site" }).click();
    await page.getByText("their traffic is read from its database").waitFor();
    assert.equal(await page.getByRole("tab").count(), 0, "there is nothing to install");
    await page.getByRole("button", { name: "Go on without traffic" }).click();
    await page.getByRole("button", { name: "Go on" }).click();
    await page.getByLabel("Tell me when").selectOption("goal_completion");
    await page.getByLabel("Goal", { exact: true }).selectOption({ label: "Signup" });
    await page.getByRole("button", { name: "Create webhook" }).click();
    await page.getByRole("button", { name: "Send test" }).click();
    await page.getByText("Signature verified", { exact: true }).waitFor();

    const row = { timestamp: Math.floor(Date.now() / 1_000) + 1, name: "Signup", site_id: Number(site), user_id: 7, session_id: 7, hostname: "one.example", pathname: "/" };
    await clickhouse.ask(`INSERT INTO events_v2 FORMAT JSONEachRow\n${JSON.stringify(row)}`);
    await page.getByRole("list", { name: "Built-in inbox" }).getByText("Goal completion").waitFor({ timeout: 30_000 });

    for (const [path, said] of [["goals", "Signup"], ["settings", "one.example"], ["install", "its database"]]) {
      await page.goto(`${server.base}/sites/one.example/${path}`);
      await settle(page);
      await page.getByText(said).first().waitFor();
      assert.deepEqual(await violations(page), [], path);
    }
    await page.goto(`${server.base}/account/members`);
    await page.getByText("Accounts and people are Plausible's").waitFor();
    await page.goto(`${server.base}/operation`);
    await page.getByText(/^Looked up to /).waitFor({ timeout: 60_000 });
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  it("whoever is not of Plausible does not get in", async () => {
    const page = await openPage(browser, server);
    await page.goto(`${server.base}/sign-in`);
    await page.getByLabel("E-mail address").fill(EMAIL);
    await page.getByLabel("Password").fill("another password");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("alert").waitFor();
    await page.context().close();
  });
});
