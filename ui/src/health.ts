// How a webhook is, in one word and why.
import type { Delivery, Webhook } from "./api/client";
import { ago, due, lasting } from "./format";
import { text } from "./text";

export type Tone = "good" | "warn" | "bad" | "plain";
export type Word = keyof typeof text.webhooks.health;
export interface Health {
  word: Word;
  tone: Tone;
  why: string;
  /** The lower, the more it wants to be looked at. */
  rank: number;
}

const say = (word: Word, tone: Tone, rank: number, why: string): Health => ({ word, tone, why, rank });

export function healthOf(webhook: Webhook, last: Delivery | null | undefined): Health {
  const why = text.webhooks.why;
  switch (webhook.status) {
    case "disabled":
      return say("disabled", "bad", 0, text.webhooks.reasons[webhook.status_reason ?? ""] ?? webhook.status_reason ?? why.disabled);
    case "paused":
      return say("paused", "plain", 4, why.paused);
    case "failing": {
      const since = webhook.failing_since ? why.failing(lasting((Date.now() - Date.parse(webhook.failing_since)) / 1_000)) : "";
      return say("failing", "bad", 1, [since, last?.error_message ?? ""].filter(Boolean).join(": "));
    }
  }
  if (webhook.left_alone_until) return say("waiting", "warn", 2, why.waiting(due(webhook.left_alone_until)));
  if (!last) return say("unused", "plain", 5, why.unused);
  if (last.status === "retrying") {
    const next = last.next_attempt_at ? why.retrying(due(last.next_attempt_at)) : why.retryingNow;
    return say("retrying", "warn", 2, [next, last.error_message ?? ""].filter(Boolean).join(": "));
  }
  if (last.status === "failed") return say("failing", "bad", 1, last.error_message ?? why.lastFailed);
  return say("healthy", "good", 6, why.healthy(ago(last.updated_at)));
}
