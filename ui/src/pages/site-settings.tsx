import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, answer, type Site } from "../api/client";
import { meQuery, sitesQuery } from "../api/queries";
import { useForm } from "../parts/form";
import { tell } from "../parts/toast";
import { Asked, Button, Card, Confirm, Head, NotFound, ProblemNotice, TextField } from "../parts/ui";
import { useMay } from "../parts/writes";
import { text } from "../text";
import { ZoneField } from "./sites";

export function SiteSettings() {
  const { site } = useParams({ from: "/shell/sites/$site/settings" });
  const sites = useQuery(sitesQuery);
  const mirrored = useQuery(meQuery).data?.directory === "plausible";
  return (
    <div className="max-w-2xl">
      <Head title={text.siteSettings.title} lead={mirrored ? text.siteSettings.mirrored : undefined} />
      <Asked query={sites}>
        {(list) => {
          const found = list.find(({ id, domain }) => id === site || domain === site);
          return found ? <Forms key={found.id} site={found} fixed={mirrored} /> : <NotFound />;
        }}
      </Asked>
    </div>
  );
}

function Forms({ site, fixed: mirrored }: { site: Site; fixed: boolean }) {
  const fixed = !useMay("editor") || mirrored;
  const client = useQueryClient();
  const navigate = useNavigate();
  const [domain, setDomain] = useState(site.domain);
  const [timezone, setTimezone] = useState(site.timezone);
  const [deleting, setDeleting] = useState(false);
  const params = { path: { site: site.id } };
  const form = useForm(async () => {
    const changed = await answer(api.PATCH("/api/sites/{site}", { params, body: { domain, timezone } }));
    await client.invalidateQueries({ queryKey: ["sites"] });
    tell(text.siteSettings.saved);
    await navigate({ to: "/sites/$site/settings", params: { site: changed.site.domain }, replace: true });
  });
  const remove = async () => {
    await answer(api.DELETE("/api/sites/{site}", { params }));
    await navigate({ to: "/sites" });
    await client.invalidateQueries();
  };
  return (
    <div className="grid gap-6">
      <form onSubmit={form.submit} className="card grid gap-5 p-5">
        <ProblemNotice problem={form.rest} />
        <TextField label={text.sites.domain} hint={text.sites.domainHint} errors={form.errors["domain"]} value={domain} onChange={(event) => setDomain(event.target.value)} required spellCheck={false} readOnly={fixed} />
        <ZoneField value={timezone} onChange={setTimezone} errors={form.errors["timezone"]} readOnly={fixed} />
        {!fixed && <div className="flex justify-end"><Button type="submit" look="main" busy={form.busy}>{text.common.save}</Button></div>}
      </form>
      {!fixed && <Card title={text.siteSettings.deleteTitle}>
        <div className="flex flex-wrap items-center justify-between gap-4 px-5 py-4">
          <p className="max-w-md text-sm text-muted">{text.siteSettings.deleteWhy}</p>
          <Button look="danger" icon="trash" onClick={() => setDeleting(true)}>{text.siteSettings.deleteButton}</Button>
        </div>
      </Card>}
      <Confirm open={deleting} title={text.siteSettings.deleteTitle} yes={text.common.delete} danger word={site.domain} onYes={remove} onClose={() => setDeleting(false)}>
        {text.siteSettings.deleteWhy}
      </Confirm>
    </div>
  );
}
