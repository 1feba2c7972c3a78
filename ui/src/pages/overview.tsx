import { useQueries, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { pulseQuery, sitesQuery, webhooksQuery } from "../api/queries";
import { number, percent, shortUrl } from "../format";
import { healthOf } from "../health";
import { useLive } from "../live";
import { Asked, Badge, ButtonLink, Card, Empty, Head, Notice } from "../parts/ui";
import { Writes } from "../parts/writes";
import { text } from "../text";

export function Overview() {
  const sites = useQuery(sitesQuery);
  const hooks = useQueries({ queries: (sites.data ?? []).map((site) => webhooksQuery(site.id)) });
  const known = (sites.data ?? []).flatMap((site, index) => (hooks[index]?.data ?? []).map((webhook) => ({ site, webhook })));
  const asked = useQueries({ queries: (sites.data ?? []).map((site) => pulseQuery(site.id)) });
  const pulses = new Map(asked.flatMap(({ data }) => [...(data ?? [])]));
  useLive(["webhooks"], ["pulse"]);

  const sum = (name: "deliveries" | "delivered" | "failed") => [...pulses.values()].reduce((sum, pulse) => sum + pulse[name], 0);
  const [all, good, bad] = [sum("deliveries"), sum("delivered"), sum("failed")];
  const unwell = known
    .flatMap((one) => {
      const pulse = pulses.get(one.webhook.id);
      return pulse ? [{ ...one, health: healthOf(one.webhook, pulse.last) }] : [];
    })
    .filter(({ health }) => health.rank < 4)
    .sort((one, other) => one.health.rank - other.health.rank);
  const figures = [
    [text.overview.sent, number(all)],
    [text.overview.delivered, good + bad === 0 ? "–" : percent(good, good + bad)],
    [text.overview.open, number(Math.max(0, all - good - bad))],
    [text.overview.failed, number(bad)],
  ] as const;

  return (
    <>
      <Head title={text.overview.title} lead={text.overview.lead} />
      <Asked query={sites}>
        {(list) =>
          list.length === 0 ? (
            <div className="card">
              <Empty title={text.overview.emptyTitle} icon="globe" action={<Writes><ButtonLink to="/start" look="main">{text.overview.start}</ButtonLink></Writes>}>{text.overview.empty}</Empty>
            </div>
          ) : (
            <div className="grid gap-6">
              <dl className="grid grid-cols-2 gap-3 lg:grid-cols-4">
                {figures.map(([name, value]) => (
                  <div key={name} className="card px-5 py-4">
                    <dt className="text-sm text-muted">{name}</dt>
                    <dd className="mt-1 text-2xl font-semibold tabular-nums">{value}</dd>
                  </div>
                ))}
              </dl>
              <Card title={text.overview.attention}>
                {unwell.length === 0 ? (
                  <div className="p-5">
                    {known.length ? (
                      <Notice tone="good">{text.overview.allWell}</Notice>
                    ) : (
                      <div className="flex flex-wrap items-center justify-between gap-3 text-muted">
                        {text.overview.noWebhooks}
                        <Writes><ButtonLink to="/sites/$site/webhooks/new" params={{ site: list[0]!.domain }} look="main" small icon="plus">{text.webhooks.add}</ButtonLink></Writes>
                      </div>
                    )}
                  </div>
                ) : (
                  <ul className="divide-y divide-line">
                    {unwell.map(({ site, webhook, health }) => (
                      <li key={webhook.id} className="grid gap-x-4 gap-y-1 px-5 py-3 sm:grid-cols-[7.5rem_minmax(0,1fr)] sm:items-start">
                        <span><Badge tone={health.tone}>{text.webhooks.health[health.word]}</Badge></span>
                        <div className="min-w-0 [overflow-wrap:anywhere]">
                          <Link to="/sites/$site/webhooks/$webhook" params={{ site: site.domain, webhook: webhook.id }} className="link font-medium">{webhook.name}</Link>
                          <span className="text-sm text-muted"> · {site.domain} · {shortUrl(webhook.url).host}</span>
                          <p className="text-sm text-muted">{health.why}</p>
                        </div>
                      </li>
                    ))}
                  </ul>
                )}
              </Card>
              <Card title={text.overview.sitesTitle} actions={<Writes own><ButtonLink to="/sites/new" small icon="plus">{text.sites.add}</ButtonLink></Writes>}>
                <ul className="divide-y divide-line">
                  {list.map((site, index) => (
                    <li key={site.id} className="flex flex-wrap items-center justify-between gap-x-4 px-5 py-3">
                      <Link to="/sites/$site/webhooks" params={{ site: site.domain }} className="link min-w-0 font-medium [overflow-wrap:anywhere]">{site.domain}</Link>
                      <span className="text-sm text-muted">{hooks[index]?.data ? text.overview.webhooks(hooks[index].data.length) : ""}</span>
                    </li>
                  ))}
                </ul>
              </Card>
            </div>
          )
        }
      </Asked>
    </>
  );
}
