// Triggers and events as sentences.
import type { Delivery, Goal, TriggerBody } from "./api/client";
import { either, lasting, number, wait } from "./format";
import { text } from "./text";

export function triggerSentence(trigger: TriggerBody, goals: Goal[] | undefined): string {
  const say = text.triggers.sentence;
  const shadow = trigger.shadow ? ` ${say.shadow}` : "";
  const places = (["page", "source", "country", "hostname"] as const).flatMap((name) => (trigger[name] ? [say.where[name](trigger[name])] : []));
  const wanted = [...Object.entries(trigger.properties ?? {}).map(([name, value]) => say.where.property(name, value)), ...places];
  const only = wanted.length ? ` ${say.only(wanted.join(", "))}` : "";
  const together = typeof trigger.batch === "string" ? ` ${say.batchSpan(wait(trigger.batch))}` : trigger.batch ? ` ${say.batchCount(number(trigger.batch))}` : "";
  const ends = trigger.notify_end ? ` ${say.ends}` : "";
  return core() + only + together + ends + shadow;

  function core(): string {
    const goal = goals?.find(({ id }) => id === trigger.goal_id)?.display_name;
    switch (trigger.type) {
      case "webhook_health":
        return say.health;
      case "custom_event":
        return trigger.event_name ? say.event(trigger.event_name) : say.anyEvent;
      case "goal_completion":
        return trigger.goal_id ? (goal ? say.goal(goal) : say.goalGone) : say.anyGoal;
      case "goal_stalled":
        return trigger.goal_id ? (goal ? say.stalled(goal) : say.stalledGone) : say.stalledNone;
      case "no_data":
        return say.noData(wait(trigger.after ?? "1h"));
      case "error_condition":
        return (say.unseen[trigger.condition ?? ""] ?? say.unseen[""]!)(wait(trigger.after ?? "5m"));
      case "milestone": {
        const counted = trigger.goal_id ? (goal ? say.completions(goal) : say.completionsGone) : (say.metrics[trigger.metric ?? "visitors"] ?? "");
        const list = trigger.list?.filter(Number.isFinite) ?? [];
        const marks = list.length ? either(list.toSorted((one, other) => one - other)) : trigger.step ? say.multiple(number(trigger.step)) : say.noMarks;
        return say.milestone(counted, trigger.period ?? "day", marks);
      }
      default:
        return change();
    }
  }

  function change(): string {
    const least = number(trigger.min_visitors ?? 10);
    const percent = number(trigger.threshold ?? 50);
    const cooldown = wait(trigger.cooldown ?? "30m");
    const drop = trigger.type === "visitor_drop";
    const against = trigger.baseline === "previous" ? (drop ? say.dropPrevious : say.previous) : drop ? say.dropTypical : say.typical;
    const condition = trigger.baseline === "fixed" ? (drop ? say.dropFixed : say.fixed)(least, cooldown) : against(percent, least, cooldown);
    const lasts = trigger.min_duration && !/^0[a-z]*$/.test(trigger.min_duration) ? ` ${say.lasting(wait(trigger.min_duration))}` : "";
    return condition + lasts;
  }
}

/** What happened, in a few words. */
export function eventSentence(delivery: Delivery): string {
  const payload = delivery.payload as { data?: Record<string, unknown> };
  const data = typeof payload === "object" && payload ? (payload.data ?? {}) : {};
  const figure = (name: string) => number(Number(data[name] ?? 0));
  // What a test says of the endpoint is true only once it arrived.
  if (delivery.event_type === "test") return text.deliveries.sentences.test;
  if (["visitor_spike", "visitor_drop"].includes(delivery.event_type) && "current_visitors" in data) {
    const { drop, spike, spikeFromNothing } = text.deliveries.sentences;
    // A percentage of nothing says nothing.
    if (delivery.event_type === "visitor_spike" && !data["previous_visitors"]) return spikeFromNothing(figure("current_visitors"));
    return (delivery.event_type === "visitor_drop" ? drop : spike)(figure("current_visitors"), figure("previous_visitors"), figure("change_percent"));
  }
  if (delivery.event_type === "goal_completion" && "goal_name" in data) {
    return text.deliveries.sentences.goal(String(data["goal_name"]), figure("count"));
  }
  const say = text.deliveries.sentences;
  if (delivery.event_type === "custom_event" && "event_name" in data) return say.event(String(data["event_name"]), figure("count"));
  if (delivery.event_type === "visitor_spike_ended" && "current_visitors" in data) return say.spikeOver(figure("current_visitors"));
  if (delivery.event_type === "visitor_drop_ended" && "current_visitors" in data) return say.dropOver(figure("current_visitors"));
  const long = (name: string) => lasting(Number(data[name] ?? 0));
  const goal = String(data["goal_name"]);
  const condition = String(data["condition"]);
  switch (delivery.event_type) {
    case "goal_stalled":
      if ("goal_name" in data) return say.stalled(goal, long("silent_seconds"));
      break;
    case "goal_stalled_ended":
      if ("goal_name" in data) return say.stalledOver(goal, long("duration_seconds"));
      break;
    case "milestone":
      if ("goal_name" in data) return say.milestoneOf(goal, figure("milestone"), String(data["period"]));
      if ("milestone" in data) return say.milestone(figure("milestone"), text.triggers.metrics[String(data["metric"])] ?? "", String(data["period"]));
      break;
    case "no_data":
      if ("silent_seconds" in data) return say.noData(long("silent_seconds"));
      break;
    case "no_data_ended":
      if ("duration_seconds" in data) return say.noDataOver(long("duration_seconds"));
      break;
    case "error_condition":
      if (say.unseen[condition]) return say.unseen[condition](long("duration_seconds"));
      break;
    case "error_condition_ended":
      if (say.unseenOver[condition]) return say.unseenOver[condition](long("duration_seconds"));
      break;
  }
  if (delivery.event_type === "webhook_health" && "failing_webhook_name" in data) {
    return (data["state"] === "disabled" ? say.disabled : say.failing)(String(data["failing_webhook_name"]));
  }
  if (typeof data["message"] === "string") return data["message"];
  return text.triggers.names[delivery.event_type] ?? delivery.event_type;
}
