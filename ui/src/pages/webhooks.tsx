import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { pulseQuery, webhooksQuery } from "../api/queries";
import { number, shortUrl } from "../format";
import { healthOf } from "../health";
import { useLive } from "../live";
import { Asked, Badge, ButtonLink, Code, Empty, Head, Moment } from "../parts/ui";
import { Writes } from "../parts/writes";
import { text } from "../text";

const words = text.webhooks;

export function Webhooks() {
  const { site } = useParams({ from: "/shell/sites/$site/webhooks" });
  const webhooks = useQuery(webhooksQuery(site));
  const pulses = useQuery(pulseQuery(site));
  useLive(["webhooks", site], ["pulse", site]);
  const add = <Writes><ButtonLink to="/sites/$site/webhooks/new" params={{ site }} look="main" icon="plus">{words.add}</ButtonLink></Writes>;
  return (
    <>
      <Head title={words.title} lead={words.lead}>{webhooks.data?.length ? add : null}</Head>
      <div className="card">
        <Asked query={webhooks}>
          {(list) =>
            list.length === 0 ? (
              <>
                <Empty title={words.emptyTitle} icon="hook" action={add}>{words.empty}</Empty>
                <div className="grid gap-2 border-t border-line p-5 text-sm text-muted">
                  <p>{words.emptyCli}</p>
                  <Code label={words.emptyCli}>pulsehook receive --tls --secret whsec_…</Code>
                </div>
              </>
            ) : (
              <>
                <div aria-hidden="true" className="hidden grid-cols-[minmax(0,2fr)_minmax(0,2fr)_8rem_7rem] gap-4 border-b border-line px-5 py-2.5 text-sm font-medium text-muted md:grid">
                  <span>{words.columns.name}</span>
                  <span>{words.columns.health}</span>
                  <span>{words.columns.last}</span>
                  <span>{words.columns.rate}</span>
                </div>
                <ul className="divide-y divide-line">
                  {list.map((webhook) => {
                    const pulse = pulses.data?.get(webhook.id);
                    const health = pulse && healthOf(webhook, pulse.last);
                    const { host, path } = shortUrl(webhook.url);
                    return (
                      <li key={webhook.id} className="grid gap-x-4 gap-y-2 px-5 py-4 md:grid-cols-[minmax(0,2fr)_minmax(0,2fr)_8rem_7rem] md:items-start">
                        <div className="min-w-0 [overflow-wrap:anywhere]">
                          <Link to="/sites/$site/webhooks/$webhook" params={{ site, webhook: webhook.id }} className="link font-medium">{webhook.name}</Link>
                          <p className="text-sm"><span>{host}</span><span className="text-muted">{path}</span></p>
                        </div>
                        <div className="min-h-6 min-w-0">
                          {health ? (
                            <>
                              <Badge tone={health.tone}>{words.health[health.word]}</Badge>
                              {/* The columns beside it say when the last one was, or that there was none. */}
                              {health.word !== "healthy" && health.word !== "unused" && <p className="mt-1 text-sm text-muted [overflow-wrap:anywhere]">{health.why}</p>}
                            </>
                          ) : (
                            <span role="status" aria-label={text.common.loading} className="block h-6 w-28 animate-pulse rounded-full bg-line/70" />
                          )}
                        </div>
                        <p className="text-sm max-md:text-muted"><span className="md:sr-only">{words.columns.last}: </span>{pulse && (pulse.last ? <Moment at={pulse.last.updated_at} /> : text.common.never)}</p>
                        <p className={`text-sm tabular-nums max-md:-mt-1.5 max-md:text-muted ${pulse && pulse.delivered + pulse.failed > 0 ? "" : "max-md:hidden"}`}><span className="md:sr-only">{words.columns.rate}: </span>{pulse && (pulse.delivered + pulse.failed > 0 ? words.ofTwentyFour(number(pulse.delivered), number(pulse.delivered + pulse.failed)) : "–")}</p>
                      </li>
                    );
                  })}
                </ul>
              </>
            )
          }
        </Asked>
      </div>
    </>
  );
}
