import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer } from "../api/client";
import { sitesQuery } from "../api/queries";
import { ago, zone as here } from "../format";
import { useForm } from "../parts/form";
import { Asked, Button, ButtonLink, Code, Empty, Head, ProblemNotice, TextField } from "../parts/ui";
import { ViewerNotice, Writes } from "../parts/writes";
import { text } from "../text";

export function Sites() {
  const sites = useQuery(sitesQuery);
  const add = <Writes own><ButtonLink to="/sites/new" look="main" icon="plus">{text.sites.add}</ButtonLink></Writes>;
  return (
    <>
      <Head title={text.sites.title} lead={text.sites.lead}>
        {sites.data?.length ? add : null}
      </Head>
      <div className="card">
        <Asked query={sites}>
          {(list) =>
            list.length === 0 ? (
              <Empty title={text.sites.emptyTitle} icon="globe" action={add}>{text.sites.empty}</Empty>
            ) : (
              <ul className="divide-y divide-line">
                {list.map((site) => (
                  <li key={site.id} className="flex flex-wrap items-center justify-between gap-x-6 px-5 py-4">
                    <Link to="/sites/$site/webhooks" params={{ site: site.domain }} className="link min-w-0 font-medium [overflow-wrap:anywhere]">{site.domain}</Link>
                    <span className="text-sm text-muted">{site.timezone} · {text.sites.since(ago(site.inserted_at))}</span>
                  </li>
                ))}
              </ul>
            )
          }
        </Asked>
      </div>
    </>
  );
}

/** The zones this browser knows. */
export const ZONES = [...new Set(["Etc/UTC", here, ...Intl.supportedValuesOf("timeZone")])];

export function ZoneField({ value, onChange, errors, readOnly }: { value: string; onChange: (zone: string) => void; errors: string[] | undefined; readOnly?: boolean }) {
  return (
    <>
      <TextField label={text.sites.zone} hint={text.sites.zoneHint} errors={errors} value={value} onChange={(event) => onChange(event.target.value)} list="zones" required autoComplete="off" readOnly={readOnly} />
      <datalist id="zones">{ZONES.map((zone) => <option key={zone} value={zone} />)}</datalist>
    </>
  );
}

export function NewSite() {
  return (
    <div className="max-w-xl">
      <Head title={text.sites.newTitle} above={<Link to="/sites" className="link">{text.nav.sites}</Link>} />
      <Writes own instead={<ViewerNotice />}><NewSiteForm /></Writes>
    </div>
  );
}

function NewSiteForm() {
  const client = useQueryClient();
  const navigate = useNavigate();
  const [domain, setDomain] = useState("");
  const [timezone, setTimezone] = useState(here);
  const form = useForm(async () => {
    const { site } = await answer(api.POST("/api/sites", { body: { domain, timezone } }));
    await client.invalidateQueries({ queryKey: ["sites"] });
    await navigate({ to: "/sites/$site/install", params: { site: site.domain } });
  });
  return (
    <>
      <form onSubmit={form.submit} className="card grid gap-5 p-5">
        <ProblemNotice problem={form.rest} />
        <TextField label={text.sites.domain} hint={text.sites.domainHint} errors={form.errors["domain"]} value={domain} onChange={(event) => setDomain(event.target.value)} required autoFocus autoComplete="off" spellCheck={false} />
        <ZoneField value={timezone} onChange={setTimezone} errors={form.errors["timezone"]} />
        <div className="flex justify-end gap-2">
          <ButtonLink to="/sites">{text.common.cancel}</ButtonLink>
          <Button type="submit" look="main" busy={form.busy}>{text.sites.add}</Button>
        </div>
      </form>
      <div className="mt-6 grid gap-2 text-sm text-muted">
        <p>{text.sites.cli}</p>
        <Code label={text.sites.cli}>{`pulsehook sites create ${domain || "example.com"} --timezone ${timezone}`}</Code>
      </div>
    </>
  );
}
