import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useParams } from "@tanstack/react-router";
import { gapsQuery, sitesQuery } from "../api/queries";
import { exact, number } from "../format";
import { useStream, visitorsKey } from "../live";
import { NotFound, Notice } from "../parts/ui";
import { text } from "../text";

const tab = "inline-flex min-h-10 items-center border-b-2 border-transparent text-sm sm:px-1 text-muted hover:text-ink";
const here = { className: "border-accent! font-medium text-ink!" };

/** What the pages of one site have in common: its name and its parts. */
export function SiteFrame() {
  const { site } = useParams({ from: "/shell/sites/$site" });
  const sites = useQuery(sitesQuery);
  useStream(site);
  const visitors = useQuery<number | null>({ queryKey: visitorsKey(site), queryFn: () => null, enabled: false });
  // One that was just added or renamed may not be in the list yet.
  const gone = sites.data && !sites.isFetching && !sites.data.some(({ id, domain }) => id === site || domain === site);
  const domain = sites.data?.find(({ id, domain }) => id === site || domain === site)?.domain ?? site;
  const parts = [
    ["/sites/$site/webhooks", text.nav.webhooks],
    ["/sites/$site/deliveries", text.nav.deliveries],
    ["/sites/$site/goals", text.nav.goals],
    ["/sites/$site/install", text.nav.install],
    ["/sites/$site/settings", text.nav.settings],
  ] as const;
  if (gone) return <NotFound />;
  return (
    <>
      <nav aria-label={text.nav.site} className="mb-7 border-b border-line">
        <p className="flex flex-wrap items-center gap-x-1.5 text-sm text-muted">
          <Link to="/sites" className="link">{text.nav.sites}</Link> / <span className="font-medium text-ink [overflow-wrap:anywhere]">{domain}</span>
          {typeof visitors.data === "number" && <span className="ml-auto tabular-nums">{text.sites.visitors(visitors.data, number(visitors.data))}</span>}
        </p>
        <div className="-mb-px flex justify-between overflow-x-auto sm:justify-start sm:gap-5">
          {parts.map(([to, name]) => (
            <Link key={to} to={to} params={{ site }} className={`${tab} whitespace-nowrap`} activeProps={here} activeOptions={{ includeSearch: false }}>{name}</Link>
          ))}
        </div>
      </nav>
      <Unseen site={site} />
      <Outlet />
    </>
  );
}

/** While nobody can look at the traffic: whoever wonders why nothing is told learns it on every page of the site. */
function Unseen({ site }: { site: string }) {
  const since = useQuery(gapsQuery(site)).data?.unknown_since;
  return (
    <div role="status" className="not-empty:mb-6">
      {since && <Notice tone="plain" title={text.gaps.unknown(exact(since))}><p>{text.gaps.unknownWhy}</p></Notice>}
    </div>
  );
}
