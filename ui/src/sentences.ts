// Triggers and events as sentences.
import type { Delivery, Goal, TriggerBody } from "./api/client";
import { number, wait } from "./format";
import { text } from "./text";

export function triggerSentence(trigger: TriggerBody, goals: Goal[] | undefined): string {
  const say = text.triggers.sentence;
  const shadow = trigger.shadow ? ` ${say.shadow}` : "";
  return core() + shadow;

  function core(): string {
    if (trigger.type === "webhook_health") return say.health;
    if (trigger.type === "goal_completion") {
      if (!trigger.goal_id) return say.anyGoal;
      const goal = goals?.find(({ id }) => id === trigger.goal_id);
      return goal ? say.goal(goal.display_name) : say.goalGone;
    }
    const least = number(trigger.min_visitors ?? 10);
    const percent = number(trigger.threshold ?? 50);
    const cooldown = wait(trigger.cooldown ?? "30m");
    if (trigger.baseline === "fixed") return say.fixed(least, cooldown);
    return (trigger.baseline === "previous" ? say.previous : say.typical)(percent, least, cooldown);
  }
}

/** What happened, in a few words. */
export function eventSentence(delivery: Delivery): string {
  const payload = delivery.payload as { data?: Record<string, unknown> };
  const data = typeof payload === "object" && payload ? (payload.data ?? {}) : {};
  const figure = (name: string) => number(Number(data[name] ?? 0));
  if (delivery.event_type === "visitor_spike" && "current_visitors" in data) {
    return text.deliveries.sentences.spike(figure("current_visitors"), figure("previous_visitors"), figure("change_percent"));
  }
  if (delivery.event_type === "goal_completion" && "goal_name" in data) {
    return text.deliveries.sentences.goal(String(data["goal_name"]), figure("count"));
  }
  if (typeof data["message"] === "string") return data["message"];
  return text.triggers.names[delivery.event_type] ?? delivery.event_type;
}
