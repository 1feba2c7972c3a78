import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { gapsQuery, meQuery, sitesQuery } from "../api/queries";
import { exact, lasting, zone } from "../format";
import { Places } from "../parts/places";
import { ButtonLink, Card, Head } from "../parts/ui";
import { Traffic, Ways } from "../parts/ways";
import { Writes } from "../parts/writes";
import { text } from "../text";

const words = text.gaps;

export function Install() {
  const { site } = useParams({ from: "/shell/sites/$site/install" });
  const me = useQuery(meQuery);
  const sites = useQuery(sitesQuery);
  const domain = sites.data?.find(({ id, domain }) => id === site || domain === site)?.domain ?? site;
  return (
    <>
      <Head title={me.data?.directory === "plausible" ? text.nav.install : text.install.title} lead={me.data?.directory === "plausible" ? undefined : text.install.lead}>
        <Writes><ButtonLink to="/sites/$site/webhooks/new" params={{ site }} look="main" icon="plus">{text.install.next}</ButtonLink></Writes>
      </Head>
      <div className="grid gap-6">
        <Traffic site={site} />
        <Ways domain={domain} />
        <Places />
        <Gaps site={site} />
      </div>
    </>
  );
}

function Gaps({ site }: { site: string }) {
  const gaps = useQuery(gapsQuery(site)).data?.gaps ?? [];
  if (gaps.length === 0) return null;
  const seconds = ({ from, until }: (typeof gaps)[number]) => (Date.parse(until) - Date.parse(from)) / 1_000;
  return (
    <Card title={words.title} lead={`${words.lead} ${text.common.zone(zone)}`}>
      <ul className="max-h-72 divide-y divide-line overflow-y-auto text-sm" tabIndex={0} aria-label={words.title}>
        {gaps.map((gap) => (
          <li key={gap.from} className="flex flex-wrap items-baseline justify-between gap-x-4 px-5 py-2.5">
            <span><time dateTime={gap.from}>{exact(gap.from)}</time> {words.to} <time dateTime={gap.until}>{exact(gap.until)}</time></span>
            <span className="text-muted tabular-nums">{lasting(seconds(gap))}</span>
          </li>
        ))}
      </ul>
    </Card>
  );
}
