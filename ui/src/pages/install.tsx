import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { useState } from "react";
import { home } from "../api/client";
import { sitesQuery, trafficQuery } from "../api/queries";
import { ago } from "../format";
import { useLive } from "../live";
import { Asked, ButtonLink, Card, Code, Head, Notice } from "../parts/ui";
import { Tabs } from "../parts/tabs";
import { text } from "../text";

type Way = keyof typeof text.install.ways;

const snippets = (domain: string): Record<Way, [string, string]> => ({
  npm: [
    text.install.npmHint,
    `// npm install @plausible-analytics/tracker
import { init } from "@plausible-analytics/tracker";

init({ domain: "${domain}", endpoint: "${home}/api/event" });`,
  ],
  tag: [
    text.install.tagHint,
    `// pulsehook.js, on every page: <script defer src="/pulsehook.js"></script>
const send = (name, props) =>
  fetch("${home}/api/event", {
    method: "POST",
    keepalive: true,
    headers: { "content-type": "text/plain" },
    body: JSON.stringify({ name, props, url: location.href, referrer: document.referrer, domain: "${domain}" }),
  });
send("pageview");
window.pulsehook = send; // pulsehook("Signup", { plan: "free" })`,
  ],
  log: [
    text.install.logHint,
    `pulsehook import access-log access.log.gz --site ${domain}`,
  ],
  curl: [
    text.install.curlHint,
    `curl ${home}/api/event \\
  -H 'content-type: application/json' \\
  -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' \\
  -H 'x-forwarded-for: 203.0.113.7' \\
  -d '{"name": "Signup", "url": "https://${domain}/", "domain": "${domain}"}'`,
  ],
});

export function Install() {
  const { site } = useParams({ from: "/shell/sites/$site/install" });
  const sites = useQuery(sitesQuery);
  const traffic = useQuery(trafficQuery(site));
  useLive(["traffic", site]);
  const [way, setWay] = useState<Way>("npm");
  const domain = sites.data?.find(({ id, domain }) => id === site || domain === site)?.domain ?? site;
  const [hint, code] = snippets(domain)[way];
  return (
    <>
      <Head title={text.install.title} lead={text.install.lead}>
        <ButtonLink to="/sites/$site/webhooks/new" params={{ site }} look="main" icon="plus">{text.install.next}</ButtonLink>
      </Head>
      <div className="grid gap-6">
        <Asked query={traffic} rows={1}>
          {({ first_event_at: first }) => (
            <Notice tone={first ? "good" : "plain"} role="status" title={first ? text.install.seen(ago(first)) : text.install.waiting}>
              {!first && <p>{text.install.waitingHint}</p>}
            </Notice>
          )}
        </Asked>
        <Card>
          <Tabs label={text.install.title} names={text.install.ways} chosen={way} onChoose={setWay}>
            <p className="mb-3 text-muted">{hint}</p>
            <Code label={text.install.ways[way]}>{code}</Code>
          </Tabs>
        </Card>
      </div>
    </>
  );
}
