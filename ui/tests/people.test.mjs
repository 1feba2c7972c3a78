// Who belongs to an account, and how they come in and go.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { EMAIL, PASSWORD, openBrowser, openPage, overflows, setUp, settle, signIn, startServer, violations } from "./support.mjs";

const GRACE = "grace@example.com";
const HERS = "a quiet lighthouse";

let browser;
before(async () => { browser = await openBrowser(); });
after(() => browser.close());

describe("people of an account", () => {
  let server, api, page;
  before(async () => {
    server = await startServer({ settings: ["--sign-up", "true"] });
    api = await setUp(server);
    await api("POST", "/api/sites", { domain: "example.com" });
    page = await openPage(browser, server);
    await signIn(page, server);
  });
  after(async () => {
    await page.context().close();
    await server.stop();
  });
  const dialog = () => page.getByRole("dialog");
  const invite = async (email, role) => {
    await page.getByRole("button", { name: "Invite" }).click();
    await dialog().getByLabel("E-mail address").fill(email);
    await dialog().getByLabel("Role").selectOption(role);
    await dialog().getByRole("button", { name: "Invite" }).click();
    await page.getByText(`The link for ${email}`).waitFor();
    return page.getByRole("group", { name: "Invitation link" }).textContent();
  };

  it("invites, takes back, lets in with a new password, changes a role, removes", async () => {
    await page.goto(`${server.base}/account/members`);
    const dead = await invite("nobody@example.com", "viewer");
    await page.getByRole("button", { name: "Take back nobody@example.com" }).click();
    await dialog().getByRole("button", { name: "Take back" }).click();
    await page.getByText("Nobody is invited just now.").waitFor();
    const link = await invite(GRACE, "editor");
    await page.reload();
    await page.getByRole("cell", { name: GRACE, exact: true }).waitFor();
    assert.equal(await page.getByRole("group", { name: "Invitation link" }).count(), 0, "the link is shown once");

    const hers = await openPage(browser, server);
    await hers.goto(dead);
    await hers.getByRole("heading", { name: "This invitation does not work" }).waitFor();
    await hers.goto(link);
    await hers.getByRole("heading", { name: "Join Analytical Engines" }).waitFor();
    await hers.getByText(`${GRACE} is invited as Editor.`).waitFor();
    assert.deepEqual(await violations(hers), []);
    await hers.getByLabel("New password").fill("short");
    await hers.getByRole("button", { name: "Join" }).click();
    await hers.getByText(/New password must be at least 12 characters/).waitFor();
    await hers.getByLabel("New password").fill(HERS);
    await hers.getByRole("button", { name: "Join" }).click();
    await hers.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
    assert.equal(new URL(hers.url()).search, "");
    await hers.goto(`${server.base}/account/members`);
    await hers.getByText(EMAIL).waitFor();
    assert.equal(await hers.getByRole("button", { name: "Invite" }).count(), 0, "an editor invites nobody");
    assert.equal(await hers.getByRole("combobox", { name: /Role of/ }).count(), 0);
    assert.deepEqual(hers.complaints, []);

    await page.reload();
    await page.getByLabel(`Role of ${GRACE}`).selectOption("admin");
    await page.getByText("Role changed").waitFor();
    await hers.reload();
    await hers.getByRole("button", { name: "Invite" }).click();
    const roles = await hers.getByRole("dialog").getByLabel("Role").locator("option").evaluateAll((options) => options.map(({ value }) => value));
    assert.deepEqual(roles, ["viewer", "editor", "admin"], "nobody gives more than what they have");
    await hers.context().close();

    await page.getByLabel(`Role of ${EMAIL}`).selectOption("viewer");
    await page.getByText("An account needs an owner").waitFor();
    assert.equal(await page.getByLabel(`Role of ${EMAIL}`).inputValue(), "owner");
    await page.getByRole("button", { name: `Remove ${GRACE}` }).click();
    await dialog().getByRole("button", { name: "Remove" }).click();
    await page.getByRole("cell", { name: GRACE, exact: true }).waitFor({ state: "detached" });

    await page.goto(`${server.base}/account/audit`);
    await page.getByText(/role: editor → admin/).first().waitFor();
    await page.getByRole("cell", { name: "127.0.0.0/24" }).first().waitFor();
    assert.deepEqual(page.complaints, []);
  });

  it("signs up, joins a second account with the password there is, switches, leaves, deletes", async () => {
    const hers = await openPage(browser, server);
    await hers.goto(`${server.base}/sign-in`);
    await hers.getByRole("link", { name: "Sign up" }).click();
    await hers.getByLabel("Account name").fill("Compilers");
    await hers.getByLabel("E-mail address").fill("hopper@example.com");
    await hers.getByLabel("Password").fill(HERS);
    await hers.getByRole("button", { name: "Create account" }).click();
    await hers.getByRole("heading", { level: 1, name: "Add a site" }).waitFor();
    const { link } = await api("POST", "/api/invitations", { email: "hopper@example.com", role: "viewer" });
    await hers.goto(link);
    await hers.getByLabel("Your password").fill("not this one at all");
    await hers.getByRole("button", { name: "Join" }).click();
    await hers.getByRole("alert").waitFor();
    await hers.getByLabel("Your password").fill(HERS);
    await hers.getByRole("button", { name: "Join" }).click();
    await hers.getByRole("link", { name: "example.com" }).first().waitFor();

    await hers.locator("summary").first().click();
    await hers.getByLabel("Switch account").selectOption({ label: "Compilers" });
    await hers.getByText("Start with a site").waitFor();
    await hers.locator("summary").first().click();
    await hers.getByLabel("Switch account").selectOption({ label: "Analytical Engines" });
    await hers.getByRole("link", { name: "example.com" }).first().waitFor();
    await hers.goto(`${server.base}/account/members`);
    await hers.getByRole("button", { name: "Leave hopper@example.com" }).click();
    await hers.getByRole("dialog").getByRole("button", { name: "Leave" }).click();
    await hers.getByRole("dialog").waitFor({ state: "hidden" });
    // Whatever became of the session: she is in the other account after signing in.
    await hers.context().clearCookies();
    await signIn(hers, server, { email: "hopper@example.com", password: HERS });
    await hers.goto(`${server.base}/account/settings`);
    await hers.getByLabel("Account name").fill("Compilers and more");
    await hers.getByRole("button", { name: "Save" }).click();
    await hers.getByText("Saved", { exact: true }).waitFor();
    await hers.getByRole("button", { name: "Delete account" }).click();
    const sure = hers.getByRole("dialog").getByRole("button", { name: "Delete" });
    assert.ok(await sure.isDisabled());
    await hers.getByRole("dialog").getByRole("textbox").fill("Compilers and more");
    await sure.click();
    await hers.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
    assert.deepEqual(hers.complaints, []);
    await hers.context().close();
  });

  it("changes a password, ends one session and all", async () => {
    const other = await openPage(browser, server);
    await signIn(other, server);
    await page.goto(`${server.base}/account/you`);
    await page.getByRole("button", { name: /^End session Chrome/ }).first().click();
    await page.getByRole("button", { name: /^End session Chrome/ }).waitFor({ state: "detached" });
    await other.goto(`${server.base}/sites`);
    await other.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
    await other.context().close();
    await page.getByLabel("Current password").fill("not this one at all");
    await page.getByLabel("New password").fill(HERS);
    await page.getByRole("button", { name: "Change password" }).click();
    await page.getByText("Current password is not your password.").waitFor();
    await page.getByLabel("Current password").fill(PASSWORD);
    await page.getByRole("button", { name: "Change password" }).click();
    await page.getByText("Password changed.").waitFor();
    await page.getByRole("button", { name: "Sign out everywhere" }).click();
    await dialog().getByRole("button", { name: "Sign out everywhere" }).click();
    await page.getByRole("heading", { level: 1, name: "Sign in" }).waitFor();
    await signIn(page, server, { password: HERS });
    assert.deepEqual(page.complaints, []);
  });

  it("makes a key for one site", async () => {
    await page.goto(`${server.base}/account/keys`);
    await page.getByRole("button", { name: "Create key" }).click();
    await dialog().getByLabel("Name").fill("One site");
    await dialog().getByLabel("Site").selectOption({ label: "example.com" });
    const roles = await dialog().getByLabel("Role").locator("option").evaluateAll((options) => options.map(({ value }) => value));
    assert.deepEqual(roles, ["viewer", "editor"]);
    await dialog().getByRole("button", { name: "Create key" }).click();
    const key = await page.getByText(/^phk_\S{20,}/).textContent();
    const me = await (await fetch(`${server.own}/api/me`, { headers: { authorization: `Bearer ${key}` } })).json();
    assert.ok(me.site_id);
    await page.getByRole("cell", { name: "example.com" }).waitFor();
  });
});

it("says kindly that nobody signs up where the operator has not opened that", async () => {
  const server = await startServer();
  const page = await openPage(browser, server, { size: "phone" });
  try {
    await page.goto(`${server.base}/sign-up`);
    // Before anything is filled in.
    await page.getByRole("heading", { name: "Signing up is closed here" }).waitFor();
    await page.getByRole("link", { name: "Sign in" }).click();
    await page.getByLabel("E-mail address").waitFor();
    assert.equal(await page.getByRole("link", { name: "Sign up" }).count(), 0);
    await page.goBack();
    await page.getByRole("heading", { name: "Signing up is closed here" }).waitFor();
    await settle(page);
    assert.deepEqual(await violations(page), []);
    assert.equal(await overflows(page), false);
  } finally {
    await page.context().close();
    await server.stop();
  }
});

it("leaves people to Plausible where Plausible knows them", async () => {
  const server = await startServer();
  await setUp(server);
  const page = await openPage(browser, server);
  try {
    await signIn(page, server);
    // What the server answers beside a Plausible; the rest is this server's.
    await page.route("**/api/me", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: { ...(await response.json()), directory: "plausible" } });
    });
    await page.goto(`${server.base}/account/members`);
    await page.getByText("Accounts and people are Plausible's").waitFor();
    await page.getByText(EMAIL).waitFor();
    assert.equal(await page.getByRole("button", { name: /Invite|Leave|Remove/ }).count(), 0);
    await page.goto(`${server.base}/account/settings`);
    await page.getByLabel("Account name").waitFor();
    assert.equal(await page.getByRole("button", { name: /Save|Delete/ }).count(), 0);
    await page.goto(`${server.base}/account/you`);
    await page.getByText("Accounts and people are Plausible's").waitFor();
    assert.equal(await page.getByLabel("Current password").count(), 0);
  } finally {
    await page.context().close();
    await server.stop();
  }
});
