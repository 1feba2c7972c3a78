import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { TriggerBody } from "../api/client";
import { goalsQuery } from "../api/queries";
import { wait } from "../format";
import { triggerSentence } from "../sentences";
import { text } from "../text";
import { Button, Check, SelectField, TextField } from "./ui";

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
      {value.type === "custom_event" && <EventFields value={value} set={set} errors={errors} />}
      {(value.type === "goal_completion" || value.type === "custom_event") && <Filters value={value} set={set} errors={errors} />}
      <Check label={words.shadow} checked={!!value.shadow} onChange={(event) => set({ shadow: event.target.checked })} />
      <p className="rounded-lg bg-tint px-4 py-3 text-sm">{triggerSentence(value, goals.data)}</p>
    </div>
  );
}

type Part = Pick<Props, "value" | "errors"> & { set: (part: Partial<TriggerBody>) => void };

/** Most properties that an event can be asked to have. */
const MOST_PROPERTIES = 3;

function EventFields({ value, set, errors }: Part) {
  // As they are typed: a name that is still empty, or there twice, is none yet.
  const [rows, setRows] = useState(() => Object.entries(value.properties ?? {}));
  const [include, setInclude] = useState((value.include_properties ?? []).join(", "));
  const change = (next: [string, string][]) => {
    setRows(next);
    set({ properties: Object.fromEntries(next.filter(([name]) => name.trim()).map(([name, wanted]) => [name.trim(), wanted])) });
  };
  return (
    <>
      <TextField label={words.eventName} hint={words.eventNameHint} errors={errors("event_name")} value={value.event_name ?? ""} onChange={(event) => set({ event_name: event.target.value })} required spellCheck={false} autoComplete="off" />
      <div className="grid gap-3">
        {rows.map(([name, wanted], index) => {
          const put = (row: [string, string]) => change(rows.map((one, at) => (at === index ? row : one)));
          return (
            <div key={index} className="grid grid-cols-[1fr_1fr_auto] items-end gap-2">
              <TextField label={words.property} value={name} onChange={(event) => put([event.target.value, wanted])} spellCheck={false} autoComplete="off" />
              <TextField label={words.propertyValue} value={wanted} onChange={(event) => put([name, event.target.value])} spellCheck={false} autoComplete="off" />
              <Button look="quiet" icon="trash" aria-label={`${words.removeProperty} ${name}`} onClick={() => change(rows.filter((_, at) => at !== index))} />
            </div>
          );
        })}
        {errors("properties") && <p className="text-sm font-medium text-bad">{words.property} {errors("properties")!.join(", ")}.</p>}
        {rows.length < MOST_PROPERTIES && <div><Button small icon="plus" onClick={() => setRows([...rows, ["", ""]])}>{words.addProperty}</Button></div>}
      </div>
      <TextField
        label={words.include}
        hint={words.includeHint}
        optional
        errors={errors("include_properties")}
        value={include}
        onChange={(event) => {
          setInclude(event.target.value);
          set({ include_properties: event.target.value.split(",").map((name) => name.trim()).filter(Boolean) });
        }}
        spellCheck={false}
        autoComplete="off"
      />
    </>
  );
}

function Filters({ value, set, errors }: Part) {
  const fields = [["page", words.page, words.pageHint], ["source", words.source, words.sourceHint], ["country", words.country, words.countryHint], ["hostname", words.hostname, undefined]] as const;
  const [open, setOpen] = useState(() => fields.some(([name]) => value[name]));
  const wrong = fields.some(([name]) => errors(name));
  return (
    <details className="rounded-lg border border-line" open={open || wrong} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="px-4 py-2.5 text-sm font-medium">{words.only}…</summary>
      <div className="grid items-start gap-4 border-t border-line p-4 sm:grid-cols-2">
        {fields.map(([name, label, hint]) => (
          <TextField key={name} label={label} hint={hint} optional errors={errors(name)} value={value[name] ?? ""} onChange={(event) => set({ [name]: (name === "country" ? event.target.value.toUpperCase() : event.target.value) || null })} spellCheck={false} autoComplete="off" maxLength={name === "country" ? 2 : undefined} />
        ))}
      </div>
    </details>
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

/** To change one: what was taken out is said to be gone. */
export const changes = (trigger: TriggerBody): TriggerBody => {
  const gone = Object.entries(trigger).filter(([, value]) => value === null || value === "");
  return { ...trimmed(trigger), ...Object.fromEntries(gone.map(([name]) => [name, null])) };
};
