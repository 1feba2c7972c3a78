import { useQuery } from "@tanstack/react-query";
import { metricsQuery, readyQuery } from "../api/queries";
import { number } from "../format";
import { useLive } from "../live";
import { Asked, Badge, Card, Head, Pairs, Table } from "../parts/ui";
import { text } from "../text";

const words = text.operation;

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
  useLive(["ready"], ["metrics"]);
  const state = (good: boolean, yes: string, no: string) => <Badge tone={good ? "good" : "bad"}>{good ? yes : no}</Badge>;
  return (
    <>
      <Head title={words.title} lead={words.lead} />
      <div className="grid gap-6">
        <div className="card">
          <Asked query={ready}>
            {(told) => (
              <Pairs
                rows={[
                  [words.ready, state(!!told?.ok, words.ready, words.notReady)],
                  [words.database, state(!!told?.database, words.answers, words.silent)],
                  [words.analytics, state(!!told?.analytics, words.answers, words.silent)],
                  [words.stopping, told?.stopping ? words.yes : words.no],
                ]}
              />
            )}
          </Asked>
        </div>
        <Card title={words.figures}>
          <Asked query={metrics}>
            {(told) => {
              if (told === null) return <p className="p-5 text-muted">{words.noMetrics}</p>;
              const known = (name: string) => Number(name in words.names);
              const figures = read(told).sort((one, other) => known(other.name) - known(one.name) || one.name.localeCompare(other.name));
              return (
                <Table label={words.figures} head={[words.metric, words.value]}>
                  {figures.map((figure) => (
                    <tr key={figure.name + figure.labels}>
                      <td className="px-5 py-2 [overflow-wrap:anywhere]">
                        {words.names[figure.name] ?? <span className="font-mono text-xs">{figure.name}</span>} <span className="text-muted">{figure.labels}</span>
                      </td>
                      <td className="px-5 py-2 tabular-nums">{number(figure.value)}</td>
                    </tr>
                  ))}
                </Table>
              );
            }}
          </Asked>
        </Card>
      </div>
    </>
  );
}
