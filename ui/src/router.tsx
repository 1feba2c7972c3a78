// The table of contents: every address and what it draws.
import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext, createRoute, createRouter, lazyRouteComponent, redirect, Outlet,
} from "@tanstack/react-router";
import { Problem, basePath } from "./api/client";
import { meQuery, type DeliveryFilter } from "./api/queries";
import { Crash, Lost } from "./pages/lost";
import { SetUp } from "./pages/setup";
import { Shell } from "./pages/shell";
import { SignIn } from "./pages/sign-in";
import { Invitation } from "./pages/invitation";
import { SignUp } from "./pages/sign-up";
import { SiteFrame } from "./pages/site-frame";
import { NotFound } from "./parts/ui";
import { STEPS, type StartSearch, type Step } from "./steps";

const optional = (value: unknown) => (typeof value === "string" && value !== "" ? value : undefined);

/** What of an address narrows a list of deliveries. */
function filterOf(search: Record<string, unknown>, names: (keyof DeliveryFilter)[]): DeliveryFilter {
  const filter: DeliveryFilter = {};
  for (const name of names) {
    const value = optional(search[name]);
    if (value) filter[name] = value;
  }
  return filter;
}

const root = createRootRouteWithContext<{ client: QueryClient }>()({ component: Outlet, notFoundComponent: Lost });

const setup = createRoute({
  getParentRoute: () => root,
  path: "/setup",
  component: SetUp,
  validateSearch: (search): { token?: string | undefined } => ({ token: search["token"] === undefined ? undefined : String(search["token"]) }),
});
const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  component: SignIn,
  validateSearch: (search): { to?: string | undefined } => ({ to: optional(search["to"]) }),
});
const signUp = createRoute({ getParentRoute: () => root, path: "/sign-up", component: SignUp });
const invitation = createRoute({
  getParentRoute: () => root,
  path: "/invitation",
  component: Invitation,
  validateSearch: (search): { token?: string | undefined } => ({ token: search["token"] === undefined ? undefined : String(search["token"]) }),
});

const shell = createRoute({
  getParentRoute: () => root,
  id: "shell",
  component: Shell,
  errorComponent: Crash,
  notFoundComponent: NotFound,
  beforeLoad: async ({ context, location }) => {
    try {
      await context.client.ensureQueryData(meQuery);
    } catch (error) {
      if (error instanceof Problem && error.status === 401) throw redirect({ to: "/sign-in", search: { to: location.href } });
      throw error;
    }
  },
});
const overview = createRoute({ getParentRoute: () => shell, path: "/", component: lazyRouteComponent(() => import("./pages/overview"), "Overview") });
const sites = createRoute({ getParentRoute: () => shell, path: "/sites", component: lazyRouteComponent(() => import("./pages/sites"), "Sites") });
const newSite = createRoute({ getParentRoute: () => shell, path: "/sites/new", component: lazyRouteComponent(() => import("./pages/sites"), "NewSite") });

const start = createRoute({
  getParentRoute: () => shell,
  path: "/start",
  component: lazyRouteComponent(() => import("./pages/start"), "Start"),
  validateSearch: (search): StartSearch => {
    const found: StartSearch = {};
    const { site, webhook, step } = search;
    if (optional(site)) found.site = String(site);
    if (optional(webhook)) found.webhook = String(webhook);
    if (STEPS.includes(step as Step)) found.step = step as Step;
    return found;
  },
});

const site = createRoute({ getParentRoute: () => shell, path: "/sites/$site", component: SiteFrame });
const siteStart = createRoute({
  getParentRoute: () => site,
  path: "/",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/sites/$site/webhooks", params, replace: true });
  },
});
const webhooks = createRoute({ getParentRoute: () => site, path: "/webhooks", component: lazyRouteComponent(() => import("./pages/webhooks"), "Webhooks") });
const goals = createRoute({ getParentRoute: () => site, path: "/goals", component: lazyRouteComponent(() => import("./pages/goals"), "Goals") });
const install = createRoute({ getParentRoute: () => site, path: "/install", component: lazyRouteComponent(() => import("./pages/install"), "Install") });
const settings = createRoute({ getParentRoute: () => site, path: "/settings", component: lazyRouteComponent(() => import("./pages/site-settings"), "SiteSettings") });
const newWebhook = createRoute({ getParentRoute: () => site, path: "/webhooks/new", component: lazyRouteComponent(() => import("./pages/webhook-form"), "NewWebhook") });
const webhook = createRoute({
  getParentRoute: () => site,
  path: "/webhooks/$webhook",
  component: lazyRouteComponent(() => import("./pages/webhook"), "WebhookPage"),
  validateSearch: (search): DeliveryFilter => filterOf(search, ["status", "trigger_type", "from", "to"]),
});
const deliveries = createRoute({
  getParentRoute: () => site,
  path: "/deliveries",
  component: lazyRouteComponent(() => import("./pages/deliveries"), "DeliveriesPage"),
  validateSearch: (search): DeliveryFilter => filterOf(search, ["webhook_id", "status", "trigger_type", "from", "to"]),
});
const editWebhook = createRoute({ getParentRoute: () => site, path: "/webhooks/$webhook/edit", component: lazyRouteComponent(() => import("./pages/webhook-form"), "EditWebhook") });
const newTrigger = createRoute({ getParentRoute: () => site, path: "/webhooks/$webhook/triggers/new", component: lazyRouteComponent(() => import("./pages/trigger"), "NewTrigger") });
const editTrigger = createRoute({ getParentRoute: () => site, path: "/webhooks/$webhook/triggers/$trigger", component: lazyRouteComponent(() => import("./pages/trigger"), "EditTrigger") });
const delivery = createRoute({ getParentRoute: () => site, path: "/webhooks/$webhook/deliveries/$delivery", component: lazyRouteComponent(() => import("./pages/delivery"), "DeliveryPage") });

const keys = createRoute({ getParentRoute: () => shell, path: "/account/keys", component: lazyRouteComponent(() => import("./pages/keys"), "Keys") });
const members = createRoute({ getParentRoute: () => shell, path: "/account/members", component: lazyRouteComponent(() => import("./pages/members"), "Members") });
const audit = createRoute({ getParentRoute: () => shell, path: "/account/audit", component: lazyRouteComponent(() => import("./pages/audit"), "Audit") });
const you = createRoute({ getParentRoute: () => shell, path: "/account/you", component: lazyRouteComponent(() => import("./pages/you"), "You") });
const accountSettings = createRoute({ getParentRoute: () => shell, path: "/account/settings", component: lazyRouteComponent(() => import("./pages/account-settings"), "AccountSettings") });
const help = createRoute({ getParentRoute: () => shell, path: "/help/signatures", component: lazyRouteComponent(() => import("./pages/signatures"), "Signatures") });
const operation = createRoute({ getParentRoute: () => shell, path: "/operation", component: lazyRouteComponent(() => import("./pages/operation"), "Operation") });

const tree = root.addChildren([
  setup,
  signIn,
  signUp,
  invitation,
  shell.addChildren([
    overview,
    sites,
    newSite,
    start,
    site.addChildren([siteStart, webhooks, deliveries, goals, install, settings, newWebhook, webhook, editWebhook, newTrigger, editTrigger, delivery]),
    keys,
    members,
    audit,
    you,
    accountSettings,
    help,
    operation,
  ]),
]);

export const makeRouter = (client: QueryClient) =>
  createRouter({
    routeTree: tree,
    basepath: basePath,
    context: { client },
    defaultPreload: "intent",
    defaultErrorComponent: Crash,
    scrollRestoration: true,
  });

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
