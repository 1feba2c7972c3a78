import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { meQuery, sitesQuery } from "../api/queries";
import { ButtonLink, Head } from "../parts/ui";
import { Traffic, Ways } from "../parts/ways";
import { text } from "../text";

export function Install() {
  const { site } = useParams({ from: "/shell/sites/$site/install" });
  const me = useQuery(meQuery);
  const sites = useQuery(sitesQuery);
  const domain = sites.data?.find(({ id, domain }) => id === site || domain === site)?.domain ?? site;
  return (
    <>
      <Head title={text.install.title} lead={me.data?.directory === "plausible" ? undefined : text.install.lead}>
        <ButtonLink to="/sites/$site/webhooks/new" params={{ site }} look="main" icon="plus">{text.install.next}</ButtonLink>
      </Head>
      <div className="grid gap-6">
        <Traffic site={site} />
        <Ways domain={domain} />
      </div>
    </>
  );
}
