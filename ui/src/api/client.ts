// The one way to the API: types come from openapi.json, whatever goes wrong becomes a `Problem`.
import createClient from "openapi-fetch";
import { text } from "../text";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Site = Schemas["Site"];
export type Webhook = Schemas["Webhook"];
export type WebhookBody = Schemas["WebhookBody"];
export type Trigger = Schemas["Trigger"];
export type TriggerBody = Schemas["TriggerBody"];
export type Goal = Schemas["Goal"];
export type Delivery = Schemas["Delivery"];
export type Attempt = Schemas["Attempt"];
export type ApiKey = Schemas["ApiKey"];
export type Member = Schemas["Member"];
export type Invitation = Schemas["Invitation"];
export type Session = Schemas["Session"];
export type Resend = Schemas["Resend"];
export type InboxRequest = Schemas["InboxRequest"];
export type CheckStep = Schemas["CheckStep"];

/** What a webhook has in place of an address when the built-in inbox takes its deliveries. */
export const INBOX = "inbox:";

/** Where this installation lives, without a slash at the end. */
export const home = new URL(".", document.baseURI).href.replace(/\/$/, "");
/** The path of it, for the router. */
export const basePath = new URL(document.baseURI).pathname.replace(/\/$/, "") || "/";

export const api = createClient<paths>({ baseUrl: home, credentials: "same-origin" });

/** What did not work, in words for people. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly fields: Record<string, string[]>;
  readonly requestId: string | null;

  constructor(status: number, code: string, detail: string, fields: Record<string, string[]>, requestId: string | null) {
    super(detail);
    this.status = status;
    this.code = code;
    this.fields = fields;
    this.requestId = requestId;
  }

  static of(error: unknown): Problem {
    return error instanceof Problem ? error : new Problem(0, "unreachable", text.problem.unreachable, {}, null);
  }
}

interface Told<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

let away = false;
const watchers = new Set<() => void>();
function note(is: boolean) {
  if (away === is) return;
  away = is;
  for (const watcher of watchers) watcher();
}

/** Whether the server answered nothing when it was last asked. */
export const reach = {
  isAway: () => away,
  watch: (watcher: () => void) => {
    watchers.add(watcher);
    return () => watchers.delete(watcher);
  },
};

/** The body of an answer, or a `Problem`. */
export async function answer<T>(call: Promise<Told<T>>): Promise<T> {
  let told: Told<T>;
  try {
    told = await call;
  } catch (error) {
    // What was given up here says nothing about the server.
    if (!(error instanceof DOMException && error.name === "AbortError")) note(true);
    throw Problem.of(error);
  }
  note(false);
  if (told.response.ok) return told.data as T;
  const body = (told.error ?? {}) as Partial<Schemas["Problem"]>;
  const detail = body.detail ?? text.problem.status(told.response.status);
  const id = told.response.headers.get("x-request-id");
  throw new Problem(told.response.status, body.code ?? "unknown", detail, body.errors ?? {}, id);
}
