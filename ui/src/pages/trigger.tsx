import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import { backtestQuery, type Backtest, type Basis } from "../api/backtest";
import { api, answer, type Trigger, type TriggerBody } from "../api/client";
import { webhookQuery } from "../api/queries";
import { exact, number } from "../format";
import { useForm } from "../parts/form";
import { changes, fresh, isChange, isTried, TriggerFields, trimmed } from "../parts/trigger-fields";
import type { Handle } from "../parts/chart";
import { Asked, Button, ButtonLink, Card, Head, Loading, NotFound, Notice, ProblemNotice } from "../parts/ui";
import { ViewerNotice, Writes } from "../parts/writes";
import { text } from "../text";

const Chart = lazy(async () => ({ default: (await import("../parts/chart")).Chart }));
const words = text.triggers;
const DAY = 86_400_000;
/** How often a trigger fires by noise alone, at most, by sensitivity: what `sensitivityHints` says, a day. */
const NOISE_A_DAY: Record<string, number> = { low: 1 / 60, normal: 1 / 14, high: 2 / 7 };

export function NewTrigger() {
  const { site, webhook } = useParams({ from: "/shell/sites/$site/webhooks/$webhook/triggers/new" });
  return <TriggerForm site={site} id={webhook} />;
}

export function EditTrigger() {
  const { site, webhook: id, trigger: triggerId } = useParams({ from: "/shell/sites/$site/webhooks/$webhook/triggers/$trigger" });
  const webhook = useQuery({ ...webhookQuery(site, id), staleTime: Infinity });
  return (
    <Asked query={webhook} whole>
      {(known) => {
        const trigger = known.triggers.find((one) => one.id === triggerId);
        return trigger ? <TriggerForm site={site} id={id} known={trigger} /> : <NotFound />;
      }}
    </Asked>
  );
}

function TriggerForm(props: { site: string; id: string; known?: Trigger }) {
  return <Writes instead={<><Head title={props.known ? words.editTitle : words.addTitle} /><ViewerNotice /></>}><TriggerEditor {...props} /></Writes>;
}

function TriggerEditor({ site, id, known }: { site: string; id: string; known?: Trigger }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const webhook = useQuery(webhookQuery(site, id));
  const [value, setValue] = useState<TriggerBody>(() => {
    if (!known) return fresh("visitor_spike");
    const { id: _id, inserted_at: _at, ...body } = known;
    return body;
  });
  const form = useForm(async () => {
    const path = { site, id };
    if (known) await answer(api.PATCH("/api/sites/{site}/webhooks/{id}/triggers/{trigger_id}", { params: { path: { ...path, trigger_id: known.id } }, body: changes(value) }));
    else await answer(api.POST("/api/sites/{site}/webhooks/{id}/triggers", { params: { path }, body: trimmed(value) }));
    await client.invalidateQueries({ queryKey: ["webhook", site, id] });
    await navigate({ to: "/sites/$site/webhooks/$webhook", params: { site, webhook: id } });
  });
  const settled = useSettled(value);
  const backtest = useQuery({ ...backtestQuery(site, trimmed(settled)), enabled: isTried(settled) });
  const told = isTried(value) && value.type === settled.type ? backtest.data : null;
  return (
    <>
      <Head title={known ? words.editTitle : words.addTitle} above={<Link to="/sites/$site/webhooks/$webhook" params={{ site, webhook: id }} className="link">{webhook.data?.name ?? text.webhooks.title}</Link>} />
      <div className={told ? "grid items-start gap-6 lg:grid-cols-[26rem_minmax(0,1fr)]" : "max-w-xl"}>
        <form onSubmit={form.submit} className="card grid gap-5 p-5">
          <ProblemNotice problem={form.rest} />
          <TriggerFields site={site} value={value} onChange={setValue} errors={(field) => form.errors[field]} fixedType={!!known} />
          <div className="flex justify-end gap-2">
            <ButtonLink to="/sites/$site/webhooks/$webhook" params={{ site, webhook: id }}>{text.common.cancel}</ButtonLink>
            <Button type="submit" look="main" busy={form.busy}>{known ? text.common.save : words.add}</Button>
          </div>
        </form>
        {told && <History told={told} trigger={value} onChange={(part) => setValue((before) => ({ ...before, ...part }))} />}
      </div>
    </>
  );
}

/** What the end of the line is set by, where it is set by something. */
function handleOf(told: Backtest, trigger: TriggerBody, line: (number | undefined)[], onChange: (part: Partial<TriggerBody>) => void): Handle | undefined {
  const last = line.findLastIndex((value) => value !== undefined);
  const at = line[last];
  if (at === undefined) return undefined;
  const drop = trigger.type === "visitor_drop";
  if (trigger.baseline === "fixed") {
    const value = trigger.min_visitors ?? 10;
    return {
      label: words.line, value, min: 1, max: Math.max(1_000, value * 2), said: words.lineVisitors(number(value)), at,
      valueAt: (height) => height,
      onChange: (min_visitors) => onChange({ min_visitors }),
    };
  }
  const expected = told.series[last]?.expected;
  if (!expected) return undefined;
  const value = trigger.threshold ?? 50;
  return {
    label: words.line, value, min: 1, max: drop ? 100 : 10_000, said: (drop ? words.lineBelow : words.lineAbove)(number(value)), at,
    valueAt: (height) => (drop ? 1 - height / expected : height / expected - 1) * 100,
    onChange: (threshold) => onChange({ threshold }),
  };
}

/** What somebody still types is not asked about. */
function useSettled<T>(value: T): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), 300);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

const basisSentence = (basis: Basis) => ("history" in basis ? words.basis.history(basis.history.days) : words.basis.last_hours(basis.last_hours.hours));

function History({ told, trigger, onChange }: { told: Backtest; trigger: TriggerBody; onChange: (part: Partial<TriggerBody>) => void }) {
  const change = isChange(trigger.type);
  const threshold = useMemo(
    () =>
      told.series.map((point) => {
        if (!change) return undefined;
        const least = trigger.min_visitors ?? 10;
        if (trigger.baseline === "fixed") return least;
        if (trigger.baseline === "previous" || point.expected === undefined) return undefined;
        const part = (trigger.threshold ?? 50) / 100;
        // Where fewer are expected a drop is not told.
        if (trigger.type === "visitor_drop") return point.expected < least ? undefined : point.expected * (1 - part);
        return Math.max(least, point.expected * (1 + part));
      }),
    [told, trigger, change],
  );
  // Where few moments stand out one threshold keeps to several budgets: the strictest says it.
  const suggestions = told.suggestions.filter((one, index, all) => all.findIndex(({ threshold }) => threshold === one.threshold) === index);
  const [first, last] = change ? [told.series[0]?.timestamp, told.series.at(-1)?.timestamp] : [told.from, told.to];
  const days = first && last ? Math.max(1, Math.round((Date.parse(last) - Date.parse(first)) / DAY)) : 1;
  const noise = change && (trigger.baseline ?? "typical") === "typical" ? NOISE_A_DAY[trigger.sensitivity ?? "normal"] : undefined;
  const budget = noise && words.noise(Math.max(1, Math.round(noise * days)), days);
  const lead = words.chartLead(told.firings_total, days);
  // Of visitors there is a count for every moment; of other things there may be none, which is an answer too.
  if (told.series.length === 0) return <Card title={words.chart}><p className="p-5 text-muted">{change ? words.chartNone : lead}</p></Card>;
  return (
    <Card title={words.chart} className="min-w-0 lg:sticky lg:top-20">
      <div className="grid gap-4 p-5">
        <Suspense fallback={<Loading />}>
          <Chart told={told} summary={lead} counted={change ? words.series.observed : words.series.counted} threshold={threshold} handle={handleOf(told, trigger, threshold, onChange)} />
        </Suspense>
        {told.basis && trigger.baseline !== "fixed" && trigger.baseline !== "previous" && <p className="text-sm text-muted">{basisSentence(told.basis)}</p>}
        {trigger.baseline !== "fixed" && told.suggestions.length > 0 && (
          <div className="grid gap-2">
            <p className="text-sm font-medium">{words.budget}</p>
            <div className="flex flex-wrap gap-2">
              {suggestions.map(({ per_month, threshold }) => (
                <Button key={per_month} small aria-pressed={threshold === trigger.threshold} onClick={() => onChange({ threshold })}>{words.suggestion(per_month, number(threshold))}</Button>
              ))}
            </div>
          </div>
        )}
        {budget && <p className="text-sm text-muted">{budget}</p>}
        {change && told.firings_total > days && <Notice tone="warn">{words.chartOften}</Notice>}
        {told.firings.length > 0 && (
          <ul className="grid max-h-48 gap-1 overflow-y-auto text-sm" tabIndex={0} aria-label={words.firedAt}>
            {told.firings.toReversed().map((firing) => (
              <li key={`${firing.timestamp} ${firing.reason}`}><time dateTime={firing.timestamp}>{exact(firing.timestamp)}</time>: {change && firing.expected !== undefined ? text.deliveries.sentences.seen(number(firing.observed), number(firing.expected)) : firing.reason}</li>
            ))}
          </ul>
        )}
      </div>
    </Card>
  );
}
