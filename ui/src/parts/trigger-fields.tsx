import { useQuery } from "@tanstack/react-query";
import type { TriggerBody } from "../api/client";
import { goalsQuery } from "../api/queries";
import { wait } from "../format";
import { triggerSentence } from "../sentences";
import { text } from "../text";
import { Check, SelectField, TextField } from "./ui";

const words = text.triggers;
const COOLDOWNS = ["5m", "15m", "30m", "1h", "2h", "6h", "12h", "24h"];
const DURATIONS = ["0", "5m", "10m", "15m", "30m", "1h"];

/** What the API takes when nothing is said. */
export const fresh = (type: string): TriggerBody =>
  isChange(type)
    ? { type, baseline: "typical", sensitivity: "normal", threshold: 50, min_visitors: 10, cooldown: "30m", min_duration: "0", notify_end: false, shadow: false }
    : { type, shadow: false };

/** Whether it is about more or fewer visitors than expected. */
export const isChange = (type: string) => type === "visitor_spike" || type === "visitor_drop";

interface Props {
  site: string;
  value: TriggerBody;
  onChange: (trigger: TriggerBody) => void;
  /** By field, as the server says them. */
  errors: (field: string) => string[] | undefined;
  /** The type of one that exists cannot change. */
  fixedType?: boolean;
}

export function TriggerFields({ site, value, onChange, errors, fixedType }: Props) {
  const goals = useQuery(goalsQuery(site));
  const set = (part: Partial<TriggerBody>) => onChange({ ...value, ...part });
  const cooldown = value.cooldown ?? "30m";
  const lasting = value.min_duration ?? "0";
  const drop = value.type === "visitor_drop";
  return (
    <div className="grid gap-4">
      <SelectField label={words.kind} errors={errors("type")} value={value.type} disabled={fixedType} onChange={(event) => onChange(fresh(event.target.value))} options={Object.entries(words.kinds)} />
      {isChange(value.type) && (
        <div className="grid items-start gap-4 sm:grid-cols-2">
          <div className="sm:col-span-2">
            <SelectField label={words.baseline} errors={errors("baseline")} value={value.baseline ?? "typical"} onChange={(event) => set({ baseline: event.target.value })} options={Object.entries(words.baselines)} />
          </div>
          {(value.baseline ?? "typical") === "typical" && (
            <div className="sm:col-span-2">
              <SelectField label={words.sensitivity} hint={words.sensitivityHints[value.sensitivity ?? "normal"]} errors={errors("sensitivity")} value={value.sensitivity ?? "normal"} onChange={(event) => set({ sensitivity: event.target.value })} options={Object.entries(words.sensitivities)} />
            </div>
          )}
          {value.baseline !== "fixed" && (
            <TextField label={drop ? words.thresholdBelow : words.threshold} errors={errors("threshold")} type="number" min={1} max={drop ? 100 : 10_000} value={value.threshold ?? ""} onChange={(event) => set({ threshold: event.target.value === "" ? null : Number(event.target.value) })} required />
          )}
          <TextField label={drop ? (value.baseline === "fixed" ? words.fixedBelow : words.minExpected) : words.minVisitors} errors={errors("min_visitors")} type="number" min={1} value={value.min_visitors ?? ""} onChange={(event) => set({ min_visitors: event.target.value === "" ? null : Number(event.target.value) })} required />
          <SelectField label={words.cooldown} errors={errors("cooldown")} value={cooldown} onChange={(event) => set({ cooldown: event.target.value })} options={[...new Set([...COOLDOWNS, cooldown])].map((span) => [span, wait(span)])} />
          <SelectField label={words.minDuration} errors={errors("min_duration")} value={lasting} onChange={(event) => set({ min_duration: event.target.value })} options={[...new Set([...DURATIONS, lasting])].map((span) => [span, span === "0" ? words.atOnce : wait(span)])} />
          <div className="sm:col-span-2"><Check label={words.notifyEnd} checked={!!value.notify_end} onChange={(event) => set({ notify_end: event.target.checked })} /></div>
        </div>
      )}
      {value.type === "goal_completion" && (
        <SelectField
          label={words.goal}
          hint={goals.data?.length === 0 ? words.noGoals : undefined}
          errors={errors("goal_id")}
          value={value.goal_id ?? ""}
          onChange={(event) => set({ goal_id: event.target.value || null })}
          options={[["", words.anyGoal], ...(goals.data ?? []).map((goal): [string, string] => [goal.id, goal.display_name])]}
        />
      )}
      <Check label={words.shadow} checked={!!value.shadow} onChange={(event) => set({ shadow: event.target.checked })} />
      <p className="rounded-lg bg-tint px-4 py-3 text-sm">{triggerSentence(value, goals.data)}</p>
    </div>
  );
}

/** Without what is empty: a field left out has its default. */
export const trimmed = (trigger: TriggerBody): TriggerBody =>
  Object.fromEntries(
    Object.entries(trigger).filter(
      ([name, value]) =>
        value !== null && value !== undefined && !(name === "threshold" && trigger.baseline === "fixed") &&
        !(name === "sensitivity" && (trigger.baseline ?? "typical") !== "typical"),
    ),
  ) as unknown as TriggerBody;
