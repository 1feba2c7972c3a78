// Triggers and events as sentences.
import type { Delivery, Goal, TriggerBody } from "./api/client";
import { number, wait } from "./format";
import { text } from "./text";

export function triggerSentence(trigger: TriggerBody, goals: Goal[] | undefined): string {
  const say = text.triggers.sentence;
  const shadow = trigger.shadow ? ` ${say.shadow}` : "";
  const places = (["page", "source", "country", "hostname"] as const).flatMap((name) => (trigger[name] ? [say.where[name](trigger[name])] : []));
  const wanted = [...Object.entries(trigger.properties ?? {}).map(([name, value]) => say.where.property(name, value)), ...places];
  const only = wanted.length ? ` ${say.only(wanted.join(", "))}` : "";
  return core() + only + shadow;

  function core(): string {
    if (trigger.type === "webhook_health") return say.health;
    if (trigger.type === "custom_event") return trigger.event_name ? say.event(trigger.event_name) : say.anyEvent;
    if (trigger.type === "goal_completion") {
      if (!trigger.goal_id) return say.anyGoal;
      const goal = goals?.find(({ id }) => id === trigger.goal_id);
      return goal ? say.goal(goal.display_name) : say.goalGone;
    }
    const least = number(trigger.min_visitors ?? 10);
    const percent = number(trigger.threshold ?? 50);
    const cooldown = wait(trigger.cooldown ?? "30m");
    const drop = trigger.type === "visitor_drop";
    const against = trigger.baseline === "previous" ? (drop ? say.dropPrevious : say.previous) : drop ? say.dropTypical : say.typical;
    const condition = trigger.baseline === "fixed" ? (drop ? say.dropFixed : say.fixed)(least, cooldown) : against(percent, least, cooldown);
    const lasts = trigger.min_duration && !/^0[a-z]*$/.test(trigger.min_duration) ? ` ${say.lasting(wait(trigger.min_duration))}` : "";
    return condition + lasts + (trigger.notify_end ? ` ${say.ends}` : "");
  }
}

/** What happened, in a few words. */
export function eventSentence(delivery: Delivery): string {
  const payload = delivery.payload as { data?: Record<string, unknown> };
  const data = typeof payload === "object" && payload ? (payload.data ?? {}) : {};
  const figure = (name: string) => number(Number(data[name] ?? 0));
  if (["visitor_spike", "visitor_drop"].includes(delivery.event_type) && "current_visitors" in data) {
    const { drop, spike } = text.deliveries.sentences;
    return (delivery.event_type === "visitor_drop" ? drop : spike)(figure("current_visitors"), figure("previous_visitors"), figure("change_percent"));
  }
  if (delivery.event_type === "goal_completion" && "goal_name" in data) {
    return text.deliveries.sentences.goal(String(data["goal_name"]), figure("count"));
  }
  const say = text.deliveries.sentences;
  if (delivery.event_type === "custom_event" && "event_name" in data) return say.event(String(data["event_name"]), figure("count"));
  if (delivery.event_type === "visitor_spike_ended" && "current_visitors" in data) return say.spikeOver(figure("current_visitors"));
  if (delivery.event_type === "visitor_drop_ended" && "current_visitors" in data) return say.dropOver(figure("current_visitors"));
  if (delivery.event_type === "webhook_health" && "failing_webhook_name" in data) {
    return (data["state"] === "disabled" ? say.disabled : say.failing)(String(data["failing_webhook_name"]));
  }
  if (typeof data["message"] === "string") return data["message"];
  return text.triggers.names[delivery.event_type] ?? delivery.event_type;
}
