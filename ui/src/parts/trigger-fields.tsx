import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import type { Goal, TriggerBody } from "../api/client";
import { goalsQuery } from "../api/queries";
import { wait } from "../format";
import { triggerSentence } from "../sentences";
import { text } from "../text";
import { Button, Check, SelectField, TextField } from "./ui";

const words = text.triggers;
const COOLDOWNS = ["5m", "15m", "30m", "1h", "2h", "6h", "12h", "24h"];
const DURATIONS = ["0", "5m", "10m", "15m", "30m", "1h"];
const SILENCES = ["5m", "15m", "30m", "1h", "2h", "6h", "12h", "1d", "3d", "7d"];
const TROUBLES = ["1m", "5m", "10m", "15m", "30m", "1h", "6h", "1d"];
const BATCHES = ["1m", "5m", "15m", "30m", "1h", "6h", "1d"];

const DEFAULTS: Record<string, Omit<TriggerBody, "type">> = {
  visitor_spike: { baseline: "typical", sensitivity: "normal", threshold: 50, min_visitors: 10, cooldown: "30m", min_duration: "0", notify_end: false },
  goal_stalled: { goal_id: null, sensitivity: "normal", notify_end: false },
  milestone: { metric: "visitors", period: "day", step: 1_000 },
  no_data: { after: "1h", notify_end: false },
  error_condition: { after: "5m", notify_end: false },
};

/** What the API takes when nothing is said, and something sensible where it takes nothing. */
export const fresh = (type: string): TriggerBody => ({ type, ...DEFAULTS[isChange(type) ? "visitor_spike" : type], shadow: false });

/** Whether it is about more or fewer visitors than expected. */
export const isChange = (type: string) => type === "visitor_spike" || type === "visitor_drop";
/** Whether it tells how often something happened. */
const isCount = (type: string) => type === "goal_completion" || type === "custom_event";
/** Whether it tells of something that is wrong for a while. */
const isTrouble = (type: string) => ["goal_stalled", "no_data", "error_condition"].includes(type);

/** Whether enough of it is known to try it on a site's history, which does not say what else went wrong. */
export const isTried = ({ type, goal_id, event_name, step, list }: TriggerBody) =>
  isChange(type) || type === "goal_completion" || type === "no_data" || (type === "custom_event" && !!event_name) ||
  (type === "goal_stalled" && !!goal_id) || (type === "milestone" && (!!step || !!list?.length));

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
      <SelectField label={words.kind} hint={words.kindHints[value.type]} errors={errors("type")} value={value.type} disabled={fixedType} onChange={(event) => onChange(fresh(event.target.value))} options={Object.entries(words.kinds)} />
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
          <SpanField label={words.cooldown} errors={errors("cooldown")} spans={COOLDOWNS} value={cooldown} onChange={(cooldown) => set({ cooldown })} />
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
          options={[["", words.anyGoal], ...named(goals.data)]}
        />
      )}
      {value.type === "goal_stalled" && <StalledFields site={site} goals={goals.data} value={value} set={set} errors={errors} />}
      {value.type === "milestone" && <MilestoneFields goals={goals.data} value={value} set={set} errors={errors} />}
      {value.type === "no_data" && (
        <SpanField label={words.silentFor} hint={words.silentHint} errors={errors("after")} spans={SILENCES} value={value.after ?? "1h"} onChange={(after) => set({ after })} />
      )}
      {value.type === "error_condition" && (
        <div className="grid items-start gap-4 sm:grid-cols-[1fr_10rem]">
          <SelectField label={words.condition} errors={errors("condition")} value={value.condition ?? ""} onChange={(event) => set({ condition: event.target.value || null })} options={Object.entries(words.conditions)} />
          <SpanField label={words.unseenFor} errors={errors("after")} spans={TROUBLES} value={value.after ?? "5m"} onChange={(after) => set({ after })} />
        </div>
      )}
      {value.type === "custom_event" && <EventFields value={value} set={set} errors={errors} />}
      {isCount(value.type) && <BatchFields value={value} set={set} errors={errors} />}
      {(isCount(value.type) || isChange(value.type)) && <Filters value={value} set={set} errors={errors} />}
      {isTrouble(value.type) && <Check label={words.notifyEnd} checked={!!value.notify_end} onChange={(event) => set({ notify_end: event.target.checked })} />}
      <Check label={words.shadow} checked={!!value.shadow} onChange={(event) => set({ shadow: event.target.checked })} />
      <p className="rounded-lg bg-tint px-4 py-3 text-sm">{triggerSentence(value, goals.data)}</p>
    </div>
  );
}

type Part = Pick<Props, "value" | "errors"> & { set: (part: Partial<TriggerBody>) => void };
type Goals = { goals: Goal[] | undefined };

const named = (goals: Goal[] | undefined) => (goals ?? []).map((goal): [string, string] => [goal.id, goal.display_name]);

interface SpanProps {
  label: string;
  hint?: string;
  errors: string[] | undefined;
  /** What is offered; a value that is none of them is offered too. */
  spans: string[];
  value: string;
  onChange: (span: string) => void;
}

function SpanField({ spans, onChange, ...rest }: SpanProps) {
  return <SelectField {...rest} onChange={(event) => onChange(event.target.value)} options={[...new Set([...spans, rest.value])].map((span) => [span, wait(span)])} />;
}

function StalledFields({ site, goals, value, set, errors }: Part & Goals & { site: string }) {
  const none = goals?.length === 0;
  return (
    <>
      <SelectField
        label={words.goal}
        hint={none && <>{words.noGoalToWatch} <Link to="/sites/$site/goals" params={{ site }} className="link">{words.addGoal}</Link></>}
        errors={errors("goal_id")}
        value={value.goal_id ?? ""}
        onChange={(event) => set({ goal_id: event.target.value || null })}
        options={[["", words.chooseGoal], ...named(goals)]}
        required
      />
      <SelectField label={words.sensitivity} hint={words.sensitivityHints[value.sensitivity ?? "normal"]} errors={errors("sensitivity")} value={value.sensitivity ?? "normal"} onChange={(event) => set({ sensitivity: event.target.value })} options={Object.entries(words.sensitivities)} />
    </>
  );
}

function MilestoneFields({ goals, value, set, errors }: Part & Goals) {
  const marks = value.list ? "list" : "step";
  // As it is typed: what is no number is left for the server to refuse.
  const [list, setList] = useState(() => (value.list ?? []).join(", "));
  const take = (typed: string) => {
    setList(typed);
    const numbers = typed.split(/[,;\s]+/).filter(Boolean).map(Number);
    set({ list: numbers, step: null });
  };
  const conversions = value.metric === "conversions";
  return (
    <div className="grid items-start gap-4 sm:grid-cols-2">
      <SelectField label={words.metric} errors={errors("metric")} value={value.metric ?? "visitors"} onChange={(event) => set({ metric: event.target.value, goal_id: null })} options={Object.entries(words.metrics)} />
      {conversions && (
        <SelectField label={words.ofGoal} hint={goals?.length === 0 ? words.noGoals : undefined} errors={errors("goal_id")} value={value.goal_id ?? ""} onChange={(event) => set({ goal_id: event.target.value || null })} options={[["", words.allGoals], ...named(goals)]} />
      )}
      <div className={conversions ? "sm:col-span-2" : ""}>
        <SelectField label={words.period} errors={errors("period")} value={value.period ?? "day"} onChange={(event) => set({ period: event.target.value })} options={Object.entries(words.periods)} />
      </div>
      <SelectField
        label={words.marks}
        value={marks}
        onChange={(event) => (event.target.value === "list" ? take(list || "1000, 5000, 10000") : set({ step: value.step ?? 1_000, list: null }))}
        options={Object.entries(words.marksOf)}
      />
      {marks === "step" ? (
        <TextField label={words.step} errors={errors("step")} type="number" min={1} value={value.step ?? ""} onChange={(event) => set({ step: event.target.value === "" ? null : Number(event.target.value) })} required />
      ) : (
        <TextField label={words.list} hint={words.listHint} errors={errors("list")} value={list} onChange={(event) => take(event.target.value)} required spellCheck={false} autoComplete="off" />
      )}
    </div>
  );
}

function BatchFields({ value: { batch }, set, errors }: Part) {
  const how = typeof batch === "string" ? "span" : typeof batch === "number" ? "count" : "once";
  const choose = (how: string) => set({ batch: how === "span" ? "15m" : how === "count" ? 100 : null });
  return (
    <div className="grid items-start gap-4 sm:grid-cols-[1fr_10rem]">
      <div className={how === "once" ? "sm:col-span-2" : ""}>
        <SelectField label={words.batch} value={how} errors={how === "once" ? errors("batch") : undefined} onChange={(event) => choose(event.target.value)} options={Object.entries(words.batches)} />
      </div>
      {typeof batch === "string" && <SpanField label={words.batchSpan} errors={errors("batch")} spans={BATCHES} value={batch} onChange={(batch) => set({ batch })} />}
      {typeof batch === "number" && (
        // None typed is still a number, so that the field stays.
        <TextField label={words.batchCount} hint={words.batchCountHint} errors={errors("batch")} type="number" min={2} max={10_000} value={batch || ""} onChange={(event) => set({ batch: Number(event.target.value) })} required />
      )}
    </div>
  );
}

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
    <details className="@container rounded-lg border border-line" open={open || wrong} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="px-4 py-2.5 text-sm font-medium">{words.only}…</summary>
      <div className="grid items-start gap-4 border-t border-line p-4 @md:grid-cols-2">
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
