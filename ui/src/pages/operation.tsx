import { useQuery } from "@tanstack/react-query";
import type { Schemas } from "../api/client";
import { meQuery, metricsQuery, operationQuery, readyQuery } from "../api/queries";
import { ago, exact, number } from "../format";
import { useLive } from "../live";
import { Asked, Badge, Card, Head, Moment, Notice, Pairs, Table } from "../parts/ui";
import { mayAtLeast } from "../roles";
import { text } from "../text";

const words = text.operation;
/** Seconds without a word after which a node is missed: its shards go to the others by then. */
const MISSED_AFTER = 20;

interface Figure {
  name: string;
  labels: string;
  value: number;
}

/** Counters, gauges and the sums of histograms; their quantiles and buckets are for machines. */
function read(metrics: string): Figure[] {
  return metrics.split("\n").flatMap((line) => {
    const found = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found || !found[1]!.startsWith("pulsehook_") || /quantile=|le=/.test(found[2] ?? "")) return [];
    return [{ name: found[1]!, labels: (found[2] ?? "").replaceAll('"', "").replaceAll("=", " "), value: Number(found[3]) }];
  });
}

export function Operation() {
  const ready = useQuery(readyQuery);
  const metrics = useQuery(metricsQuery);
  const me = useQuery(meQuery);
  const sees = mayAtLeast(me.data?.role, "admin");
  const whole = useQuery({ ...operationQuery, enabled: sees });
  useLive(["ready"], ["metrics"], ["operation"]);
  const state = (good: boolean, yes: string, no: string) => <Badge tone={good ? "good" : "bad"}>{good ? yes : no}</Badge>;
  return (
    <>
      <Head title={words.title} lead={words.lead} />
      <div className="grid gap-6">
        {me.data && !sees && <Notice tone="plain">{words.adminOnly}</Notice>}
        {sees && <Asked query={whole}>{(told) => <Whole told={told} />}</Asked>}
        <Card title={words.here}>
          <Asked query={ready}>
            {(told) => (
              <Pairs
                rows={[
                  [words.ready, state(!!told?.ok, words.ready, words.notReady)],
                  [words.database, state(!!told?.database, words.answers, words.silent)],
                  [words.analytics, <span className="flex flex-wrap gap-x-2">{state(!!told?.analytics, words.answers, words.silent)}<span className="text-muted">{text.places.inUseShort[me.data?.analytics ?? ""]}</span></span>],
                  ...(me.data ? [[words.directory, words.directories[me.data.directory] ?? me.data.directory] as [string, string]] : []),
                  [words.stopping, told?.stopping ? words.yes : words.no],
                ]}
              />
            )}
          </Asked>
        </Card>
        <Card title={words.figures}>
          <Asked query={metrics}>
            {(told) => {
              if (told === null) return <p className="p-5 text-muted">{words.noMetrics}</p>;
              const figures = read(told).sort((one, other) => one.name.localeCompare(other.name));
              const [known, others] = [figures.filter(({ name }) => name in words.names), figures.filter(({ name }) => !(name in words.names))];
              return (
                <>
                  <Figures label={words.figures} figures={known} />
                  {others.length > 0 && (
                    <details className="border-t border-line">
                      <summary className="px-5 py-3 text-sm font-medium -outline-offset-2!">{words.others}</summary>
                      <div className="border-t border-line"><Figures label={words.others} figures={others} /></div>
                    </details>
                  )}
                </>
              );
            }}
          </Asked>
        </Card>
      </div>
    </>
  );
}

function Figures({ label, figures }: { label: string; figures: Figure[] }) {
  return (
    <Table
      label={label}
      scrolls
      items={figures}
      keyOf={({ name, labels }) => name + labels}
      columns={[
        { name: words.metric, className: "[overflow-wrap:anywhere]", of: ({ name, labels }) => <>{words.names[name] ?? <span className="font-mono text-xs">{name}</span>} <span className="text-muted">{words.labels[labels] ?? labels}</span></> },
        { name: words.value, className: "tabular-nums", of: ({ value }) => number(value) },
      ]}
    />
  );
}

/** All nodes, what they owe, and how far they are. */
function Whole({ told }: { told: Schemas["OperationAnswer"] }) {
  const { nodes, shards, queue, evaluation, traffic } = told;
  const due = queue.oldest_due_at;
  const looked = evaluation.looked_until;
  const figures: [string, string, string][] = [
    [words.queue, number(queue.deliveries), due ? (Date.parse(due) > Date.now() ? words.queueDue : words.queueLate)(ago(due)) : words.queueEmpty],
    [words.noticing, typeof evaluation.hits_behind === "number" ? number(evaluation.hits_behind) : looked ? ago(looked) : "–", typeof evaluation.hits_behind === "number" ? words.behind(evaluation.hits_behind, number(evaluation.hits_behind)) : looked ? words.lookedUntil(exact(looked)) : words.notLooked],
    [words.fresh, traffic.newest_at ? ago(traffic.newest_at) : "–", traffic.newest_at ? words.lastHour(number(traffic.hits_last_hour)) : words.noTraffic],
  ];
  return (
    <>
      <dl className="grid gap-3 sm:grid-cols-3">
        {figures.map(([name, value, more]) => (
          <div key={name} className="card px-5 py-4">
            <dt className="text-sm text-muted">{name}</dt>
            <dd className="mt-1"><span className="block text-2xl font-semibold tabular-nums">{value}</span><span className="block text-sm text-muted">{more}</span></dd>
          </div>
        ))}
      </dl>
      <Card title={words.nodes} lead={words.nodesLead(number(shards.held), number(shards.total))}>
        <Table
          label={words.nodes}
          items={nodes}
          keyOf={({ id }) => id}
          columns={[
            {
              name: words.seen,
              bare: true,
              className: "whitespace-nowrap",
              of: ({ unseen_seconds: unseen }) => {
                const alive = unseen < MISSED_AFTER;
                return <><Badge tone={alive ? "good" : "bad"}>{alive ? words.alive : words.missing}</Badge> <span className="ml-1 text-muted">{words.seenAgo(unseen)}</span></>;
              },
            },
            { name: words.shards, className: "tabular-nums", of: ({ shards }) => number(shards) },
            { name: words.roles, className: "sm:whitespace-nowrap", of: ({ roles }) => roles.join(", ") },
            { name: words.version, of: ({ version }) => version },
            { name: words.started, of: (node) => <Moment at={node.started_at} /> },
            { name: words.node, className: "font-mono text-xs", of: ({ id }) => id },
          ]}
        />
      </Card>
    </>
  );
}
