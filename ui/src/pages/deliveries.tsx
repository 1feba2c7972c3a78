import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { webhooksQuery } from "../api/queries";
import { useLive } from "../live";
import { Deliveries } from "../parts/deliveries";
import { Head } from "../parts/ui";
import { text } from "../text";

/** What happened on a site, whichever webhook was told. */
export function DeliveriesPage() {
  const { site } = useParams({ from: "/shell/sites/$site/deliveries" });
  const filter = useSearch({ from: "/shell/sites/$site/deliveries" });
  const navigate = useNavigate({ from: "/sites/$site/deliveries" });
  const webhooks = useQuery(webhooksQuery(site));
  useLive(["fresh", site]);
  return (
    <>
      <Head title={text.deliveries.title} lead={text.deliveries.siteLead} />
      <Deliveries site={site} webhooks={webhooks.data} filter={filter} onFilter={(search) => void navigate({ search, resetScroll: false, replace: true })} />
    </>
  );
}
